"""All in a few minutes on a CPU: render street scenes, train without merging, test with it.

    python tools/demo/run.py --out demo_output

One checkpoint is trained by `tools/train.py` and tested, as it is, by `tools/test.py` under every
preset. The folder gets `results.json` and `demo.png`; a table is printed.
"""

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
import warnings
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import report
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from street_scenes import render_scene, scene_rng, write_dataset
from torch import nn

from mmseg_tome import compat  # noqa: F401  mmseg may need its stand-ins to be imported
from mmseg_tome.engine.checkpoint import load_from_local
from mmseg_tome.registry import MODELS
from mmseg_tome.visualization import capture_slot_maps

REPO = Path(__file__).resolve().parents[2]
VARIANTS = ("none", "hq", "fast", "n2d")
NUM_TRAIN, NUM_VAL = 120, 20
LARGE = 1024  # rows of the second image that is timed: the size of a Cityscapes image
TIMING_SECONDS = 15  # of each size, about
STEPS = 5
# mmengine's "... Iter(train) [ 20/400]  lr: ...  eta: ...  loss: ..." and what of it is shown.
_PROGRESS = re.compile(r"(Iter\(\w+\) +\[ *\d+/\d+\])")
_SHOWN = re.compile(r"\b(?:eta|loss|mIoU|mIoU\.thin): \S+")


