"""Checkpoints of a training: looked at before they go into the model, written whole or not at all.

mmengine writes a checkpoint under its final name, and with `max_keep_ckpts` removes the last one
before that: a training that is killed meanwhile leaves half a file, or none.
"""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.model import PretrainedInit, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmseg_tome.checkpoints.fitting import fitting_state, holding, mismatch, wanted
from mmseg_tome.checkpoints.loading import load, trusts_checkpoints
from mmseg_tome.errors import CheckpointError
from mmseg_tome.files import replacing
from mmseg_tome.hooks.optimizer import adapt_optimizer_state
from mmseg_tome.registry import HOOKS


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuse checkpoints that do not fit the model, and never run a checkpoint's config.

    mmengine loads what fits and only warns about the rest, so that a checkpoint of another data
    set or model is tested with random weights. Testing and resuming must fit in full; training
    may start from weights that fit in part (fine-tuning on other classes), which is logged.

    mmengine also executes, as Python, the config text that a resumed checkpoint carries, to
    compare a number of GPUs. That text is removed first.

    The optimizer's state that training resumes from is brought to the groups of this run.

    Pretrained weights of a part, a backbone's as a rule, are not downloaded where the checkpoint
    that training starts from holds all of the part.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Mark parts that `load_from` replaces as initialised: mmengine does so after this.

        Raises:
            CheckpointError: `load_from` cannot be read, or has no weights.
        """
        model = _plain(runner.model)
        parts = {name: part for name, part in model.named_modules() if _is_pretrained(part)}
        file = runner._load_from
        if not (file and parts and isinstance(runner._train_loop, BaseLoop)):
            return
        state = fitting_state(model, load(file), file)
        for name, part in parts.items():
            prefix = f"{name}." if name else ""
            own = {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}
            if not mismatch(part, own):
                part.is_init = True

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check `checkpoint` against the runner's model, and its optimizer if training resumes.

        Raises:
            CheckpointError: It does not fit and is to be tested or resumed.
        """
        if not trusts_checkpoints() and isinstance(checkpoint.get("meta"), dict):
            checkpoint["meta"].pop("config", None)
        model = _plain(runner.model)
        file = runner._load_from or "the latest checkpoint"
        state = fitting_state(model, checkpoint, file)
        if state is not checkpoint:
            checkpoint["state_dict"] = state
        problem = mismatch(model, state)
        training = isinstance(runner._train_loop, BaseLoop)
        some_fit = any(name in state for name in wanted(model))
        if problem and training and not runner._resume and some_fit:
            runner.logger.warning(f"{file} fits the model in part: {problem}")
        elif problem:
            end = holding(state, file)
            raise CheckpointError(f"{file} does not fit the model: {problem}{end}")
        elif training and runner._resume:
            try:
                adapt_optimizer_state(checkpoint, runner.optim_wrapper)
            except CheckpointError as error:
                raise CheckpointError(f"{file} cannot be resumed: {error}") from None


def _plain(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _is_pretrained(part: nn.Module) -> bool:
    """Whether mmengine initialises a part of a model from a checkpoint of its own."""
    cfgs = getattr(part, "init_cfg", None) or ()
    cfgs = [cfgs] if isinstance(cfgs, dict) else cfgs
    return any(cfg.get("type") in ("Pretrained", PretrainedInit) for cfg in cfgs)


class WholeFilesBackend(LocalBackend):
    """mmengine's local files, each of which takes its name when it is complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file.

        Raises:
            UserError: It cannot be written.
        """
        with replacing(Path(filepath)) as temporary:
            temporary.write_bytes(obj)


def install_whole_files() -> None:
    """Let mmengine write local files through `WholeFilesBackend`."""
    register_backend("local", WholeFilesBackend, force=True, prefixes="")


@HOOKS.register_module()
class SaveFirstCheckpointHook(CheckpointHook):
    """mmengine's, which removes what is outdated after a new checkpoint is there, not before."""

    def _save_checkpoint_with_step(self, runner, step, meta):
        keep, outdated = self.max_keep_ckpts, []
        if keep > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            kept = [*self.keep_ckpt_ids, step]
            outdated, kept = kept[:-keep], kept[-keep:]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept)
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self.max_keep_ckpts = -1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.max_keep_ckpts = keep
        for old in outdated if is_main_process() else ():
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):  # as DeepSpeed saves them
                self.file_backend.rmtree(path)
