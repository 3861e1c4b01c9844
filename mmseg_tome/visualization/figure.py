"""A figure of many pictures of one size, with titles, a legend and a colour bar.

Everything is placed by the pixel: a picture is shown as it was painted, nothing is scaled again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

DPI = 100
AREA = 330_000  # pixels of a picture, about
NARROWEST, WIDEST = 460, 1000  # of a picture; titles need some room
GAP, MARGIN = 24, 32
TITLES, HEADING, LINE = 72, 92, 38  # heights of two lines of title, the heading, a line of legend
LARGE, MEDIUM, SMALL = 30, 23, 21  # heights of fonts
BEST_ASPECT = 1.5
"""Width over height that a figure should come close to: of a screen, and of a page's width."""
BAR = 640  # width of the colour bar's part of the legend, at most


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a figure, with two lines above it."""

    picture: np.ndarray  # uint8 RGB, [H, W, 3], of the layout's size
    title: str  # bold
    detail: str


@dataclass(frozen=True)
class ColourBar:
    """What colours mean, from 0 to 1."""

    colour_map: str  # matplotlib's name of the colours
    gamma: float  # they follow this power of the value
    ticks: Sequence[tuple[float, str]]  # values and their labels
    ends: tuple[str, str]  # what 0 and 1 mean


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a figure go."""

    cells: tuple[tuple[int, int], ...]  # row and column of each picture
    size: tuple[int, int]  # height and width of a picture in pixels

    @property
    def rows(self) -> int:
        return 1 + max(row for row, _ in self.cells)

    @property
    def cols(self) -> int:
        return 1 + max(col for _, col in self.cells)


def choose_layout(aspect: float, lines: Sequence[int]) -> Layout:
    """Lay lines of pictures out as rows or as columns, whichever suits a screen better.

    Pictures of any shape cover about the same area.

    Args:
        aspect: Width over height of the pictures.
        lines: How many pictures each line holds.
    """
    width = min(max(math.sqrt(AREA * aspect), NARROWEST), WIDEST)
    size = (max(1, round(width / aspect)), round(width))
    as_rows = [(row, col) for row, count in enumerate(lines) for col in range(count)]
    as_columns = [(col, row) for row, col in as_rows]
    layouts = [Layout(tuple(cells), size) for cells in (as_rows, as_columns)]

    def misfit(layout: Layout) -> float:
        height, width = _extent(layout)
        return abs(math.log(width / height / BEST_ASPECT))

    return min(layouts, key=misfit)


def draw_figure(
    path: Path,
    layout: Layout,
    panels: Sequence[Panel],
    heading: tuple[str, str],
    legend: Sequence[tuple[str, Sequence[int]]],
    bar: ColourBar,
) -> None:
    """Save a figure as PNG.

    Args:
        path: The file.
        layout: Has a cell for each panel.
        panels: The pictures.
        heading: Two lines above all.
        legend: Names and colours, RGB 0 to 255.
        bar: The colours of the heat maps.

    Raises:
        OSError: It cannot be written.
    """
    body_height, width = _extent(layout)
    room = width - 2 * MARGIN
    bar_width = min(BAR, room // 2)
    columns, entry_rows = _legend_table(legend, room - bar_width)
    legend_height = max(3, entry_rows) * LINE + 2 * MARGIN
    height = HEADING + body_height + legend_height
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def box(left: float, top: float, width_: float, height_: float) -> tuple[float, ...]:
        bottom = height - top - height_
        return left / width, bottom / height, width_ / width, height_ / height

    def write(left: float, top: float, text: str, size: float, space: float, **kwargs) -> None:
        # No text is read as mathematics: file names may hold dollar signs.
        drawn = figure.text(
            left / width, 1 - top / height, text, size=size * 72 / DPI, va="top",
            parse_math=False, **kwargs,
        )  # fmt: skip
        needed = drawn.get_window_extent(canvas.get_renderer()).width
        if needed > space:
            drawn.set_size(size * 72 / DPI * 0.97 * space / needed)  # glyphs are hinted

    write(MARGIN, MARGIN / 2, heading[0], LARGE, room, weight="bold")
    write(MARGIN, MARGIN / 2 + 1.4 * LARGE, heading[1], MEDIUM, room)
    rows, cols = layout.size
    for (row, col), panel in zip(layout.cells, panels, strict=True):
        left = MARGIN + col * (cols + GAP)
        top = HEADING + row * (rows + TITLES + GAP)
        write(left, top + 6, panel.title, MEDIUM, cols, weight="bold")
        write(left, top + 8 + 1.3 * MEDIUM, panel.detail, SMALL, cols)
        axes = figure.add_axes(box(left, top + TITLES, cols, rows))
        axes.imshow(panel.picture, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    top = HEADING + body_height + MARGIN / 2
    left = width - MARGIN - bar_width + 40
    _draw_bar(figure, box(left, top + 34, bar_width - 60, 26), bar)
    if legend:
        axes = figure.add_axes(box(MARGIN, top, room - bar_width, legend_height - 1.5 * MARGIN))
        axes.set_axis_off()
        axes.legend(
            handles=[Patch(color=np.array(rgb) / 255, label=name) for name, rgb in legend],
            loc="upper left", ncols=columns, frameon=False, prop=dict(size=SMALL * 72 / DPI),
            handlelength=1.4, handleheight=1.1, borderaxespad=0, borderpad=0.1, columnspacing=1.5,
        )  # fmt: skip
    figure.savefig(path, format="png", dpi=DPI)


def _extent(layout: Layout) -> tuple[int, int]:
    """Height and width in pixels of all pictures with their titles, and of the margins beside."""
    rows, cols = layout.size
    return (
        layout.rows * (rows + TITLES + GAP),
        layout.cols * (cols + GAP) - GAP + 2 * MARGIN,
    )


def _legend_table(legend: Sequence[tuple[str, Sequence[int]]], room: int) -> tuple[int, int]:
    """Columns and rows of the legend."""
    longest = max((len(name) for name, _ in legend), default=0)
    columns = max(1, int(room / (longest * SMALL * 0.56 + 70)))
    return columns, -(-len(legend) // columns)


def _draw_bar(figure: Figure, place: tuple[float, ...], bar: ColourBar) -> None:
    axes, font = figure.add_axes(place), SMALL * 72 / DPI
    colours = ScalarMappable(PowerNorm(bar.gamma, 0, 1), bar.colour_map)
    drawn = Colorbar(axes, colours, orientation="horizontal")
    drawn.set_ticks([tick for tick, _ in bar.ticks], labels=[label for _, label in bar.ticks])
    axes.minorticks_off()
    axes.tick_params(labelsize=font)
    for x, text, side in ((0, bar.ends[0], "left"), (1, bar.ends[1], "right")):
        axes.text(x, 1.2, text, transform=axes.transAxes, size=font, ha=side, va="bottom")
