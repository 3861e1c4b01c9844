"""What runs of the tools took: rows, ratios, tables."""

from __future__ import annotations

import statistics
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .variants import STOCK, Run

DEFINITIONS = {
    "seconds": "of one iteration by mm's own timer: mean over the windows of iterations in the "
    "run's log that began after the warm-up; of several rounds, their median",
    "per_image": "seconds / batch; the batch of all processes together",
    "data_share": "mm's data_time / time: the part of an iteration that waits for the data loader; "
    "after a line of the log, which reads the memory off a GPU, for the GPU's queue as well",
    "allocated_mib": "`memory` of mm's log: torch.cuda.max_memory_allocated, warm-up included",
    "gpu_mib": "most memory in use on one GPU, read off nvidia-smi every half second: with cached "
    "blocks, private pools of CUDA graphs and the driver's share",
    "vs_stock": "seconds of stock / these, same number of processes (and precision, in training)",
    "vs_none": "seconds of our none / these, same switches",
    "speedup": "images a second / those of the same command on one GPU",
    "metrics": "of random weights: they show that variants compute the same, nothing else",
    "said": "what the tools' log says about how they run",
    "stock": "our config with all of ours taken out: mmseg's backbone, head, model and metric or "
    "MMPose's model around the same heatmap head, fused and decoded as in stock; no hooks, "
    "optimizer constructor or collate function of ours",
    "difference": "largest relative difference of a step's loss, graphs against eager",
    "noise": "the same, of two eager runs",
}

KEY = ("case", "model", "variant", "dtype", "launch", "gpus")


def new_row(run: Run, batch: int, size: str) -> dict:
    """The row of a variant in one round before it ran."""
    empty = (
        *("command", "seconds", "data_share", "allocated_mib", "gpu_mib", "wall_s"),
        *("windows", "metrics", "said", "error"),
    )
    return (
        _key(run) | {"title": run.case.title, "batch": batch, "size": size} | dict.fromkeys(empty)
    )


def losses_row(run: Run) -> dict:
    """The row of a comparison of losses before it ran."""
    empty = dict.fromkeys(("steps", "difference", "noise", "losses", "error"))
    return _key(run) | {"commands": [], "said": []} | empty


def _key(run: Run) -> dict:
    values = asdict(run)
    return {key: values[key] for key in KEY if key != "case"} | {"case": run.case.name}


def summarise(rows: list[dict]) -> list[dict]:
    """One row a variant, over all rounds, with ratios."""
    grouped: dict[tuple, list[dict]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[key] for key in KEY), []).append(row)
    table = [_merged(rounds) for rounds in grouped.values()]
    by_key = {tuple(row[key] for key in KEY): row["seconds"] for row in table}
    for row in table:
        training = row["case"] == "train"
        case, model = row["case"], row["model"]
        dtype = row["dtype"] if training else "float32"
        stock = by_key.get((case, model, STOCK, dtype, "auto", row["gpus"]))
        none = by_key.get((case, model, "none", row["dtype"], row["launch"], row["gpus"]))
        alone = by_key.get((case, model, row["variant"], row["dtype"], row["launch"], 1))
        row["vs_stock"] = _ratio(stock, row["seconds"])
        row["vs_none"] = None if row["variant"] == STOCK else _ratio(none, row["seconds"])
        speedup = _ratio(alone, row["seconds"])
        row["speedup"] = speedup * row["gpus"] if speedup and row["gpus"] > 1 else None
    return table


def _ratio(other: float | None, own: float | None) -> float | None:
    return other / own if other and own else None


