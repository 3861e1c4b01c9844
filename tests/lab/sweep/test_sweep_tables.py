"""What a sweep tries, how processes share it, and what its rows are made into."""

import re

import pytest

pytest.importorskip("mmseg")


from mmengine.config import Config

from mmseg_tome.lab.sweep import plots, rows, settings, tables
from mmseg_tome.lab.sweep.settings import NONE, SWEEPS, Setting
from mmseg_tome.merging import PRESETS, LocalMerging, parse_tome_cfg

ALL = settings.settings(list(SWEEPS))


def test_every_setting_occurs_once_and_can_name_a_file():
    assert ALL[0].key == NONE.key
    assert len({setting.key for setting in ALL}) == len({s.name for s in ALL}) == len(ALL)
    assert all(re.fullmatch(r"[\w.-]+", setting.name) for setting in ALL)


ALONE = ("preset", "downsample", "local", "local-stage")


@pytest.mark.parametrize("sweep", [s for s in SWEEPS if s not in ALONE])
def test_a_preset_is_a_point_of_each_sweep_under_its_own_name(sweep):
    names = {point.setting.name for point in settings.points([sweep])}
    if sweep != "stage":
        assert "hq" in names
    assert names - set(PRESETS) - {"none"}, "and there is more than presets"


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_line_of_a_sweep_is_drawn(sweep):
    lines = {point.line for point in settings.points([sweep])}
    assert len(lines) <= len(plots.STYLES)


def test_sweeps_vary_what_they_say():
    by_name = {setting.name: parse_tome_cfg(setting.tome_cfg) for setting in ALL}
    hq = by_name["hq"]
    assert by_name["q-ratio-0.4"][2].q.ratio == 0.4
    assert by_name["q-ratio-0.4"][0].kv == hq[0].kv
    assert by_name["hq-kv-cell-8x8"][1].kv.stride == (8, 8)
    assert by_name["hq-kv-cell-8x8"][1].kv.ratio == hq[1].kv.ratio
    stages = [(s.q, s.kv) != (NONE_STAGE.q, NONE_STAGE.kv) for s in by_name["fast-stage-3"]]
    assert stages == [False, False, True, False]
    assert [stage.reuse for stage in by_name["fast-reuse-8"]] == [8] * 4
    assert by_name["hq-kv"][3] == NONE_STAGE
    local = by_name["local-kv-4x4-0.5-prop"]
    assert local == [(NONE_STAGE.q, LocalMerging(0.5, (4, 4)), 1, True)] * 4
    assert by_name["local-q-2x2-0.25"][1:3] == [
        NONE_STAGE,
        (LocalMerging(0.25, (2, 2)), NONE_STAGE.kv, 1, False),
    ]
    assert by_name["local-q-stage-2"][1].q == LocalMerging(0.5, (2, 2))
    assert by_name["hq-everywhere-both"] == [type(hq[0])(hq[3].q, hq[0].kv)] * 4


NONE_STAGE = parse_tome_cfg(None)[0]


def test_parts_share_the_rows_of_every_group():
    for position in range(3):
        shares = [rows.share(ALL, position, part, 4) for part in range(4)]
        assert sorted(s.name for share in shares for s in share) == sorted(s.name for s in ALL)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert rows.share(ALL, 5, 0, 1) == ALL


def test_fingerprint_is_of_what_a_row_depends_on(tmp_path):
    files = {name: tmp_path / name for name in ("a.pth", "copy.pth", "b.pth")}
    for name, file in files.items():
        file.write_bytes(b"other" if name == "b.pth" else b"one")
    model = Config(dict(backbone=dict(embed_dims=8, tome_cfg="hq"), decode_head=dict(channels=2)))
    same = Config(dict(backbone=dict(embed_dims=8), decode_head=dict(channels=2)))
    other = Config(dict(backbone=dict(embed_dims=16), decode_head=dict(channels=2)))
    hq, fast = (Setting(name, PRESETS[name]) for name in ("hq", "fast"))

    def of(cfg=model, file="a.pth", setting=hq, **others):
        return rows.fingerprint(cfg, str(files[file]), setting, **({"scale": 1.0} | others))

    assert of() == of(same) == of(file="copy.pth") == of(setting=Setting("else", PRESETS["hq"]))
    changed = [of(other), of(file="b.pth"), of(setting=fast), of(scale=2.0), of(data="x")]
    assert len({of(), *changed}) == 1 + len(changed)


