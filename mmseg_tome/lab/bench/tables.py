"""Printed tables of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import networks, results
from .parts import PARTS, REST
from .rates import Rates

NOTHING = "-"
Columns = dict[str, Callable[[dict], str]]
"""Cells of a row by the column's heading."""


def new_table(heading: str, left: Iterable[str], right: Iterable[str]) -> Table:
    """An empty table with narrow gaps: everything has to fit into 160 columns."""
    table = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def filled(columns: Columns, rows: list[dict]) -> Columns:
    """Those columns that some row fills."""
    return {name: of for name, of in columns.items() if any(of(row) != NOTHING for row in rows)}


def cell(value: float | None, form: str) -> str:
    """A number as text."""
    return NOTHING if value is None else form.format(value)


def red(error: str) -> str:
    """An error as a cell."""
    return f"[red]{escape(error)}[/red]"


_COLUMNS: Columns = {
    "ms": lambda row: f"{row['latency_ms']['median']:.1f}",
    "q1-q3": lambda row: f"{row['latency_ms']['q1']:.1f}-{row['latency_ms']['q3']:.1f}",
    "img/s": lambda row: f"{row['images_per_s']:.2f}",
    "x peer": lambda row: cell(row["vs_peer"], "{:.2f}x"),
    "x fused peer": lambda row: cell(row["vs_fused_peer"], "{:.2f}x"),
    "x compiled": lambda row: cell(row["vs_compiled_stock"], "{:.2f}x"),
    "x none": lambda row: cell(row["vs_none"], "{:.2f}x"),
    "MiB": lambda row: cell(row["memory_mib"], "{:.0f}"),
    "GFLOPs": lambda row: f"{row['gflops']:.2f}",
    "difference": lambda row: cell(row["difference"], "{:.1e}"),
}


def print_case(rows: list[dict], console: Console) -> None:
    """Print the rows of one case as a table."""
    columns = filled(_COLUMNS, [row for row in rows if not row["error"]])
    table = new_table(results.title(rows), ("preset", "pipeline"), columns)
    table.add_column("tokens kept % (stages 1-4)", no_wrap=True)
    for row in rows:
        names = (row["variant"], row["pipeline"])
        if row["error"]:
            table.add_row(*names, *[NOTHING] * len(columns), red(row["error"]))
        else:
            table.add_row(*names, *(of(row) for of in columns.values()), _tokens(row))
    console.print(table)


def _tokens(row: dict) -> str:
    """``q 100 100 20 20, kv 40 40 100 100``; what merges nothing is left out."""
    kept = row["tokens_kept"]
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
    table = new_table("Where the time goes, ms", ("preset", "pipeline", ""), ("all", *parts))
    for row in rows:
        names = (row["variant"], row["pipeline"])
        if row["breakdown_error"]:
            table.add_row(*names, red(row["breakdown_error"]))
            continue
        found = row["breakdown"]
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
    return cell(value, "{:.1f}" if value and abs(value) >= 9.95 else "{:.2f}")


def print_environment(env: dict, rows: list[dict], console: Console) -> None:
    """Print where and how the numbers were measured."""
    print_warning(env, console)
    console.print(
        f"CPU: {env['cpu']}, {env['cpu_cores']} cores, {env['threads']} threads"
        + (f"; GPU: {env['gpu']}, TF32 {env['tf32_matmul']}" if env["gpu"] else ""),
        versions(env),
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
    asked_for_graphs = row["pipeline"] == networks.GRAPHS.name
    return bool(row["launch"]) and (asked_for_graphs or row["launch"] != "eager")


def versions(env: dict) -> str:
    """A line with the versions of the packages."""
    return ", ".join(f"{name} {version}" for name, version in env["versions"].items())


def print_warning(env: dict, console: Console) -> None:
    """Print a line of warning if the machine was busy before the run began."""
    if line := warning(env):
        console.print(line, style="yellow", highlight=False)


def warning(env: dict) -> str | None:
    """That line, or None."""
    if (env["load_average"] or 0) <= 0.5 * (env["cpu_cores"] or 1):
        return None
    return (
        f"warning: load average {env['load_average']:.1f} on {env['cpu_cores']} cores before the "
        "run: other programs share this machine, do not trust the times"
    )