def _merged(rounds: list[dict]) -> dict:
    row = {key: rounds[0][key] for key in (*KEY, "title", "batch", "size")}
    done = [r for r in rounds if r["seconds"] and not r["error"]]
    seconds = [r["seconds"] for r in done]
    row["seconds"] = statistics.median(seconds) if seconds else None
    row["spread"] = [min(seconds), max(seconds)] if seconds else None
    row["per_image"] = row["seconds"] / row["batch"] if seconds else None
    shares = [r["data_share"] for r in done]
    row["data_share"] = statistics.median(shares) if shares else None
    for key in ("allocated_mib", "gpu_mib"):
        row[key] = max((r[key] for r in done if r[key]), default=None)
    row["metrics"] = next((r["metrics"] for r in done if r["metrics"]), None)
    row["error"] = next((r["error"] for r in rounds if r["error"]), None)
    return row


def print_tables(table: list[dict], console: Console) -> None:
    """One table a case and model."""
    grouped: dict[tuple, list[dict]] = {}
    for row in table:
        grouped.setdefault((row["case"], row["model"]), []).append(row)
    for rows in grouped.values():
        console.print(_table(rows))


_COLUMNS = {
    "s": lambda row: _cell(row["seconds"], "{:.4f}"),
    "min-max": lambda row: "{:.4f}-{:.4f}".format(*row["spread"]) if row["spread"] else "-",
    "s/image": lambda row: _cell(row["per_image"], "{:.4f}"),
    "x stock": lambda row: _cell(row["vs_stock"], "{:.2f}x"),
    "x none": lambda row: _cell(row["vs_none"], "{:.2f}x"),
    "x 1 GPU": lambda row: _cell(row["speedup"], "{:.2f}x"),
    "data %": lambda row: _cell(row["data_share"], "{:.0%}"),
    "MiB": lambda row: _cell(row["allocated_mib"], "{:.0f}"),
    "MiB smi": lambda row: _cell(row["gpu_mib"], "{:.0f}"),
    "metric": lambda row: _cell(_metric(row["metrics"]), "{:.3f}"),
}


def _table(rows: list[dict]) -> Table:
    first = rows[0]
    batch = f"{first['batch'] // first['gpus']}{' a GPU' if rows[-1]['gpus'] > 1 else ''}"
    heading = f"{first['title']}, {first['model']}, {first['size']}, batch {batch}"
    columns = {k: cell for k, cell in _COLUMNS.items() if any(cell(row) != "-" for row in rows)}
    if all(row["batch"] == 1 for row in rows):
        columns.pop("s/image", None)
    table = Table(title=heading, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in ("variant", "switches"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    if any(row["error"] for row in rows):
        table.add_column("error")
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        error = [f"[red]{escape(row['error'])}[/red]"] if row["error"] else []
        table.add_row(row["variant"], _switches(row), *cells, *error)
    return table


def print_losses(rows: list[dict], console: Console) -> None:
    """One table of all comparisons."""
    title = "Losses of training, largest relative difference of a step"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    names = ("variant", "switches", "steps", "first loss", "last loss")
    for name in (*names, "graphs : eager", "eager : eager", "error"):
        table.add_column(name)
    for row in rows:
        eager = (row["losses"] or {}).get("eager") or [None]
        table.add_row(
            row["variant"],
            _switches(row | {"launch": "auto"}),
            str(row["steps"] or "-"),
            _cell(eager[0], "{:.5f}"),
            _cell(eager[-1], "{:.5f}"),
            _cell(row["difference"], "{:.1e}"),
            _cell(row["noise"], "{:.1e}"),
            f"[red]{escape(row['error'])}[/red]" if row["error"] else "",
        )
    console.print(table)


def _switches(row: dict) -> str:
    named = [] if row["dtype"] == "float32" else [row["dtype"]]
    named += [] if row["launch"] == "auto" else [row["launch"]]
    named += [f"{row['gpus']} GPUs"] if row["gpus"] > 1 else []
    return ", ".join(named)


def _metric(metrics: dict[str, float] | None) -> float | None:
    """The metric that tables show."""
    names = ("mIoU", "PCK@0.1/PCK", "coco/AP")
    return (
        next((metrics[name] for name in names if name in metrics or ()), None) if metrics else None
    )


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