def scored(setting, index, miou, model="b0", scale=1.0):
    """A row with scores."""
    return {
        "fingerprint": "", "model": model, "scale": scale, "setting": setting, "index": index,
        "tome_cfg": None, "down_sample": False, "hw": [360, 480], "checkpoint": f"{index}.pth",
        "images": 3, "data": "d", "dtype": "float32", "device": "CPU",
        "options": {"thin": ["Pole"], "bands": [576, 5184], "boundary_ratio": 0.005},
        "tokens": {"queries": 95.0, "keys_values": 71.0, "pairs": 39.0},
        "scores": {"mIoU": miou, "IoU.Pole": miou / 2, "agreement": 98.5},
    }  # fmt: skip


def timed(setting, ms, run="r", model="b0", scale=1.0):
    """A row with times."""
    row = scored(setting, 0, 0.0, model, scale)
    times = {"median": ms, "q1": ms, "q3": ms, "min": ms, "max": ms}
    return row | {"run": run, "batch": 4, "launch": "eager", "ms": times}


ROWS = [
    *(scored("none", i, miou) for i, miou in enumerate((60.0, 64.0))),
    *(scored("hq", i, miou) for i, miou in enumerate((59.0, 63.5))),
    scored("hq-stage-1", 0, 59.5),
]


def test_differences_are_paired_by_checkpoint():
    none, hq, stage = tables.summarise(ROWS, [])
    assert [e["setting"] for e in (none, hq, stage)] == ["none", "hq", "hq-stage-1"]
    miou = hq["scores"]["mIoU"]
    assert miou["value"] == 61.25
    assert miou["std"] == pytest.approx(4.5 / 2**0.5)
    assert miou["difference"]["values"] == [-1.0, -0.5]
    assert miou["difference"]["std"] == pytest.approx(0.5 / 2**0.5)
    # Against the mean of none it would be -2.5: only its own checkpoint counts.
    assert stage["scores"]["mIoU"]["difference"]["value"] == -0.5
    assert stage["scores"]["mIoU"]["std"] is None


def test_times_join_and_compare_within_one_run():
    times = [timed("none", 2.0), timed("hq", 1.0), timed("fast", 1.0, run="another")]
    entries = {entry["setting"]: entry for entry in tables.summarise(ROWS, times)}
    assert entries["hq"]["times"]["4"]["ratio"] == 2.0
    assert entries["fast"]["times"]["4"]["ratio"] is None
    assert entries["hq-stage-1"]["times"] == {}


def test_what_does_not_compare_is_said():
    assert tables.problems(ROWS[:4], []) == []
    (missing,) = tables.problems(ROWS, [])
    assert missing == "1 settings lack a checkpoint, the first is b0, x1, hq-stage-1"
    mixed = [*ROWS[:4], scored("fast", 0, 1.0) | {"dtype": "bfloat16"}]
    assert any("rows differ in dtype" in line for line in tables.problems(mixed, []))
    lonely = tables.problems([scored("hq", 0, 1.0)], [])
    assert lonely == ["b0, checkpoint 0, x1 has no row without merging yet"]


def test_page_has_a_row_for_each_setting():
    entries = tables.summarise(ROWS, [timed("none", 2.0), timed("hq", 1.0)])
    page = tables.markdown(
        entries, [], {k: ROWS[0][k] for k in ("options", "images", "dtype", "device")}
    )
    assert "## b0, x1 (480x360), 2 checkpoints" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| hq | 61"))
    assert "61.25 ± 3.18 (-0.75 ± 0.35)" in line
    assert line.endswith("| 98.50 | 95 | 71 | 39 | 1 (2.00x) |")
    assert "| hq | -0.4 |" in page  # the class's difference


def test_figures_hold_what_there_is():
    entries = tables.summarise(ROWS, [timed("none", 2.0), timed("hq", 1.0)])
    assert [axis.get_title() for axis in plots.curves(entries).axes] == ["stage, x1"]
    (axis,) = plots.tradeoff(entries).axes
    assert axis.get_xscale() == "log"
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {"none", "hq"}
    assert plots.tradeoff(tables.summarise(ROWS, [])) is None
    assert plots.curves(tables.summarise(ROWS[:4], [])) is None