class DemoError(RuntimeError):
    """A step failed; the message says which, and why."""


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".run-", dir=args.out))
    try:
        results, pictures = demonstrate(work, args)
        results["seconds"] = round(time.perf_counter() - start, 1)
        # Both files are complete before either appears.
        report.draw(pictures, results, work / "demo.png")
        (work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        for name in ("demo.png", "results.json"):
            os.replace(work / name, args.out / name)
        if args.keep:
            shutil.rmtree(args.out / "run", ignore_errors=True)
            work.chmod(0o755)  # mkdtemp's folder is private
            work.rename(args.out / "run")
    except DemoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            args.out.rmdir()  # goes only if nothing was written
    print("\n" + report.table(results))
    print(f"\n{results['seconds']:.0f} s in all. The picture: {args.out / 'demo.png'}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="folder of results.json and demo.png")
    add("--height", type=int, default=256, help="rows of a scene (1024 is the size of Cityscapes)")
    add("--iters", type=int, default=400, help="training iterations of four 256x512 crops")
    add("--seed", type=int, default=0, help="of the scenes and of the training")
    add(
        "--keep",
        action="store_true",
        help="keep scenes, checkpoint, logs and predictions in OUT/run",
    )
    args = parser.parse_args()
    if args.height < 256 or args.height % 32:
        parser.error(f"--height must be a multiple of 32 from 256 on, not {args.height}")
    if args.iters < 1:
        parser.error(f"--iters must be at least 1, not {args.iters}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is not a folder")
    return args


def demonstrate(work: Path, args: argparse.Namespace) -> tuple[dict, report.Pictures]:
    """All steps, their files in ``work``; returns the numbers and what the picture shows."""
    step(1, f"rendering {NUM_TRAIN} + {NUM_VAL} scenes of {args.height}x{2 * args.height} pixels")
    scenes = write_dataset(work / "scenes", NUM_TRAIN, NUM_VAL, args.height, args.seed)

    step(2, f"training without merging, {args.iters} iterations")
    checkpoint = train(work, scenes, args)

    step(3, "testing that checkpoint under every preset")
    metrics = {variant: test(work, scenes, variant, checkpoint) for variant in VARIANTS}

    small, large = (args.height, 2 * args.height), (LARGE, 2 * LARGE)
    step(4, f"timing at {small[0]}x{small[1]} and {large[0]}x{large[1]}")
    models = {variant: build(variant, checkpoint) for variant in VARIANTS}
    number = richest_scene(scenes)
    path = scene_file(scenes, number)
    big = render_scene(scene_rng(args.seed, "val", number), LARGE)[0][..., ::-1]
    inputs = [preprocess(models["none"], image) for image in (cv2.imread(str(path)), big)]
    times = [time_forward(models, x, rounds) for x, rounds in zip(inputs, (30, 7), strict=True)]

    step(5, "drawing")
    results = {
        "height": args.height,
        "iterations": args.iters,
        "seed": args.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sizes": {"small": small, "large": large},
        "variants": {
            variant: {
                "metrics": metrics[variant],
                "tokens_kept": tokens_kept(models[variant].backbone, small),
                "ms": {"small": times[0][variant], "large": times[1][variant]},
            }
            for variant in VARIANTS
        },
    }
    pictures = report.Pictures(
        image=cv2.imread(str(path))[..., ::-1],
        labels=cv2.imread(str(label_file(path)), cv2.IMREAD_GRAYSCALE),
        predictions={
            variant: cv2.imread(str(work / variant / "pred" / path.name), cv2.IMREAD_GRAYSCALE)
            for variant in VARIANTS
        },
        slots={variant: slot_maps(model, inputs[0]) for variant, model in models.items()},
    )
    return results, pictures


def step(number: int, what: str) -> None:
    print(f"[{number}/{STEPS}] {what}", flush=True)


# ---- the tools -----------------------------------------------------------------------------------


def train(work: Path, scenes: Path, args: argparse.Namespace) -> Path:
    options = [
        f"train_dataloader.dataset.data_root={scenes}",
        f"train_cfg.max_iters={args.iters}",
        f"param_scheduler.0.end={min(60, args.iters // 4)}",
        f"param_scheduler.1.begin={min(60, args.iters // 4)}",
        f"param_scheduler.1.end={args.iters}",
        f"default_hooks.checkpoint.interval={args.iters}",
        f"randomness.seed={args.seed}",
    ]
    run_tool("train.py", config("none"), "--work-dir", work / "train", "--cfg-options", *options)
    return work / "train" / f"iter_{args.iters}.pth"


def test(work: Path, scenes: Path, variant: str, checkpoint: Path) -> dict[str, float]:
    """Metrics of ``tools/test.py`` in percent; the predictions lie in ``work/<variant>/pred``."""
    folder = work / variant
    data = f"test_dataloader.dataset.data_root={scenes}"
    out = ("--work-dir", folder, "--out", folder / "pred")
    run_tool("test.py", config(variant), checkpoint, *out, "--cfg-options", data)
    found = list(folder.glob("*/*.json"))
    if len(found) != 1:
        raise DemoError(f"tools/test.py left {len(found)} files of metrics in {folder}, not one")
    metrics = json.loads(found[0].read_text())
    return {key: round(value, 2) for key, value in metrics.items() if "IoU" in key or key == "aAcc"}


def config(variant: str) -> Path:
    return REPO / "configs" / "demo" / f"segformerpp_{variant}_demo.py"


def run_tool(tool: str, *arguments) -> None:
    """Run one of our tools, with its progress shown; the rest of its output only if it fails."""
    command = [sys.executable, str(REPO / "tools" / tool), *map(str, arguments)]
    # Threads that spin while they wait bring a shared machine to a crawl: sleep instead.
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
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
                shown = "  ".join([progress[1], *_SHOWN.findall(line)])
                print(f"      {shown}", flush=True)
    if process.returncode:
        said = "\n  ".join(last)
        raise DemoError(
            f"tools/{tool} ended with code {process.returncode}; it said last:\n  {said}"
        )


# ---- the models ----------------------------------------------------------------------------------


def build(variant: str, checkpoint: Path) -> nn.Module:
    init_default_scope("mmseg")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="mmseg")  # on the arguments of its own losses
        model = MODELS.build(Config.fromfile(str(config(variant))).model)
    model.load_state_dict(load_from_local(str(checkpoint), map_location="cpu")["state_dict"])
    return model.eval()


def preprocess(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    """BGR image [H, W, 3] to the normalised input [1, 3, H, W]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return model.data_preprocessor({"inputs": [pixels]}, False)["inputs"]


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
            model(x, mode="tensor")
            fastest[variant] = min(fastest[variant], time.perf_counter() - before)
        if number >= 2 and time.perf_counter() - start > TIMING_SECONDS:
            break
    return {variant: round(1000 * seconds, 1) for variant, seconds in fastest.items()}


@torch.inference_mode()
def slot_maps(model: nn.Module, x: torch.Tensor) -> dict:
    with capture_slot_maps(model) as captured:
        model(x, mode="tensor")
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


# ---- the scene that is shown ---------------------------------------------------------------------


def scene_file(scenes: Path, number: int) -> Path:
    return next((scenes / "leftImg8bit" / "val").glob(f"*/*_{number:06d}_*.png"))


def label_file(image: Path) -> Path:
    city, split, scenes = image.parent.name, image.parents[1].name, image.parents[3]
    name = image.name.replace("leftImg8bit", "gtFine_labelTrainIds")
    return scenes / "gtFine" / split / city / name


def richest_scene(scenes: Path, count: int = NUM_VAL) -> int:
    """Number of the validation scene with the most classes that one can see."""

    def classes(number: int) -> int:
        path = label_file(scene_file(scenes, number))
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        return (np.bincount(labels.ravel(), minlength=256)[:19] > labels.size // 400).sum()

    return max(range(count), key=classes)


if __name__ == "__main__":
    main()
