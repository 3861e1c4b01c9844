"""What a run found: printed tables and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import breakdown
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
CASE = ("model", "size", "batch", "dtype", "device", "part")
"""Rows that agree in these were timed in turns and compare with each other."""

DEFINITIONS = {
    "latency_ms": "milliseconds of one forward pass of the batch; median over rounds, q1 and q3 "
    "its quartiles. All variants of a case take turns in each round.",
    "images_per_s": "batch / median latency",
    "memory_mib": "peak memory of one forward beyond weights and input; memory_kind says how",
    "gflops": "10^9 floating-point operations per image, 2 per multiply-add: matrix products "
    "(attention and matching included) and convolutions",
    "tokens_kept": "per stage, [kept, total] of the queries (q) and of the keys/values (kv)",
    "vs_peer": "latency of the peer pipeline with the same preset / this latency",
    "vs_none": "latency of the same pipeline without merging / this latency",
    "difference": "|ours - peer| / |peer| of the outputs, same weights and input",
    "peer": "stock MMSegmentation model, attention matrices materialised, tomesd merging",
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
        *("gflops", "gflops_by_operator", "attention", "tokens_kept"),
        *("vs_peer", "vs_none", "difference", "error"),
    )
    return {"variant": variant, "pipeline": pipeline, **dict.fromkeys(measured)}


def add_ratios(rows: list[dict]) -> None:
    """Fill ``vs_peer`` and ``vs_none`` of the rows of one case, in place; above 1 is faster."""
    median = {
        (r["pipeline"], r["variant"]): r["latency_ms"]["median"] for r in rows if r["latency_ms"]
    }
    baseline = next((r["variant"] for r in rows if r["baseline"]), None)
    for row in rows:
        own = median.get((row["pipeline"], row["variant"]))
        peer = median.get(("peer", row["variant"])) if row["pipeline"] == "ours" else None
        none = median.get((row["pipeline"], baseline))
        row["vs_peer"] = peer / own if own and peer else None
        row["vs_none"] = none / own if own and none else None


def cases(rows: list[dict]) -> dict[tuple, list[dict]]:
    """The rows of each case, in order."""
    grouped: dict[tuple, list[dict]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in CASE), []).append(row)
    return grouped


def title(rows: list[dict]) -> str:
    """One line that names a case."""
    model, size, batch, dtype, device, part = (rows[0][key] for key in CASE)
    return f"{model}, {size}, batch {batch}, {dtype}, {device}, {part}"


def print_case(rows: list[dict], console: Console) -> None:
    """Print the rows of one case as a table."""
    table = Table(title=title(rows), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("preset", no_wrap=True)
    table.add_column("pipeline")
    for name in ("ms", "q1-q3", "img/s", "vs peer", "vs none", "MiB", "GFLOPs", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens kept % (stages 1-4)", no_wrap=True)
    for row in rows:
        cells = [row["variant"], row["pipeline"]]
        if row["error"]:
            table.add_row(*cells, *["-"] * 8, f"[red]{escape(row['error'])}[/red]")
            continue
        latency = row["latency_ms"]
        cells += [
            f"{latency['median']:.1f}",
            f"{latency['q1']:.1f}-{latency['q3']:.1f}",
            f"{row['images_per_s']:.2f}",
            _cell(row["vs_peer"], "{:.2f}x"),
            _cell(row["vs_none"], "{:.2f}x"),
            _cell(row["memory_mib"], "{:.0f}"),
            f"{row['gflops']:.2f}",
            _cell(row["difference"], "{:.1e}"),
            _tokens(row["tokens_kept"]),
        ]
        table.add_row(*cells)
    console.print(table)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


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
    rows = [row for row in rows if not row["error"]]
    present = {part for row in rows for part in row["breakdown"] or ()}
    parts = [part for part in (*PARTS, REST) if part in present]
    table = Table(title="Where the time goes, ms", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("preset", no_wrap=True)
    table.add_column("pipeline")
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
        *sorted({f"Memory: {r['memory_kind']}" for r in rows if r["memory_kind"]}),
        "FLOPs are per image, 2 per multiply-add: matrix products and convolutions.",
        sep="\n",
        highlight=False,
        markup=False,
    )


def write_json(path: Path, env: dict, arguments: dict, rows: list[dict]) -> None:
    """Write everything measured so far; the file is replaced as a whole."""
    report = {
        "environment": env,
        "arguments": arguments,
        "definitions": DEFINITIONS | _breakdown_definitions(rows),
        "results": rows,
    }
    text = json.dumps(report, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def _breakdown_definitions(rows: list[dict]) -> dict:
    asked = any("breakdown" in row for row in rows)
    return {"breakdown": breakdown.DEFINITIONS} if asked else {}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp's 0600 would keep others from reading results
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
