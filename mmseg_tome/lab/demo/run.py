"""The steps of both demos: render, train without merging, test under every preset, time, draw."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

# Threads that wait spin for milliseconds by default, which on a shared machine makes timings up to
# a hundred times too long; threads that sleep at once make small inputs look twice too slow. So
# they spin for some microseconds. libgomp reads this as torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from torch import nn

from mmseg_tome import processes
from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.config import read_config_file
from mmseg_tome.config_names import find_config
from mmseg_tome.errors import UserError
from mmseg_tome.lab.bench.measure import time_in_turns
from mmseg_tome.lab.demo.dataset import write_dataset
from mmseg_tome.visualization import capture_slot_maps, draw_slots

VARIANTS = ("none", "hq", "fast", "n2d")
WARMUP = 60  # iterations; of a short training, its first quarter
TIMING_SECONDS = 15  # of each size, about
SHOWN_STAGES = (0, 2)
KINDS = {"q": "queries", "kv": "keys/values"}


class DemoError(UserError, RuntimeError):
    """A step failed; the message says which, and why."""


class Task(Protocol):
    """What the demos do differently.

    Attributes:
        suffix: Of the names of configs, and of the files that are written.
        scenes: How many are rendered, for training and validation, and their rows.
        sizes: Name -> (rows, columns) of the inputs that are timed; tokens count at the first.
        rounds: Timed at each size, at most.
        metrics: Name in the results -> name that `mmseg-tome test` gives it.
        percent: What the metrics are to be multiplied by.
        titles: Of the columns of metrics and of milliseconds in the table.
        notes: Lines below the table.
        test_options: Options of `mmseg-tome test`, given the folder of a variant.
    """

    def inputs(self, model: nn.Module, scenes: Path, seed: int) -> dict[str, torch.Tensor]:
        """The network's inputs [1, 3, H, W] of each size."""

    def draw(self, models, scenes: Path, work: Path, results: dict, path: Path) -> None:
        """The picture; ``work`` has a folder for each variant."""


