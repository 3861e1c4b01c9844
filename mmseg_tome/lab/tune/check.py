"""The proof of a tuned config: beside none and presets on labelled images, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.config import Config

from mmseg_tome.lab.sweep.evaluate import Judge
from mmseg_tome.lab.sweep.images import Images
from mmseg_tome.lab.sweep.network import Network, build_network
from mmseg_tome.lab.sweep.settings import NONE, Setting
from mmseg_tome.lab.sweep.timing import time_settings
from mmseg_tome.merging import PRESETS

COMPARED = ("hq", "fast", "hq-prop", "fast-prop")


def compare(
    cfg: Config,
    checkpoint: str,
    tuned: Sequence[Setting],
    scale: float | None,
    device: torch.device,
    dtype: str,
    batch: int = 1,
    time_batch: int = 1,
    rounds: int = 20,
    limit: int | None = None,
    advance: Callable[[str], None] = lambda said: None,
    launch: str = "auto",
) -> list[dict]:
    """Evaluate and time no merging, presets and tuned settings.

    Args:
        cfg: The config whose test data is evaluated on.
        checkpoint: File of the weights.
        tuned: What else merges.
        scale: Size of the input over that of the image file; None resizes as the config says.
        device: Where it runs.
        dtype: "float32", "bfloat16" or "float16".
        batch: Images at a time when evaluating.
        time_batch: Images at a time when timing.
        rounds: How often each is timed.
        limit: Evaluate on no more images than this.
        advance: Called after each setting.
        launch: How what is timed is launched: "eager", or by CUDA graphs where there is a GPU.

    Returns:
        A row for each setting: `mIoU`, `agreement`, `ms`, `speedup`, size of the input `hw`.
    """
    settings = [NONE, *(Setting(name, PRESETS[name]) for name in COMPARED), *tuned]
    images = Images(cfg, scale, limit)
    judge = Judge(Network(cfg, checkpoint, device, dtype), images, batch)
    rows = []
    for setting in settings:
        scores = judge.evaluate(setting)
        rows.append({"name": setting.name, "hw": images.hw, **_shown(scores)})
        advance(setting.name)
    model = build_network(cfg, checkpoint)
    times = time_settings(
        model, settings, images.hw, time_batch, device, dtype, rounds, launch=launch
    )
    base = times[0]["ms"]["median"]
    for row, time in zip(rows, times, strict=True):
        row |= dict(ms=time["ms"]["median"], speedup=base / time["ms"]["median"])
    return rows


def table(rows: Sequence[dict]) -> str:
    """Rows as Markdown."""
    lines = [
        "| input | merging | mIoU | agreement | ms per image | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['hw'][1]}x{row['hw'][0]} | {row['name']} | {row['mIoU']:.2f} | "
        f"{row['agreement']:.2f} | {row['ms']:.1f} | {row['speedup']:.2f}x |"
        for row in rows
    ]
    return "\n".join(lines)


def _shown(scores: dict) -> dict:
    return {name: scores[name] for name in ("mIoU", "agreement")}
