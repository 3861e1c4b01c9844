"""From a table and the command line to rows of steps: which commands run, in which order."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

from mmseg_tome.config import TRUST_FLAG, add_cfg_options, read_config
from mmseg_tome.errors import UserError
from mmseg_tome.files import CONFIGS, TOOLS
from mmseg_tome.lab.output import digest, write_json

from . import requirements
from .requirements import Requirement
from .tables import Published, Table

RUNNING, DONE, FAILED = "running", "done", "failed"
STATE = "state.json"
SPLITS = ("train", "val", "test")

Records = dict[str, dict]
"""Of a row: for each step that was ever begun its status, the fingerprint of what ran, and its
results."""


@dataclass(frozen=True)
class Settings:
    """What all rows share: options of `tools/reproduce.py`, which says what they mean."""

    work_dir: Path
    data_root: Path | None = None
    checkpoint: str | None = None
    device: str = "cpu"
    gpus: int = 1
    peer: bool = True
    trust_checkpoint: bool = False
    cfg_options: tuple[str, ...] = ()
    benchmark_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One command of a row: "train", "test" or "speed"."""

    name: str
    command: tuple[str, ...]  # begins with "python" or a script
    folder: Path  # where it leaves its files
    fingerprint: str  # changes with the command, the config's content, and the checkpoint
    needs: tuple[Requirement, ...] = ()  # what must be there before
    written: tuple[Path, Config] | None = None  # a config that it reads, to be written first
    makes: Path | None = None  # the checkpoint that it must leave, if it is a training

    @property
    def log(self) -> Path:
        """What the command printed, in all attempts."""
        return self.folder.with_suffix(".log")

    def text(self) -> str:
        """The command, ready to paste in the current folder."""
        return shlex.join(self.command).replace(f"{Path.cwd()}/", "")


@dataclass
class Row:
    """A row of the table with what is known of it."""

    name: str
    published: Published
    folder: Path
    steps: tuple[Step, ...]
    records: Records = field(default_factory=dict)

    def record(self, step: Step) -> dict | None:
        """What is known of a step, unless that belongs to another command or checkpoint."""
        record = self.records.get(step.name)
        return record if record and record["fingerprint"] == step.fingerprint else None

    def is_done(self, step: Step) -> bool:
        return (self.record(step) or {}).get("status") == DONE

    def save(self) -> None:
        """Replace the row's state as a whole.

        Raises:
            UserError: The file cannot be written.
        """
        write_json(self.folder / STATE, self.records, 2)

    def has_changed(self, step: Step) -> bool:
        """Whether the step ran with another command or checkpoint."""
        return step.name in self.records and self.record(step) is None


def make(table: Table, settings: Settings) -> list[Row]:
    """All rows of a table, with the state that earlier runs left.

    Raises:
        UserError: An option does not fit the configs, or a state cannot be read.
    """
    requirements.forget()
    builders = {name: _Builder(table, name, settings) for name in table.rows}
    return [
        Row(name, table.rows[name], b.folder, tuple(b.steps()), read_records(b.folder))
        for name, b in builders.items()
    ]


def needs_of(rows: list[Row], steps: Sequence[str]) -> list[Requirement]:
    """What the named steps that are not done need, each thing once."""
    pending = [s for row in rows for s in row.steps if s.name in steps and not row.is_done(s)]
    return list(dict.fromkeys(needed for step in pending for needed in step.needs))


def refresh(rows: list[Row]) -> None:
    """Read the rows' states anew: other processes may be running other rows."""
    for row in rows:
        row.records = read_records(row.folder)


def read_records(folder: Path) -> Records:
    """The records of the row in `folder`; none if it was never begun.

    Raises:
        UserError: The file there is no such state.
    """
    path = folder / STATE
    if not path.exists():
        return {}
    try:
        records = json.loads(path.read_text())
        known = all({"status", "fingerprint"} <= set(record) for record in records.values())
    except (OSError, ValueError, AttributeError, TypeError):
        known = False
    if not known:
        raise UserError(f"cannot read the row's state in {path}: mend the file or remove it")
    return records


