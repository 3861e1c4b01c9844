"""What a run found: a printed table, a JSON file and a plot."""

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
        "definitions": DEFINITIONS,
        "results": rows,
    }
    text = json.dumps(report, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def write_plot(path: Path, env: dict, rows: list[dict]) -> None:
    """Plot the median latency of every variant, one panel per case, with its quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    panels = [r for r in cases(rows).values() if any(row["latency_ms"] for row in r)]
    if not panels:
        return
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 3.6 * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        _draw_case(axis, panel)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    hardware = env["gpu"] or f"{env['cpu']}, {env['threads']} threads"
    figure.suptitle(f"{hardware}, torch {env['versions'].get('torch', '')}", fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))


_COLOURS = {"ours": "#0072b2", "peer": "#bbbbbb"}
_LEGEND = {"ours": "ours (x: faster than the peer)", "peer": "peer: stock mmseg + tomesd"}
_CENTRED = {"ha": "center", "va": "bottom", "fontsize": 8}


def _draw_case(axis, rows: list[dict]) -> None:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    pipelines = [p for p in _COLOURS if any(row["pipeline"] == p for row in rows)]
    width = 0.8 / len(pipelines)
    for i, pipeline in enumerate(pipelines):
        done = [r for r in rows if r["pipeline"] == pipeline and r["latency_ms"]]
        middle = [r["latency_ms"]["median"] for r in done]
        x = [variants.index(r["variant"]) + (i - (len(pipelines) - 1) / 2) * width for r in done]
        low = [m - r["latency_ms"]["q1"] for m, r in zip(middle, done, strict=True)]
        high = [r["latency_ms"]["q3"] - m for m, r in zip(middle, done, strict=True)]
        axis.bar(x, middle, width, label=_LEGEND[pipeline], color=_COLOURS[pipeline])
        axis.errorbar(x, middle, [low, high], fmt="none", ecolor="#333333", capsize=2)
        for left, row in zip(x, done, strict=True):
            above = (left, row["latency_ms"]["q3"])
            axis.annotate(_label(row), above, (0, 3), textcoords="offset points", **_CENTRED)
    axis.set_xticks(range(len(variants)), variants)
    if max(map(len, variants)) > 12:  # names of config files
        axis.tick_params(axis="x", rotation=15, labelsize=7)
    axis.set_ylabel("latency (ms), median and quartiles")
    axis.set_title(title(rows), fontsize=9)
    axis.margins(y=0.18)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def _label(row: dict) -> str:
    speed = f"\n{row['vs_peer']:.2f}x" if row["vs_peer"] else ""
    return f"{row['latency_ms']['median']:.4g}{speed}"


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
