"""A hook that calibrates models with the `-auto` suffix, and warns where merging does not pay."""

import copy
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, autocast
from torch import Tensor, nn

from mmseg_tome.files import replacing
from mmseg_tome.registry import HOOKS
from mmseg_tome.runtime.calibration import (
    Calibration,
    advise,
    calibrate,
    first_input,
    kind_of,
    obey,
    with_what_fits,
)
from mmseg_tome.runtime.merging_switch import merges, merging_backbone, merging_of

FILE = "auto_merging.json"
"""Keeps decisions in a run's work directory."""
META = "auto_merging"
"""Keeps them in a checkpoint's `meta`."""


@HOOKS.register_module()
class AutoMergingHook(Hook):
    """Decide for a model with `tome_cfg="<preset>-auto"` which of its stages merge.

    That happens right before the first iteration of a test, a validation or a training, by timing
    a block of each stage on what the first batch gives the backbone: windows, flipped images, crops
    in the run's batch, data type and launch. Process 0 decides for all. Decisions are logged and
    kept in `auto_merging.json` in the work directory and in checkpoints: a run of the same kind, or
    a resumed one, repeats them. Validations within a training do as the training does.

    Any other model that merges is timed on a GPU as well, and the log warns if no merging were
    faster. Nothing changes by that.

    Args:
        advise: Whether to warn.
    """

    # Before hooks that watch the blocks at work.
    priority = "HIGH"

    def __init__(self, advise: bool = True):
        self.advise = advise
        self._done = False
        self._decisions: list[Calibration] = []
        self._resumed: list[Calibration] = []

    def before_run(self, runner: Runner) -> None:
        """Decide anew: a test after a training is another kind of run."""
        self._done = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over what the training that is resumed decided."""
        if getattr(runner, "_resume", False):
            meta = checkpoint.get("meta") or {}
            self._resumed = list(_read(meta.get(META), "the checkpoint"))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the decisions with the weights."""
        if self._decisions:
            checkpoint["meta"][META] = [decision.as_plain() for decision in self._decisions]

    def before_val_epoch(self, runner: Runner) -> None:
        """Meet the other processes, if this one has no sample."""
        self._join(runner, runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        """Meet the other processes, if this one has no sample."""
        self._join(runner, runner.test_dataloader)

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch=None, mode="train") -> None:
        if not self._done:
            self._done = True
            self._prepare(runner, data_batch, mode)

    def _join(self, runner: Runner, dataloader) -> None:
        backbone = merging_backbone(runner.model)
        if not self._done and backbone is not None and backbone.auto and not len(dataloader):
            self._done = True
            self._agree(runner, None)

    def _prepare(self, runner: Runner, data_batch, mode: str) -> None:
        model, training = runner.model, mode == "train"
        backbone = merging_backbone(model)
        if backbone is None:
            return
        if backbone.auto:
            decision = None
            if runner.rank == 0:
                images = _images(model, data_batch, training)
                decision = self._decide(runner, images, mode)
            self._agree(runner, decision)
        elif self._may_advise(runner, backbone):
            images = _images(model, data_batch, training)
            with _precision(runner, mode):
                advice = images is not None and with_what_fits(
                    lambda some: advise(model, some, training=training), images
                )
            if advice and advice.warning:
                print_log(advice.warning, "current", logging.WARNING)

    def _may_advise(self, runner: Runner, backbone: nn.Module) -> bool:
        if not self.advise or runner.rank != 0 or not next(backbone.parameters()).is_cuda:
            return False
        return any(map(merges, merging_of(backbone)))

    def _decide(self, runner: Runner, images: Tensor | None, mode: str) -> Calibration | None:
        """A decision for this kind of run: an earlier one, or by timing."""
        if images is None:
            return None
        model, training = runner.model, mode == "train"
        path = Path(runner.work_dir) / FILE
        stored = list(_read_file(path))
        with _precision(runner, mode):
            kind = kind_of(model, images, training)
            for place, known in (("the checkpoint", self._resumed), (str(path), stored)):
                for decision in known:
                    if decision.kind == kind:
                        print_log(f"{decision}; decided before, in {place}", "current")
                        return decision
            decision = with_what_fits(lambda some: calibrate(model, some, training), images)
        _write_file(path, [*stored, decision])
        return decision

    def _agree(self, runner: Runner, decision: Calibration | None) -> None:
        """Let all processes merge as process 0 decided."""
        found = [decision]
        broadcast_object_list(found)
        (decision,) = found
        if decision is not None:
            obey(runner.model, decision)
            others = [known for known in self._decisions if known.kind != decision.kind]
            self._decisions = [*others, decision]


def _images(model: nn.Module, data_batch, training: bool) -> Tensor | None:
    """What the backbone gets first of a batch, which stays as it is."""
    while is_model_wrapper(model):
        model = model.module
    batch = copy.deepcopy(data_batch)

    def run() -> None:
        if training:
            model._run_forward(model.data_preprocessor(batch, True), mode="loss")
        else:
            type(model).test_step(model, batch)  # the one of a model that is compiled, uncompiled

    return first_input(model, run)


def _precision(runner: Runner, mode: str):
    """The autocast that a step of the run has."""
    if mode == "train":
        wrapper = runner.optim_wrapper
        plain = isinstance(wrapper, OptimWrapper)
        return wrapper.optim_context(runner.model) if plain else nullcontext()
    loop = runner.val_loop if mode == "val" else runner.test_loop
    return autocast(enabled=getattr(loop, "fp16", False))


def _read(plain: object, place: str) -> Iterator[Calibration]:
    """Decisions from plain values; invalid ones are left out, and the log says so."""
    if plain is None:
        return
    for entry in plain if isinstance(plain, Iterable) else [plain]:
        try:
            yield Calibration.from_plain(entry)
        except ValueError as error:
            print_log(f"{place}: {error}", "current", logging.WARNING)


def _read_file(path: Path) -> Iterator[Calibration]:
    try:
        plain = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        print_log(f"{path} cannot be read: {error}", "current", logging.WARNING)
        return
    yield from _read(plain, str(path))


def _write_file(path: Path, decisions: list[Calibration]) -> None:
    text = json.dumps([decision.as_plain() for decision in decisions], indent=2)
    with replacing(path) as temporary:
        temporary.write_text(f"{text}\n")