class _Builder:
    """Builds the steps of one row."""

    def __init__(self, table: Table, name: str, settings: Settings) -> None:
        self.table, self.settings = table, settings
        self.config = CONFIGS / table.config.format(row=name)
        self.folder = settings.work_dir / name
        self.options = _options(table, settings)
        self.cfg = _effective(self.config, self.options, settings)
        self.batch = self.cfg.train_dataloader.batch_size  # of all processes together
        if table.trains and settings.gpus > 1:
            if any(text.startswith(f"{_BATCH}=") for text in settings.cfg_options):
                self.batch *= settings.gpus  # the user's is that of each process
            else:
                each = _batch_of_each(self.batch, settings.gpus)
                self.options = (each, *self.options)
                self.cfg = _effective(self.config, self.options, settings)

    def steps(self) -> Iterator[Step]:
        """All steps of the row."""
        training = self._train() if self.table.trains else None
        if training:
            yield training
        yield self._test(training)
        yield self._speed()

    def _train(self) -> Step:
        """Training, which goes on from its latest checkpoint if there is one."""
        needs = requirements.data_of(self.cfg, ("train", "val"), self.table.data)
        initial = (self.cfg.model.backbone.get("init_cfg") or {}).get("checkpoint")
        if initial:
            needs.append(requirements.checkpoint(initial))
        step = self._standard("train", (), "--resume", requirements.identity(initial or ""), needs)
        return replace(step, makes=step.folder / _last_checkpoint(self.cfg))

    def _test(self, training: Step | None) -> Step:
        """The test of what `training` makes, else of the unmerged model's weights.

        Raises:
            UserError: There are no such weights.
        """
        needs = requirements.data_of(self.cfg, ("test",), self.table.data)
        if training:
            checkpoint, identity = str(training.makes), training.fingerprint
        else:
            checkpoint = self.settings.checkpoint or self.cfg.get("load_from")
            if not checkpoint:
                raise UserError(f"{self.config.name} has no load_from: give --checkpoint")
            identity = requirements.identity(checkpoint)
            needs.append(requirements.checkpoint(checkpoint))
        return self._standard("test", (checkpoint,), "", identity, needs)

    def _standard(
        self, name: str, weights: tuple[str, ...], switch: str, identity: str, needs: list
    ) -> Step:
        """A step of a standard tool, in one process or in several."""
        settings, work_dir = self.settings, self.folder / name
        if settings.gpus == 1:
            command = ["python", str(TOOLS / f"{name}.py"), str(self.config), *weights]
        else:
            tool = str(TOOLS / f"dist_{name}.sh")
            command = [tool, str(self.config), *weights, str(settings.gpus)]
        command += [switch] if switch else []
        command += ["--work-dir", str(work_dir)]
        command += [TRUST_FLAG] if settings.trust_checkpoint else []
        command += ["--cfg-options", *self.options] if self.options else []
        fingerprint = digest([command, self.cfg.to_dict(), identity])
        return Step(name, tuple(command), work_dir, fingerprint, tuple(needs))

    def _speed(self) -> Step:
        """The speed beside the model without merging, in one run of the benchmark.

        That takes no settings, so if there are any it gets a config that contains them.
        """
        settings, config, out = self.settings, self.config, self.folder / "speed"
        written = None
        if settings.cfg_options:
            config = self.folder / "configs" / config.name
            written = (config, self.cfg)
        command = ["python", str(TOOLS / "benchmark.py"), "--configs", str(config)]
        command += ["--device", settings.device.partition(":")[0], "--out", str(out)]
        # Training has the paper's batch; a test is of one image, or one window, at a time.
        command += ["--train", "--batch", str(self.batch)] if self.table.trains else []
        command += [] if settings.peer else ["--no-peer"]
        command += settings.benchmark_options
        needs = (requirements.tomesd(),) if settings.peer else ()
        # Neither data nor recipe matter: weights and images are random.
        read = {key: self.cfg.get(key) for key in ("model", "crop_size", "codec")}
        return Step("speed", tuple(command), out, digest([command, read, ""]), needs, written)


_BATCH = "train_dataloader.batch_size"


def _options(table: Table, settings: Settings) -> tuple[str, ...]:
    """Settings for the standard tools; the user's own come last and win."""
    options = []
    if settings.data_root is not None:
        splits = SPLITS if table.trains else SPLITS[-1:]
        options += [f"{s}_dataloader.dataset.data_root={settings.data_root}" for s in splits]
    if table.trains:
        # From ImageNet weights as in the paper, not from the zoo's trained ones.
        options.append("load_from=None")
        if settings.checkpoint:
            options.append(f"model.backbone.init_cfg.checkpoint={settings.checkpoint}")
    return (*options, *settings.cfg_options)


def _batch_of_each(batch: int, gpus: int) -> str:
    if batch % gpus:
        allowed = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise UserError(
            f"--gpus {gpus} cannot share the paper's batch of {batch}: allowed are {allowed}, or "
            f"set the batch of each by --cfg-options {_BATCH}=N"
        )
    return f"{_BATCH}={batch // gpus}"


def _effective(config: Path, options: Sequence[str], settings: Settings) -> Config:
    """The config as the standard tools see it with ``options``.

    Raises:
        UserError: An option cannot be applied to it.
    """
    if bad := [option for option in options if "=" not in option]:
        raise UserError(f"--cfg-options {bad[0]}: not of the form key=value")
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    args = parser.parse_args(["--cfg-options", *options] if options else [])
    args.config, args.trust_checkpoint = str(config), settings.trust_checkpoint
    return read_config(args)


def _last_checkpoint(cfg: Config) -> str:
    """The name that mmengine gives to the checkpoint at the end of a training."""
    loop = cfg.train_cfg
    by_epoch = loop.get("by_epoch", str(loop.get("type")).startswith("Epoch"))
    return f"epoch_{loop.max_epochs}.pth" if by_epoch else f"iter_{loop.max_iters}.pth"
