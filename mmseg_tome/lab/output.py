"""What the lab's commands keep and show: digests, JSON, tables in Markdown, figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmseg_tome.files import replacing, write_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def digest(content) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content; it is read again only once it has changed."""
    return _file_digest(Path(path), Path(path).stat().st_mtime_ns)


@cache
def _file_digest(path: Path, _modified: int) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_json(path: Path, content, indent: int = 1) -> None:
    """Replace a JSON file as a whole.

    Raises:
        UserError: It cannot be written.
    """
    write_text(path, json.dumps(content, indent=indent) + "\n")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, all columns but the first to the right."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [first, f"|---{'|--:' * (len(heads) - 1)}|", *others]


def new_figure(size: tuple[float, float], rows: int = 1, columns: int = 1):
    """A matplotlib figure of `size` inches and its axes, `[rows, columns]`."""
    from matplotlib.figure import Figure  # without pyplot: no window, nothing global

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(path: Path, figure, dpi: int) -> None:
    """Replace a PNG file as a whole.

    Raises:
        UserError: It cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, format="png")
