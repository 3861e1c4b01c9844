"""What a run found: its rows and their ratios, definitions of the columns, and the JSON file."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mmseg_tome.lab import output

from . import breakdown, networks

PACKAGES = (
    "torch",
    "onedl-mmcv",
    "onedl-mmengine",
    "onedl-mmsegmentation",
    "mmcv",
    "mmcv-lite",
    "mmengine",
    "mmsegmentation",
    "mmpose",
    "tomesd",
    "numpy",
)
CASE = ("model", "size", "batch", "dtype", "device", "part", "mode")
"""Rows that agree in these were timed in turns and compare with each other."""

DEFINITIONS = {
    "latency_ms": "milliseconds of one forward pass of the batch; median over rounds, q1 and q3 "
    "its quartiles. All variants of a case take turns in each round.",
    "images_per_s": "batch / median latency",
    "memory_mib": "peak memory of one forward beyond weights and input; memory_kind says how. A "
    "CUDA graph keeps what its capture took",
    "gflops": "10^9 floating-point operations per image, 2 per multiply-add: matrix products "
    "(attention and matching included) and convolutions",
    "tokens_kept": "per stage, [kept, total] of the queries (q) and of the keys/values (kv)",
    "vs_peer": "latency of the peer pipeline with the same preset / this latency",
    "vs_fused_peer": "latency of the fused peer with the same preset / this latency",
    "vs_compiled_stock": "latency of the compiled stock with the same preset / this latency",
    "vs_none": "latency of the same pipeline without merging / this latency",
    "difference": "|this - reference| / |reference| of the outputs, same weights and input",
    "reference": "the pipeline that outputs are compared with: the first that ran of peer, fused "
    "peer, compiled stock, ours",
    "launch": "how kernels are launched, one by one (eager) or otherwise",
    "pipeline": {
        "ours": "mmseg_tome; weights in half precision as mmseg_tome.FastInferenceHook has them",
        "ours, graphs": "the same by CUDA graphs, which have no effect on a CPU",
        "peer": "stock MMSegmentation model, attention matrices materialised, tomesd merging",
        "fused peer": "the peer with nn.MultiheadAttention's need_weights=False, so that torch's "
        "scaled_dot_product_attention runs",
        "compiled stock": "the fused peer, its backbone and head compiled by torch.compile "
        "(inductor, default mode, static shapes) and captured as CUDA graphs as ours are",
    },
}

TRAINING_DEFINITIONS = {
    "latency_ms": "milliseconds of one training step of the batch: forward in train mode, loss, "
    "backward, update by AdamW (fused on a GPU). Each variant in its own turn, in two passes over "
    "all variants; median and quartiles over both",
    "loss": "cross entropy of the logits, resized to the image, against random labels; the mean "
    "squared error against random targets of heatmaps, or of a backbone alone its last stage",
    "memory_mib": "peak memory of one step beyond weights, optimizer state and input: activations, "
    "gradients, workspace",
    "gflops": "10^9 floating-point operations per image of forward and backward",
    "difference": "not compared: dropout differs. Inference runs compare outputs",
}


PEERS = [name for name, recipe in networks.RECIPES.items() if recipe.of_peer]
"""Pipelines that ours are compared with, each in a column of its own."""


def environment(devices: list[torch.device]) -> dict:
    """Hardware, threads and versions that the numbers belong to."""
    cuda = [d for d in devices if d.type == "cuda"]
    return {
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name(cuda[0]) if cuda else None,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32 if cuda else None,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32 if cuda else None,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": platform.system(),
        # torch's own word names the build, such as 2.13.0+cu130.
        "versions": {name: v for name in PACKAGES if (v := _version(name))}
        | {"torch": torch.__version__},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def empty_row(variant: str, pipeline: str) -> dict:
    """A row of results with nothing measured yet."""
    measured = (
        *("latency_ms", "samples_ms", "images_per_s", "memory_mib", "memory_kind", "weights_mib"),
        *("gflops", "gflops_by_operator", "attention", "launch", "tokens_kept"),
        *("vs_peer", "vs_fused_peer", "vs_compiled_stock", "vs_none"),
        *("difference", "reference", "error"),
    )
    return {"variant": variant, "pipeline": pipeline, **dict.fromkeys(measured)}


def add_ratios(rows: list[dict]) -> None:
    """Fill the ``vs_`` columns of the rows of one case, in place; above 1 is faster."""
    median = {
        (r["pipeline"], r["variant"]): r["latency_ms"]["median"] for r in rows if r["latency_ms"]
    }
    baseline = next((r["variant"] for r in rows if r["baseline"]), None)
    for row in rows:
        pipeline, variant = row["pipeline"], row["variant"]
        others = {"vs_none": (pipeline, baseline)}
        if networks.is_ours(pipeline):
            others |= {f"vs_{peer.replace(' ', '_')}": (peer, variant) for peer in PEERS}
        for column, other in others.items():
            row[column] = ratio(median.get(other), median.get((pipeline, variant)))


def ratio(other: float | None, own: float | None) -> float | None:
    """How many times as long the other takes, if both were measured."""
    return other / own if other and own else None


def grouped(rows: list[dict], keys: Sequence[str] = CASE) -> list[list[dict]]:
    """Rows that agree in ``keys`` together, in order."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def title(rows: list[dict]) -> str:
    """One line that names a case."""
    model, size, batch, dtype, device, part, mode = (rows[0][key] for key in CASE)
    training_step = ", training step" if mode == "training" else ""
    return f"{model}, {size}, batch {batch}, {dtype}, {device}, {part}{training_step}"


def plain(args: argparse.Namespace) -> dict:
    """The options of a command line as JSON takes them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}


def write_json(path: Path, env: dict, arguments: dict, rows: list[dict]) -> None:
    """Write everything measured so far; the file is replaced as a whole."""
    definitions = dict(DEFINITIONS)
    if any("breakdown" in row for row in rows):
        definitions["breakdown"] = breakdown.DEFINITIONS
    if any(row["mode"] == "training" for row in rows):
        definitions["training"] = TRAINING_DEFINITIONS
    report = dict(environment=env, arguments=arguments, definitions=definitions, results=rows)
    output.write_json(path, report, indent=2)