def run_demo(task: Task, args: argparse.Namespace) -> None:
    """Run all steps; the picture and the numbers appear in ``args.out`` once both are whole.

    Args:
        args: ``out``, ``iters``, ``seed``, ``keep``.
    """
    suffix, start = task.suffix, time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".run-", dir=args.out))
    try:
        results = _demonstrate(task, work, args)
        results["seconds"] = round(time.perf_counter() - start, 1)
        (work / f"results{suffix}.json").write_text(json.dumps(results, indent=2) + "\n")
        for name in (f"demo{suffix}.png", f"results{suffix}.json"):
            os.replace(work / name, args.out / name)
        if args.keep:
            shutil.rmtree(args.out / f"run{suffix}", ignore_errors=True)
            work.chmod(0o755)  # mkdtemp's folder is private
            work.rename(args.out / f"run{suffix}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            args.out.rmdir()  # goes only if nothing was written
    print("\n" + layout_table(task, results))
    picture = args.out / f"demo{suffix}.png"
    print(f"\n{results['seconds']:.0f} s in all. The picture: {picture}")


def _demonstrate(task: Task, work: Path, args: argparse.Namespace) -> dict:
    num_train, num_val, rows = task.scenes
    _step(1, f"rendering {num_train} + {num_val} scenes of {rows}x{2 * rows} pixels")
    scenes = write_dataset(work / "scenes", num_train, num_val, rows, args.seed)

    _step(2, f"training without merging, {args.iters} iterations")
    checkpoint = _train(config(task, "none"), scenes, work / "train", args)

    _step(3, "testing that checkpoint under every preset")
    metrics = {}
    for variant in VARIANTS:
        found = _test(task, variant, scenes, work / variant, checkpoint)
        factor = task.percent
        metrics[variant] = {
            ours: round(factor * found[name], 2)
            for ours, name in task.metrics.items()
            if name in found
        }

    _step(4, "timing at " + ", ".join("x".join(map(str, size)) for size in task.sizes.values()))
    models = {
        variant: load_model(read_config_file(config(task, variant)), str(checkpoint))
        for variant in VARIANTS
    }
    inputs = task.inputs(models[VARIANTS[0]], scenes, args.seed)
    times = {size: time_forward(models, x, task.rounds[size]) for size, x in inputs.items()}
    results = common_results(task, args, models, metrics, times)

    _step(5, "drawing")
    task.draw(models, scenes, work, results, work / f"demo{task.suffix}.png")
    return results


def _step(number: int, what: str) -> None:
    print(f"[{number}/5] {what}", flush=True)


# ---- training and testing ------------------------------------------------------------------------


def config(task: Task, variant: str) -> str:
    return find_config(f"demo/segformerpp_{variant}_demo{task.suffix}")


def _train(config: str, scenes: Path, folder: Path, args: argparse.Namespace) -> Path:
    """Returns the checkpoint."""
    warmup = min(WARMUP, args.iters // 4)
    options = [
        f"train_dataloader.dataset.data_root={scenes}",
        f"train_cfg.max_iters={args.iters}",
        f"param_scheduler.0.end={warmup}",
        f"param_scheduler.1.begin={warmup}",
        f"param_scheduler.1.end={args.iters}",
        f"default_hooks.checkpoint.interval={args.iters}",
        f"randomness.seed={args.seed}",
    ]
    run_command("train", config, "--work-dir", folder, "--cfg-options", *options)
    return folder / f"iter_{args.iters}.pth"


def _test(task: Task, variant: str, scenes: Path, folder: Path, checkpoint: Path) -> dict:
    """Returns the metrics by the names that mm gives them."""
    root = ("--cfg-options", f"test_dataloader.dataset.data_root={scenes}")
    arguments = (config(task, variant), checkpoint, "--work-dir", folder)
    run_command("test", *arguments, *task.test_options(folder), *root, label=variant.rjust(4))
    found = list(folder.glob("*/*.json"))
    if len(found) != 1:
        raise DemoError(f"test left {len(found)} files of metrics in {folder}, not one")
    return json.loads(found[0].read_text())


def run_command(command: str, *arguments, label: str = "") -> None:
    """Run one of our commands, with its progress shown; the rest of its output only if it fails."""
    line = [sys.executable, "-m", "mmseg_tome", command, *map(str, arguments), "--verbose"]
    # It is not timed: its threads sleep at once, so that a shared machine stays usable.
    env = processes.environment(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="0")
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        code = processes.run(
            line, log, env=env, show=lambda text: print(f"      {label}  {text}", flush=True)
        )
        log.seek(0)
        if code:
            said = "\n  ".join(log.read().splitlines()[-25:])
            raise DemoError(f"{command} ended with code {code}; it said last:\n  {said}")


# ---- the networks --------------------------------------------------------------------------------


@torch.inference_mode()
def time_forward(models: dict[str, nn.Module], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of each network's fastest forward pass in so many rounds, fewer if busy."""
    forwards = [partial(model, x, None, mode="tensor") for model in models.values()]
    device = torch.device("cpu")
    samples = time_in_turns(forwards, rounds, device, min_sample_s=0, seconds=TIMING_SECONDS)
    return {variant: round(min(each), 1) for variant, each in zip(models, samples, strict=True)}


@torch.inference_mode()
def slot_maps(model: nn.Module, x: torch.Tensor) -> dict:
    with capture_slot_maps(model) as captured:
        model(x, None, mode="tensor")
    return captured


def tokens_kept(backbone: nn.Module, hw: tuple[int, int]) -> dict[str, float]:
    """Percent of the tokens of all blocks that attention works on, and of the pairs it compares."""
    sums = {"queries": [0, 0], "keys_values": [0, 0], "pairs": [0, 0]}
    for blocks, kept in zip(backbone.num_layers, backbone.tokens_kept(hw), strict=True):
        for i in (0, 1):  # kept, total
            q, kv = kept["q"][i], kept["kv"][i]
            for name, count in zip(sums, (q, kv, q * kv), strict=True):
                sums[name][i] += blocks * count
    return {name: round(100 * kept / total, 1) for name, (kept, total) in sums.items()}


# ---- the results ---------------------------------------------------------------------------------


def common_results(task: Task, args, models, metrics: dict, times: dict) -> dict:
    """What is found out.

    Args:
        metrics: Of each variant, by name.
        times: Of each size, milliseconds of each variant.
    """
    return {
        "iterations": args.iters,
        "seed": args.seed,
        "scenes": task.scenes,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sizes": task.sizes,
        "variants": {
            variant: {
                "metrics": metrics[variant],
                "tokens_kept": tokens_kept(model.backbone, next(iter(task.sizes.values()))),
                "ms": {size: times[size][variant] for size in task.sizes},
            }
            for variant, model in models.items()
        },
    }


def layout_table(task: Task, results: dict) -> str:
    """All numbers side by side, one row for each variant."""
    sizes = ["x".join(map(str, size)) for size in results["sizes"].values()]
    title, ms = task.titles
    groups = {"": [""], title: list(task.metrics), ms: sizes,
              "tokens kept %": ["queries", "keys/values", "pairs"]}  # fmt: skip
    rows = [[column for group in groups.values() for column in group]]
    for variant, row in results["variants"].items():
        found = (row["metrics"].get(name, float("nan")) for name in task.metrics)
        numbers = (*found, *row["ms"].values(), *row["tokens_kept"].values())
        rows.append([variant, *(f"{number:.1f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = iter(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return " | ".join("  ".join(next(padded) for _ in group) for group in groups.values())

    header = line(rows[0])
    parts = header.split(" | ")
    titles = [name.center(len(part)) for name, part in zip(groups, parts, strict=True)]
    notes = (
        *task.notes,
        f"ms: the network alone, float32, {results['threads']} CPU threads, best of several rounds",
        "pairs: query-key pairs that attention compares; all tokens are summed over all blocks",
    )
    lines = [" | ".join(titles).rstrip(), header, "-" * len(header), *map(line, rows[1:])]
    return "\n".join([*lines, "", *notes])


def merged_tokens(image: np.ndarray, captured: dict, stage: int) -> tuple[np.ndarray, str]:
    """The merged tokens of a stage drawn over an image, and how many there are.

    Whichever merges in this stage; where nothing does, what hq and fast would merge.

    Args:
        image: uint8 [H, W, 3].
        captured: As `slot_maps` gives it.
        stage: From 0.
    """
    kinds = {kind: captured[stage, 0, kind] for kind in KINDS}
    merging = [kind for kind, (slots, _) in kinds.items() if slots.num_slots < slots.slot.shape[1]]
    kind = merging[0] if merging else ("kv" if stage < 2 else "q")
    slots, hw = kinds[kind]
    total = slots.slot.shape[1]
    count = f"{total} tokens" + (f" merged to {slots.num_slots}" if merging else ", none merged")
    drawn = draw_slots(image, slots.slot[0].numpy(), hw)
    return drawn, f"stage {stage + 1}, {KINDS[kind]}: {count}"
