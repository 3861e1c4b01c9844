"""What runs of the tools took: their rows, one row a variant with ratios, printed tables."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from mmseg_tome.lab.bench.results import grouped, ratio
from mmseg_tome.lab.bench.tables import NOTHING, Columns, cell, filled, new_table, red

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
    known = {"title": run.task.title, "batch": batch, "size": size}
    return _key(run) | known | dict.fromkeys(empty)


def losses_row(run: Run) -> dict:
    """The row of a comparison of losses before it ran."""
    empty = dict.fromkeys(("steps", "difference", "noise", "losses", "error"))
    return _key(run) | {"commands": [], "said": []} | empty


def _key(run: Run) -> dict:
    return {key: getattr(run, key) for key in KEY[1:]} | {"case": run.task.name}


def summarise(rows: list[dict]) -> list[dict]:
    """One row a variant, over all rounds, with ratios."""
    table = [_merged(rounds) for rounds in grouped(rows, KEY)]
    by_key = {tuple(row[key] for key in KEY): row["seconds"] for row in table}
    for row in table:
        case, model, variant, dtype, launch, gpus = (row[key] for key in KEY)
        seconds, stocks = row["seconds"], dtype if case == "train" else "float32"
        stock = by_key.get((case, model, STOCK, stocks, "auto", gpus))
        none = by_key.get((case, model, "none", dtype, launch, gpus))
        alone = by_key.get((case, model, variant, dtype, launch, 1))
        row["vs_stock"] = ratio(stock, seconds)
        row["vs_none"] = None if variant == STOCK else ratio(none, seconds)
        speedup = ratio(alone, seconds)
        row["speedup"] = speedup * gpus if speedup and gpus > 1 else None
    return table


def _merged(rounds: list[dict]) -> dict:
    row = {key: rounds[0][key] for key in (*KEY, "title", "batch", "size")}
    done = [r for r in rounds if r["seconds"] and not r["error"]]
    seconds = [r["seconds"] for r in done]
    row["seconds"] = statistics.median(seconds) if done else None
    row["spread"] = [min(seconds), max(seconds)] if done else None
    row["per_image"] = row["seconds"] / row["batch"] if done else None
    row["data_share"] = statistics.median(r["data_share"] for r in done) if done else None
    for key in ("allocated_mib", "gpu_mib"):
        row[key] = max((r[key] for r in done if r[key]), default=None)
    row["metrics"] = next((r["metrics"] for r in done if r["metrics"]), None)
    row["error"] = next((r["error"] for r in rounds if r["error"]), None)
    return row


_COLUMNS: Columns = {
    "s": lambda row: cell(row["seconds"], "{:.4f}"),
    "min-max": lambda row: "{:.4f}-{:.4f}".format(*row["spread"]) if row["spread"] else NOTHING,
    "s/image": lambda row: cell(row["per_image"], "{:.4f}"),
    "x stock": lambda row: cell(row["vs_stock"], "{:.2f}x"),
    "x none": lambda row: cell(row["vs_none"], "{:.2f}x"),
    "x 1 GPU": lambda row: cell(row["speedup"], "{:.2f}x"),
    "data %": lambda row: cell(row["data_share"], "{:.0%}"),
    "MiB": lambda row: cell(row["allocated_mib"], "{:.0f}"),
    "MiB smi": lambda row: cell(row["gpu_mib"], "{:.0f}"),
    "metric": lambda row: cell(_metric(row["metrics"] or {}), "{:.3f}"),
}


def print_tables(table: list[dict], console: Console) -> None:
    """One table a case and model."""
    for rows in grouped(table, ("case", "model")):
        console.print(_table(rows))


def _table(rows: list[dict]) -> Table:
    first = rows[0]
    batch = f"{first['batch'] // first['gpus']}{' a GPU' if rows[-1]['gpus'] > 1 else ''}"
    heading = f"{first['title']}, {first['model']}, {first['size']}, batch {batch}"
    columns = filled(_COLUMNS, rows)
    if all(row["batch"] == 1 for row in rows):
        columns.pop("s/image", None)
    table = new_table(heading, ("variant", "switches"), columns)
    if any(row["error"] for row in rows):
        table.add_column("error")
    for row in rows:
        cells = [of(row) for of in columns.values()]
        error = [red(row["error"])] if row["error"] else []
        table.add_row(row["variant"], _switches(row), *cells, *error)
    return table


def print_losses(rows: list[dict], console: Console) -> None:
    """One table of all comparisons."""
    table = new_table("Losses of training, largest relative difference of a step", (), ())
    names = ("variant", "switches", "steps", "first loss", "last loss")
    for name in (*names, "graphs : eager", "eager : eager", "error"):
        table.add_column(name)
    for row in rows:
        eager = (row["losses"] or {}).get("eager") or [None]
        table.add_row(
            row["variant"],
            _switches(row | {"launch": "auto"}),
            str(row["steps"] or NOTHING),
            cell(eager[0], "{:.5f}"),
            cell(eager[-1], "{:.5f}"),
            cell(row["difference"], "{:.1e}"),
            cell(row["noise"], "{:.1e}"),
            red(row["error"]) if row["error"] else "",
        )
    console.print(table)


def _switches(row: dict) -> str:
    named = [] if row["dtype"] == "float32" else [row["dtype"]]
    named += [] if row["launch"] == "auto" else [row["launch"]]
    named += [f"{row['gpus']} GPUs"] if row["gpus"] > 1 else []
    return ", ".join(named)


def _metric(metrics: dict[str, float]) -> float | None:
    """The metric that tables show."""
    return next((metrics[m] for m in ("mIoU", "PCK@0.1/PCK", "coco/AP") if m in metrics), None)
