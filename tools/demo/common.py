"""What both demos do alike: run the tools, build and time the variants, lay out the results."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

# Threads that wait spin for milliseconds by default, which on a shared machine makes timings up to
# a hundred times too long; threads that sleep at once make small inputs look twice too slow. So
# they spin for some microseconds. libgomp reads this as torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmseg_tome import compat  # noqa: F401  mmseg may need its stand-ins to be imported
from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.errors import UserError
from mmseg_tome.visualization import capture_slot_maps, draw_slots

REPO = Path(__file__).resolve().parents[2]
VARIANTS = ("none", "hq", "fast", "n2d")
STEPS = 5
WARMUP = 60  # iterations; of a short training, its first quarter
MIN_ITERS = 8  # a shorter one has no warm-up that mmengine could schedule
TIMING_SECONDS = 15  # of each size, about
SHOWN_STAGES = (0, 2)
# What each preset merges, for readers of the picture.
WORDS = {"q": "queries", "kv": "keys/values"}
# mmengine's "... Iter(train) [ 20/400]  lr: ...  eta: ...  loss: ..." and what of it is shown.
_PROGRESS = re.compile(r"(Iter\(\w+\) +\[ *\d+/\d+\])")
_SHOWN = re.compile(r"\b(?:eta|loss|mIoU|mIoU\.thin|acc_pose|coco/AP|PCK@[\d.]+/PCK): \S+")


class DemoError(UserError, RuntimeError):
    """A step failed; the message says which, and why."""


# ---- a whole demo --------------------------------------------------------------------------------


def argument_parser(doc: str, picture: str, iters: int, what: str) -> argparse.ArgumentParser:
    """The options of both demos; ``what`` is what one iteration trains on."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add = parser.add_argument
    add(
        "--out", type=Path, default=Path("demo_output"), help=f"folder of the numbers and {picture}"
    )
    add("--iters", type=int, default=iters, help=f"training iterations of {what}")
    add("--seed", type=int, default=0, help="of the scenes and of the training")
    add("--keep", action="store_true", help="keep scenes, checkpoint, logs and predictions, too")
    return parser


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.iters < MIN_ITERS:
        parser.error(f"--iters must be at least {MIN_ITERS}, not {args.iters}")
    if args.seed < 0:
        parser.error(f"--seed must not be negative, it is {args.seed}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is not a folder")


def run_demo(
    args: argparse.Namespace,
    demonstrate: Callable,
    draw: Callable,
    table: Callable,
    suffix: str = "",
) -> None:
    """Run all steps; ``demo<suffix>.png`` and ``results<suffix>.json`` appear once both are whole.

    Args:
        args: the options of `argument_parser`.
        demonstrate: (folder for files, args) -> (results, pictures).
        draw: (pictures, results, file) -> None.
        table: results -> text to print.
        suffix: tells the files of one demo from those of the other.
    """
    picture, numbers, kept = f"demo{suffix}.png", f"results{suffix}.json", f"run{suffix}"
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".run-", dir=args.out))
    try:
        results, pictures = demonstrate(work, args)
        results["seconds"] = round(time.perf_counter() - start, 1)
        draw(pictures, results, work / picture)
        (work / numbers).write_text(json.dumps(results, indent=2) + "\n")
        for name in (picture, numbers):
            os.replace(work / name, args.out / name)
        if args.keep:
            shutil.rmtree(args.out / kept, ignore_errors=True)
            work.chmod(0o755)  # mkdtemp's folder is private
            work.rename(args.out / kept)
    except DemoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            args.out.rmdir()  # goes only if nothing was written
    print("\n" + table(results))
    print(f"\n{results['seconds']:.0f} s in all. The picture: {args.out / picture}")


def step(number: int, what: str) -> None:
    print(f"[{number}/{STEPS}] {what}", flush=True)


# ---- the tools -----------------------------------------------------------------------------------


def train(config: Path, data: Path, work: Path, args: argparse.Namespace) -> Path:
    """Train with ``tools/train.py`` on the data root ``data``; returns the checkpoint."""
    warmup = min(WARMUP, args.iters // 4)
    options = [
        f"train_dataloader.dataset.data_root={data}",
        f"train_cfg.max_iters={args.iters}",
        f"param_scheduler.0.end={warmup}",
        f"param_scheduler.1.begin={warmup}",
        f"param_scheduler.1.end={args.iters}",
        f"default_hooks.checkpoint.interval={args.iters}",
        f"randomness.seed={args.seed}",
    ]
    run_tool("train.py", config, "--work-dir", work / "train", "--cfg-options", *options)
    return work / "train" / f"iter_{args.iters}.pth"


def test(config: Path, data: Path, folder: Path, checkpoint: Path, *options) -> dict[str, float]:
    """Metrics of ``tools/test.py``, which leaves its files in ``folder``."""
    root = f"test_dataloader.dataset.data_root={data}"
    arguments = (config, checkpoint, "--work-dir", folder, *options, "--cfg-options", root)
    run_tool("test.py", *arguments, label=folder.name)
    found = list(folder.glob("*/*.json"))
    if len(found) != 1:
        raise DemoError(f"tools/test.py left {len(found)} files of metrics in {folder}, not one")
    return json.loads(found[0].read_text())


def run_tool(tool: str, *arguments, label: str = "") -> None:
    """Run one of our tools, with its progress shown; the rest of its output only if it fails."""
    command = [sys.executable, str(REPO / "tools" / tool), *map(str, arguments)]
    # A tool is not timed: its threads sleep at once, so that a shared machine stays usable.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "GOMP_SPINCOUNT": "0"}
    last = deque(maxlen=25)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=env,
    ) as process:
        for line in process.stdout:
            last.append(line.rstrip())
            progress = _PROGRESS.search(line)
            if progress:
                shown = [label.rjust(4)] if label else []
                shown += [progress[1], *_SHOWN.findall(line)]
                print("      " + "  ".join(shown), flush=True)
    if process.returncode:
        said = "\n  ".join(last)
        raise DemoError(
            f"tools/{tool} ended with code {process.returncode}; it said last:\n  {said}"
        )


