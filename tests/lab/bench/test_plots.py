"""The figure of what merging gains from case to case."""

import pytest

from mmseg_tome.lab.bench import plots, results

ENV = {"gpu": "a GPU", "versions": {"torch": "2.11"}}


def row(size, variant, pipeline, ms):
    case = dict(model="b5", size=size, batch=1, dtype="bfloat16", device="cuda", part="model")
    return (
        results.empty_row(variant, pipeline)
        | case
        | {"mode": "inference", "latency_ms": {"median": ms}}
    )


@pytest.fixture
def drawn(monkeypatch):
    found = []
    monkeypatch.setattr(plots, "draw_presets", lambda path, heading, times: found.append(times))
    return found


def test_a_line_compares_ours_by_graphs_with_none(tmp_path, drawn):
    rows = [
        row(size, variant, pipeline, ms * scale)
        for size, scale in (("1024x1024", 1), ("2048x2048", 4))
        for pipeline, scale in (("ours", 10 * scale), ("ours, graphs", scale), ("peer", 99))
        for variant, ms in (("none", 3.0), ("speed", 2.0))
    ]
    assert plots.write_presets(tmp_path / "presets.png", ENV, rows)
    (times,) = drawn
    assert list(times.values()) == [{"none": 3.0, "speed": 2.0}, {"none": 12.0, "speed": 8.0}]
    assert ["1024x1024" in case for case in times] == [True, False]


def test_one_case_or_no_none_is_no_figure(tmp_path, drawn):
    one = [row("1024x1024", variant, "ours", 3.0) for variant in ("none", "speed")]
    assert not plots.write_presets(tmp_path / "presets.png", ENV, one)
    other = [row("2048x2048", variant, "ours", 3.0) for variant in ("hq", "speed")]
    assert not plots.write_presets(tmp_path / "presets.png", ENV, one + other)
    assert not drawn


def test_it_is_drawn(tmp_path):
    times = {"small": {"none": 2.0, "hq": 2.5}, "large": {"none": 9.0, "hq": 6.0, "n2d": 5.0}}
    plots.draw_presets(tmp_path / "presets.png", "a GPU", times)
    assert (tmp_path / "presets.png").read_bytes().startswith(b"\x89PNG")
