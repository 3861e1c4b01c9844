"""Figures: their layout, and what is in the file."""

import numpy as np
import pytest

from mmseg_tome.visualization.figure import (
    HEADING,
    MARGIN,
    TITLES,
    ColourBar,
    Panel,
    choose_layout,
    draw_figure,
)

cv2 = pytest.importorskip("cv2")
BAR = ColourBar("viridis", 0.5, ticks=[(0, "0"), (1, "1")], ends=("merged", "apart"))
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]


def panels(layout, colours=COLOURS, title="title", detail="detail") -> list[Panel]:
    return [Panel(np.full((*layout.size, 3), rgb, np.uint8), title, detail) for rgb in colours]


def read(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


@pytest.mark.parametrize(
    ("aspect", "rows", "cols"),
    [(2, 4, 3), (16 / 9, 4, 3), (4 / 3, 3, 4), (0.75, 3, 4), (0.4, 3, 4)],
)
def test_four_stages_lie_in_rows_or_columns_by_the_images_shape(aspect, rows, cols):
    layout = choose_layout(aspect, [4, 4, 4])
    assert (layout.rows, layout.cols) == (rows, cols)
    assert len(set(layout.cells)) == 12
    height, width = layout.size
    assert width / height == pytest.approx(aspect, rel=0.01)
    assert 460 <= width <= 1000


def test_lines_of_different_length():
    layout = choose_layout(1, [4, 2])
    assert layout.cells[:4] == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert layout.cells[4:] == ((1, 0), (1, 1))


def test_pictures_are_shown_pixel_by_pixel_under_their_titles(tmp_path):
    layout = choose_layout(4 / 3, [2, 2])
    given = panels(layout)
    given[3].picture[::2, ::2] = 0
    path = tmp_path / "figure.png"
    legend = [(name, rgb) for name, rgb in zip("abcd", COLOURS, strict=True)]
    draw_figure(path, layout, given, ("heading", "note"), legend, BAR)
    drawn = read(path)
    height, width = layout.size
    assert drawn.shape[1] == 2 * width + 24 + 2 * MARGIN
    for panel, (row, col) in zip(given, layout.cells, strict=True):
        top = HEADING + row * (height + TITLES + 24) + TITLES
        left = MARGIN + col * (width + 24)
        shown = drawn[top : top + height, left : left + width]
        np.testing.assert_array_equal(shown, panel.picture)
        assert (drawn[top - TITLES : top - 4, left : left + width] < 100).any()  # titles


def test_colours_are_explained(tmp_path):
    layout = choose_layout(2, [1])
    legend = [("a long name of a class", (1, 2, 253)), ("b", (3, 254, 5))]
    draw_figure(tmp_path / "a.png", layout, panels(layout, COLOURS[:1]), ("", ""), legend, BAR)
    drawn = read(tmp_path / "a.png")
    below = drawn[HEADING + TITLES + layout.size[0] :].reshape(-1, 3)
    for colour in ((1, 2, 253), (3, 254, 5), (68, 1, 84), (253, 231, 37)):  # viridis' ends
        assert (np.abs(below.astype(int) - colour).max(axis=1) < 8).sum() > 50


def test_many_classes_make_a_figure_longer_and_long_titles_smaller(tmp_path):
    layout = choose_layout(1, [2])
    heights = []
    for count in (2, 60):
        legend = [(f"a class of the number {i}", (i, i, i)) for i in range(count)]
        path = tmp_path / "a.png"
        given = panels(layout, COLOURS[:2], title="a very long title " * 9)
        draw_figure(path, layout, given, ("no $math$ here_ " * 20, "note"), legend, BAR)
        drawn = read(path)
        heights.append(drawn.shape[0])
        gap = drawn[HEADING : HEADING + TITLES, MARGIN + layout.size[1] + 2 :][:, :18]
        assert (gap == 255).all()
        assert (drawn[:, -MARGIN + 4 :] == 255).all()
    assert heights[0] < heights[1]


def test_a_folder_that_is_not_there(tmp_path):
    layout = choose_layout(1, [1])
    with pytest.raises(OSError, match="nowhere"):
        draw_figure(tmp_path / "nowhere" / "a.png", layout, panels(layout)[:1], ("", ""), [], BAR)
