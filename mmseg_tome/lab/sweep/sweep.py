"""Running a sweep: what is not there yet is evaluated and timed, row by row."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config

from mmseg_tome.files import LOCK, only_one, progress_of
from mmseg_tome.lab.output import write_json

from . import rows
from .images import Images, build_dataset, chosen_images, dataset_config, label_of
from .network import Network, build_network, device_name, time_settings, tokens_kept
from .rows import Group, TrainedModel
from .scores import Evaluator, ScoreOptions, Scorer, scorer_of
from .settings import Setting

MOMENT = 10.0
"""Seconds in which every part of a sweep has begun, for which it holds the whole folder."""


@dataclass(frozen=True)
class Options:
    """How a sweep runs: options of `tools/sweep.py`, which says what they mean."""

    out: Path
    device: torch.device
    dtype: str = "float32"
    batch: int = 1
    workers: int = 4
    max_images: int | None = None
    scores: ScoreOptions = field(default_factory=ScoreOptions)
    part: tuple[int, int] = (0, 1)  # which share of the rows, from 0, and of how many
    time_batches: tuple[int, ...] = (1,)
    rounds: int = 20
    launch: str = "auto"


class Sweep:
    """Models at scales (of the input over the image files) under settings, `none` among them.

    Raises:
        UserError: A checkpoint does not fit its model, the data is not there or has no labels, or
            the options do not fit it.
    """

    def __init__(
        self,
        models: Sequence[TrainedModel],
        settings: Sequence[Setting],
        scales: Sequence[float],
        options: Options,
    ) -> None:
        self.options = options
        self.folder = options.out / rows.FOLDER
        self.settings = list(settings)
        self.groups = rows.groups(models, list(dict.fromkeys(scales)))
        for model in models:
            for checkpoint in model.checkpoints:
                build_network(model.cfg, checkpoint)  # an error comes now, not after hours
        self.data = {model.name: self._describe_data(model) for model in models}
        # One of each is kept for the next group, by the data set that it is of.
        self._images: tuple[str, Images] | None = None
        self._scorer: tuple[str, Scorer] | None = None

    def _describe_data(self, model: TrainedModel) -> dict:
        """What of a model's test data rows depend on, and say."""
        dataset = build_dataset(dataset_config(model.cfg))
        chosen = chosen_images(len(dataset), self.options.max_images)
        hw = tuple(label_of(dataset[chosen[0]]["data_samples"]).shape)
        return dict(
            images=len(chosen),
            data=rows.data_digest([dataset.get_data_info(i) for i in chosen]),
            options=self.options.scores.of(dataset.metainfo["classes"], hw).as_dict(),
            hw=hw,
        )

    @contextmanager
    def holding_folder(self) -> Iterator[None]:
        """Let no other process do this part's rows meanwhile, nor any row if this does all.

        Raises:
            UserError: Another one does.
        """
        out, (part, parts) = self.options.out, self.options.part
        with ExitStack() as held:
            if parts == 1:
                held.enter_context(only_one(out))
                for lock in out.glob(f".part-*{LOCK}"):
                    with only_one(out, file=lock.stem[1:]):
                        pass  # raises where that part runs
            else:
                with only_one(out, MOMENT):  # raises where a process does all
                    held.enter_context(only_one(out, file=f"part-{part + 1}-of-{parts}"))
            yield

    def todo(self) -> list[tuple[Group, list[Setting]]]:
        """The rows of this part that are not there yet, by group."""
        part, parts = self.options.part
        shares = [
            (group, rows.share(self.settings, position, part, parts))
            for position, group in enumerate(self.groups)
        ]
        return [(g, [s for s in share if not self._is_done(g, s)]) for g, share in shares]

    def mark(self, group: Group, setting: Setting) -> str:
        """A row's fingerprint."""
        return rows.fingerprint(
            group.model.cfg.model, group.checkpoint, setting, scale=group.scale,
            dtype=self.options.dtype, device=self.options.device.type,
            **self.data[group.model.name],
        )  # fmt: skip

    def _is_done(self, group: Group, setting: Setting) -> bool:
        row = rows.read(self.folder / group.file(setting))
        return row is not None and row["fingerprint"] == self.mark(group, setting)

    def plan(self) -> str:
        """What there is to do, for people."""
        todo = self.todo()
        total = len(self.groups) * len(self.settings)
        part, parts = self.options.part
        share = "" if parts == 1 else f", part {part + 1} of {parts}"
        width = max(len(setting.name) for setting in self.settings)
        lines = [f"{len(self.settings)} settings:"]
        lines += [
            f"  {s.name:{width}}  {'input halved' if s.down_sample else s.tome_cfg}"
            for s in self.settings
        ]
        lines += [f"  {group}: {len(missing)} rows to do" for group, missing in todo]
        lines.append(f"{sum(len(m) for _, m in todo)} of {total} rows to do{share}")
        return "\n".join(lines)

    def evaluate(self) -> None:
        """Evaluate the rows of this part that are not there yet."""
        todo = self.todo()
        missing = sum(len(wanted) for _, wanted in todo)
        print(f"{missing} rows to do in this process, {len(self.settings)} settings", flush=True)
        with progress_of("rows", missing) as advance:
            for group, wanted in todo:
                if not wanted:
                    continue
                evaluator = self._evaluator(group)
                for setting in wanted:
                    row = self._row(group, setting, evaluator)
                    write_json(self.folder / group.file(setting), row)
                    advance(f"{group}, {setting.name}: {_summary(row)}")

    def _evaluator(self, group: Group) -> Evaluator:
        options, cfg = self.options, group.model.cfg
        images = self._images_of(cfg, group.scale)
        network = Network(cfg, group.checkpoint, options.device, options.dtype)
        return Evaluator(network, images, options.batch, self._scorer_of(cfg, images))

    def _images_of(self, cfg: Config, scale: float) -> Images:
        key = repr(dataset_config(cfg, scale))
        if self._images is None or self._images[0] != key:
            self._images = None  # frees those before
            options = self.options
            self._images = (key, Images(cfg, scale, options.max_images, options.workers))
        return self._images[1]

    def _scorer_of(self, cfg: Config, images: Images) -> Scorer:
        key = repr(dataset_config(cfg))  # labels have one size at every scale
        if self._scorer is None or self._scorer[0] != key:
            self._scorer = (key, scorer_of(images, self.options.scores))
        return self._scorer[1]

    def _row(self, group: Group, setting: Setting, evaluator: Evaluator) -> dict:
        start = time.perf_counter()
        scores = evaluator.evaluate(setting)
        return {
            "fingerprint": self.mark(group, setting),
            **_named(group, setting),
            "index": group.index,
            "checkpoint": Path(group.checkpoint).name,
            **self.data[group.model.name],
            "hw": evaluator.images.hw,
            "dtype": self.options.dtype,
            "device": device_name(self.options.device),
            "tokens": tokens_kept(evaluator.network.model.backbone, evaluator.images.hw, setting),
            "scores": scores,
            "seconds": round(time.perf_counter() - start, 2),
        }

    def time(self) -> None:
        """Time every setting of each model and scale, unless that was done in one go before."""
        todo = [
            (group, batch)
            for group in self.groups
            if group.index == 0  # the weights' values do not matter
            for batch in self.options.time_batches
        ]
        todo = [(group, batch) for group, batch in todo if not self._is_timed(group, batch)]
        total = len(todo) * len(self.settings) * (1 + self.options.rounds)
        with progress_of("timings", total, every=len(self.settings)) as advance:
            for group, batch in todo:
                self._time(group, batch, lambda: advance(""))

    def _time_file(self, group: Group, batch: int, setting: Setting) -> Path:
        name = f"{group.model.name}-x{group.scale:g}-{setting.name}-b{batch}.time.json"
        return self.folder / name

    def _time_mark(self, group: Group, batch: int, setting: Setting) -> str:
        options = self.options
        on_gpu = options.device.type == "cuda"
        return rows.fingerprint(
            group.model.cfg.model, group.checkpoint, setting, hw=self._input_size(group),
            batch=batch, dtype=options.dtype, device=device_name(options.device),
            rounds=options.rounds,
            **(dict(launch="eager") if options.launch == "eager" and on_gpu else {}),
        )  # fmt: skip

    def _input_size(self, group: Group) -> tuple[int, int]:
        height, width = self.data[group.model.name]["hw"]
        return int(height * group.scale + 0.5), int(width * group.scale + 0.5)

    def _is_timed(self, group: Group, batch: int) -> bool:
        found = [(rows.read(self._time_file(group, batch, s)) or {}, s) for s in self.settings]
        runs = {row.get("run") for row, _ in found}
        return len(runs) == 1 and all(
            row.get("fingerprint") == self._time_mark(group, batch, s) for row, s in found
        )

    def _time(self, group: Group, batch: int, advance: Callable[[], None]) -> None:
        options, hw = self.options, self._input_size(group)
        model = build_network(group.model.cfg, group.checkpoint)
        found = time_settings(
            model, self.settings, hw, batch, options.device, options.dtype, options.rounds,
            advance, options.launch,
        )  # fmt: skip
        run = uuid.uuid4().hex[:8]  # only times of one run compare
        for setting, times in zip(self.settings, found, strict=True):
            row = {
                "fingerprint": self._time_mark(group, batch, setting),
                **_named(group, setting),
                "run": run,
                "hw": hw,
                "batch": batch,
                "dtype": options.dtype,
                "device": device_name(options.device),
                "tokens": tokens_kept(model.backbone, hw, setting),
                **times,
            }
            write_json(self._time_file(group, batch, setting), row)


def _named(group: Group, setting: Setting) -> dict:
    merging = dict(tome_cfg=setting.tome_cfg, down_sample=setting.down_sample)
    return dict(model=group.model.name, scale=group.scale, setting=setting.name) | merging


def _summary(row: dict) -> str:
    scores = row["scores"]
    return f"mIoU {scores['mIoU']:.2f}, agreement {scores['agreement']:.2f}, {row['seconds']:.1f} s"