# ---- the models ----------------------------------------------------------------------------------


def build(config: Path, checkpoint: Path) -> nn.Module:
    return load_model(Config.fromfile(str(config)), str(checkpoint))


@torch.inference_mode()
def time_forward(models: dict[str, nn.Module], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of each network's fastest forward pass in so many rounds.

    The models take turns, so that whatever else the machine does meets all of them. On a busy
    machine there are fewer rounds, at least three.
    """
    fastest = dict.fromkeys(models, float("inf"))
    start = time.perf_counter()
    for number in range(rounds):
        for variant, model in models.items():
            before = time.perf_counter()
            model(x, None, mode="tensor")
            fastest[variant] = min(fastest[variant], time.perf_counter() - before)
        if number >= 2 and time.perf_counter() - start > TIMING_SECONDS:
            break
    return {variant: round(1000 * seconds, 1) for variant, seconds in fastest.items()}


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


def common_results(
    args: argparse.Namespace,
    models: dict[str, nn.Module],
    metrics: dict[str, dict],
    sizes: dict[str, tuple[int, int]],
    times: dict[str, dict[str, float]],
) -> dict:
    """What both demos find out; tokens are counted at the first size.

    Args:
        models: of each variant.
        metrics: of each variant, by name.
        sizes: names and (rows, columns) of the inputs that are timed.
        times: of each size, milliseconds of each variant.
    """
    return {
        "iterations": args.iters,
        "seed": args.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sizes": sizes,
        "variants": {
            variant: {
                "metrics": metrics[variant],
                "tokens_kept": tokens_kept(model.backbone, next(iter(sizes.values()))),
                "ms": {size: times[size][variant] for size in sizes},
            }
            for variant, model in models.items()
        },
    }


def layout_table(
    metrics: tuple[str, dict[str, str]], ms: str, results: dict, notes: Sequence[str]
) -> str:
    """All numbers side by side, one row for each variant.

    Args:
        metrics: title of the columns of metrics; column -> name in the results.
        ms: title of the columns of milliseconds.
        results: as `common_results` gives them.
        notes: lines below the table.
    """
    title, columns = metrics
    sizes = ["x".join(map(str, size)) for size in results["sizes"].values()]
    groups = {"": [""], title: list(columns), "tokens kept %": ["queries", "keys/values", "pairs"],
              ms: sizes}  # fmt: skip
    rows = [[column for group in groups.values() for column in group]]
    for variant, row in results["variants"].items():
        found = (row["metrics"].get(name, float("nan")) for name in columns.values())
        numbers = (*found, *row["tokens_kept"].values(), *row["ms"].values())
        rows.append([variant, *(f"{number:.1f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = iter(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return " | ".join("  ".join(next(padded) for _ in group) for group in groups.values())

    header = line(rows[0])
    titles = [
        name.center(len(part)) for name, part in zip(groups, header.split(" | "), strict=True)
    ]
    every = (
        "pairs: query-key pairs that attention compares; all tokens are summed over all blocks",
        f"ms: the network alone, float32, {results['threads']} CPU threads, best of several rounds",
    )
    lines = [" | ".join(titles), header, "-" * len(header), *map(line, rows[1:])]
    return "\n".join([*lines, "", *notes, *every])


def merged_tokens(image: np.ndarray, captured: dict, stage: int) -> tuple[np.ndarray, str]:
    """The merged tokens of a stage drawn over an image, and how many there are.

    Whichever merges in this stage; where nothing does, what hq and fast would merge.

    Args:
        image: uint8 [H, W, 3].
        captured: as `slot_maps` gives it.
        stage: from 0.
    """
    kinds = {kind: captured[stage, 0, kind] for kind in WORDS}
    merging = [kind for kind, (slots, _) in kinds.items() if slots.num_slots < slots.slot.shape[1]]
    kind = merging[0] if merging else ("kv" if stage < 2 else "q")
    slots, hw = kinds[kind]
    total = slots.slot.shape[1]
    count = f"{total} tokens" + (f" merged to {slots.num_slots}" if merging else ", none merged")
    drawn = draw_slots(image, slots.slot[0].numpy(), hw)
    return drawn, f"stage {stage + 1}, {WORDS[kind]}: {count}"
