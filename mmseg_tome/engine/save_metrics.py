"""A hook that writes a test's metrics where the user wants them."""

import mmengine
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_tome.registry import HOOKS


@HOOKS.register_module()
class SaveMetricsHook(Hook):
    """Write the metrics of a test to a file.

    Args:
        path: The file; its ending (.json, .yaml, .pkl) says how.
    """

    priority = "LOWEST"

    def __init__(self, path: str):
        self.path = path

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write `metrics`, once per job."""
        if metrics is not None and runner.rank == 0:
            mmengine.dump(metrics, self.path)
