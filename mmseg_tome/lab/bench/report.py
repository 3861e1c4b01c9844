"""What a run found: printed tables and a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmseg_tome.files import replacing

from . import breakdown, pipelines
from .parts import PARTS, REST
from .rates import Rates

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


def warning(env: dict) -> str | None:
    """A line of warning if the machine was busy before the run began, else None."""
    if (env["load_average"] or 0) <= 0.5 * (env["cpu_cores"] or 1):
        return None
    return (
        f"warning: load average {env['load_average']:.1f} on {env['cpu_cores']} cores before the "
        "run: other programs share this machine, do not trust the times"
    )


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
        own = median.get((row["pipeline"], row["variant"]))
        others = {"vs_none": median.get((row["pipeline"], baseline))}
        if pipelines.is_ours(row["pipeline"]):
            others["vs_peer"] = median.get(("peer", row["variant"]))
            others["vs_fused_peer"] = median.get(("fused peer", row["variant"]))
            others["vs_compiled_stock"] = median.get(("compiled stock", row["variant"]))
        for column, other in others.items():
            row[column] = other / own if own and other else None


def cases(rows: list[dict]) -> dict[tuple, list[dict]]:
    """The rows of each case, in order."""
    grouped: dict[tuple, list[dict]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in CASE), []).append(row)
    return grouped


def title(rows: list[dict]) -> str:
    """One line that names a case."""
    model, size, batch, dtype, device, part, mode = (rows[0][key] for key in CASE)
    training_step = ", training step" if mode == "training" else ""
    return f"{model}, {size}, batch {batch}, {dtype}, {device}, {part}{training_step}"


_COLUMNS: dict[str, Callable[[dict], str]] = {
    "ms": lambda row: f"{row['latency_ms']['median']:.1f}",
    "q1-q3": lambda row: f"{row['latency_ms']['q1']:.1f}-{row['latency_ms']['q3']:.1f}",
    "img/s": lambda row: f"{row['images_per_s']:.2f}",
    "x peer": lambda row: _cell(row["vs_peer"], "{:.2f}x"),
    "x fused peer": lambda row: _cell(row["vs_fused_peer"], "{:.2f}x"),
    "x compiled": lambda row: _cell(row["vs_compiled_stock"], "{:.2f}x"),
    "x none": lambda row: _cell(row["vs_none"], "{:.2f}x"),
    "MiB": lambda row: _cell(row["memory_mib"], "{:.0f}"),
    "GFLOPs": lambda row: f"{row['gflops']:.2f}",
    "difference": lambda row: _cell(row["difference"], "{:.1e}"),
}


def print_case(rows: list[dict], console: Console) -> None:
    """Print the rows of one case as a table, without columns that no row fills."""
    done = [row for row in rows if not row["error"]]
    columns = {
        name: cell for name, cell in _COLUMNS.items() if any(cell(row) != _NOTHING for row in done)
    }
    table = _table(title(rows))
    table.add_column("preset", no_wrap=True)
    table.add_column("pipeline", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens kept % (stages 1-4)", no_wrap=True)
    for row in rows:
        names = (row["variant"], row["pipeline"])
        if row["error"]:
            table.add_row(*names, *[_NOTHING] * len(columns), f"[red]{escape(row['error'])}[/red]")
        else:
            cells = [cell(row) for cell in columns.values()]
            table.add_row(*names, *cells, _tokens(row["tokens_kept"]))
    console.print(table)


_NOTHING = "-"


def _table(heading: str) -> Table:
    """An empty table with narrow gaps: everything has to fit into 160 columns."""
    return Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))


def _cell(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _tokens(kept: list[dict] | None) -> str:
    """``q 100 100 20 20, kv 40 40 100 100``; what merges nothing is left out."""
    if not kept:
        return ""
    shares = {s: [round(100 * stage[s][0] / stage[s][1]) for stage in kept] for s in ("q", "kv")}
    shown = [f"{s} {' '.join(map(str, v))}" for s, v in shares.items() if set(v) != {100}]
    return ", ".join(shown) or "all"


_BREAKDOWN_LINES = {"ms": "ms", "floor_ms": "floor", "fused_floor_ms": "fused floor"}


def print_breakdown(rows: list[dict], rates: Rates, console: Console) -> None:
    """Print where the time goes in each row of a case, beside its floors."""
    rows = [row for row in rows if row.get("breakdown") or row.get("breakdown_error")]
    present = {part for row in rows for part in row["breakdown"] or ()}
    parts = [part for part in (*PARTS, REST) if part in present]
    table = _table("Where the time goes, ms")
    table.add_column("preset", no_wrap=True)
    table.add_column("pipeline", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("all", *parts):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row["breakdown_error"]:
            error = f"[red]{escape(row['breakdown_error'])}[/red]"
            table.add_row(row["variant"], row["pipeline"], error)
            continue
        found = row["breakdown"]
        names = (row["variant"], row["pipeline"])
        for key, label in _BREAKDOWN_LINES.items():
            values = [sum(part[key] for part in found.values())]
            values += [found[part][key] if part in found else None for part in parts]
            style = None if key == "ms" else "dim"
            table.add_row(*names, label, *map(_milliseconds, values), style=style)
            names = ("", "")
        table.add_section()
    console.print(table)
    rate = rates.report()
    products = ", ".join(f"{k} {v:.4g}" for k, v in rate["matmul_gflop_per_s"].items())
    console.print(
        f"Floors: copy {rate['copy_gb_per_s']:.4g} GB/s; matmul, GFLOP/s: {products}. Of the "
        "operators that ran; fused: if each part were one kernel.",
        highlight=False,
    )


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 9.95 else f"{value:.2f}"


def print_environment(env: dict, rows: list[dict], console: Console) -> None:
    """Print where and how the numbers were measured."""
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
    if busy := warning(env):
        console.print(busy, style="yellow", highlight=False)
    console.print(
        f"CPU: {env['cpu']}, {env['cpu_cores']} cores, {env['threads']} threads"
        + (f"; GPU: {env['gpu']}, TF32 {env['tf32_matmul']}" if env["gpu"] else ""),
        versions,
        *sorted({f"Attention, {r['pipeline']}: {r['attention']}" for r in rows if r["attention"]}),
        *sorted({f"Launch, {r['pipeline']}: {r['launch']}" for r in rows if _says_launch(r)}),
        *sorted({f"Memory: {r['memory_kind']}" for r in rows if r["memory_kind"]}),
        "FLOPs are per image, 2 per multiply-add: matrix products and convolutions.",
        *(_TRAINING_LINES if any(r["mode"] == "training" for r in rows) else ()),
        sep="\n",
        highlight=False,
        markup=False,
    )


_TRAINING_LINES = (
    "A training step: forward in train mode, loss, backward, AdamW. FLOPs: forward and backward.",
    "Outputs of training are not compared, dropout differs: a run without --train compares them.",
)


def _says_launch(row: dict) -> bool:
    """Whether how kernels are launched goes without saying: it does if eagerly, as always."""
    asked_for_graphs = row["pipeline"] == pipelines.GRAPHS.name
    return bool(row["launch"]) and (asked_for_graphs or row["launch"] != "eager")


def plain(args: argparse.Namespace) -> dict:
    """The options of a command line as JSON takes them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}


def write_json(path: Path, env: dict, arguments: dict, rows: list[dict]) -> None:
    """Write everything measured so far; the file is replaced as a whole."""
    report = {
        "environment": env,
        "arguments": arguments,
        "definitions": DEFINITIONS | _further_definitions(rows),
        "results": rows,
    }
    text = json.dumps(report, indent=2) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text)


def _further_definitions(rows: list[dict]) -> dict:
    found = {}
    if any("breakdown" in row for row in rows):
        found["breakdown"] = breakdown.DEFINITIONS
    if any(row["mode"] == "training" for row in rows):
        found["training"] = TRAINING_DEFINITIONS
    return found
