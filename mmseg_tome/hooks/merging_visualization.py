"""A hook that shows what merges while a model trains or is tested."""

from collections.abc import Sequence
from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmseg_tome.errors import UserError
from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.acceleration import unwrap
from mmseg_tome.visualization.capture import Pass, record_passes
from mmseg_tome.visualization.stage_maps import (
    Selection,
    network_image,
    read_stages,
    stage_picture,
)


@HOOKS.register_module()
class MergingVisualizationHook(Hook):
    """Log how many tokens each stage keeps, and a picture of what merges in a batch's first image.

    Of the first and every `interval`-th batch, of training, validation and test. To all of the
    visualizer's backends go, for every stage that merges queries (`q`) or keys and values (`kv`),

    - the scalar `merging/stage3_q_kept`, 0 to 1: tokens kept of those that entered;
    - the image `merging_stage3_q`: groups of merged tokens in their mean colours, and where tokens
      are kept apart: 1 over the size of a token's group, averaged over the stage's blocks;

    and the image itself, `merging_image`, as the network got it: augmented, and for pose a person.
    Validation's and test's are `merging/val/...` and `merging_val_...`. Other batches run as
    without this hook, these without CUDA graphs. `--show-merging` of our tools switches it on.

    Args:
        enabled: The switch.
        interval: Batches from one that is logged to the next.
        block: Whose groups are drawn: "first", "last" or a number from 1.
        stages: Which stages to log, from 1; None for all that merge.
        longest: Longest side of the images in pixels; they hold two of it side by side.

    Raises:
        UserError: The backbone cannot merge, or has no such stage or block (as a run begins).
        ValueError: `interval` is below 1.
    """

    def __init__(
        self,
        enabled: bool = True,
        interval: int = 500,
        block: int | str = "last",
        stages: Sequence[int] | None = None,
        longest: int = 1024,
    ):
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        self.enabled = enabled
        self.interval = interval
        self.selection = Selection(block, stages)
        self.longest = longest
        self._recording: ExitStack | None = None
        self._passes: list[Pass] = []
        self._warned: set[str] = set()

    def before_run(self, runner: Runner) -> None:
        """Refuse a model that this hook cannot look into."""
        if not self.enabled:
            return
        model = unwrap(runner.model)
        try:
            self.selection.check(getattr(model, "backbone", model))
        except ValueError as error:
            raise UserError(f"MergingVisualizationHook: {error}") from None

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch=None, mode="train") -> None:
        self._stop()
        count = runner.iter if mode == "train" else batch_idx
        if self.enabled and runner.rank == 0 and count % self.interval == 0:
            self._recording = ExitStack()
            self._passes = self._recording.enter_context(record_passes(unwrap(runner.model)))

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None, mode="train"
    ) -> None:
        passes = self._stop()
        if passes:
            # As mmengine's own hooks count.
            step = runner.iter + (1 if mode == "train" else batch_idx)
            self._log(runner, passes, "" if mode == "train" else mode, step)

    def after_run(self, runner: Runner) -> None:
        self._stop()

    def _stop(self) -> list[Pass]:
        """End a recording, if one is on; what it recorded."""
        passes, self._passes = self._passes, []
        if self._recording is not None:
            self._recording.close()
            self._recording = None
        return passes

    def _log(self, runner: Runner, passes: list[Pass], mode: str, step: int) -> None:
        if not passes[0].slots:
            self._warn_once(
                "its blocks did not run one by one: a compiled backbone cannot be looked into"
            )
            return
        maps = read_stages(passes, 0, self.selection)
        if not maps:
            self._warn_once("nothing merges: see tome_cfg, and the size of the images")
            return
        parts = ["merging", mode] if mode else ["merging"]
        kept = {"/".join([*parts, f"{each.label}_kept"]): each.kept / each.total for each in maps}
        runner.visualizer.add_scalars(kept, step=step)
        image = network_image(passes, 0, unwrap(runner.model).data_preprocessor)
        pictures = {each.label: stage_picture(each, image, self.longest) for each in maps}
        for label, picture in dict(image=image, **pictures).items():
            # No slash: the local backend takes the name for a file's.
            runner.visualizer.add_image("_".join([*parts, label]), picture, step=step)

    def _warn_once(self, reason: str) -> None:
        if reason not in self._warned:
            self._warned.add(reason)
            print_log(f"MergingVisualizationHook has nothing to log: {reason}", "current", 30)
