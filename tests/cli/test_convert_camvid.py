"""tools/convert_camvid.py on a tiny synthetic release, and its split on the real file names."""

import numpy as np
import pytest
from PIL import Image

from mmseg_tome.cli import convert_camvid as tool

FRAMES = {"0006R0_f00930": "train", "0016E5_07959": "val", "Seq05VD_f00000": "test"}


@pytest.fixture
def release(tmp_path):
    """Three 8x4 (w, h) frames whose labels hold each of the 32 colours once."""
    root = tmp_path / "release"
    (root / tool.IMAGE_DIR).mkdir(parents=True)
    (root / tool.LABEL_DIR).mkdir()
    label = np.array(list(tool.COLOURS.values()), np.uint8).reshape(4, 8, 3)
    for i, name in enumerate(FRAMES):
        Image.new("RGB", (8, 4), (i, i, i)).save(root / tool.IMAGE_DIR / f"{name}.png")
        Image.fromarray(label).save(root / tool.LABEL_DIR / f"{name}_L.png")
    return root


def set_label_pixel(release, colour, name="0016E5_07959"):
    path = release / tool.LABEL_DIR / f"{name}_L.png"
    label = np.array(Image.open(path))
    label[2, 5] = colour
    Image.fromarray(label).save(path)
    return path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_converts_every_class_and_split(release, tmp_path, capsys):
    out = tmp_path / "new" / "camvid"
    assert tool.main([str(release), str(out)]) == 0

    for name, split in FRAMES.items():
        image = out / "images" / split / f"{name}.png"
        source = release / tool.IMAGE_DIR / f"{name}.png"
        assert image.read_bytes() == source.read_bytes()
        label = Image.open(out / "labels" / split / f"{name}.png")
        assert label.mode == "L"
        assert np.array(label).ravel().tolist() == [tool.CLASS_OF[c] for c in tool.COLOURS]
    assert len(tree(out)) == 2 * len(FRAMES)
    assert [p.name for p in out.parent.iterdir()] == ["camvid"]  # no partial folder left
    assert "1 train, 1 val, 1 test" in capsys.readouterr().out


def test_groups_cover_the_32_classes_once():
    names = [name for group in tool.GROUPS.values() for name in group]
    assert len(set(tool.COLOURS.values())) == 32
    assert sorted([*names, "Void"]) == sorted(tool.COLOURS)
    assert tool.CLASS_OF["Truck_Bus"] == 8
    assert tool.CLASS_OF["Void"] == 255


def test_classes_are_those_of_the_dataset():
    camvid = pytest.importorskip("mmseg_tome.datasets.camvid")
    meta = camvid.CamVidDataset.METAINFO
    assert list(tool.GROUPS) == list(meta["classes"])
    assert len(set(map(tuple, meta["palette"]))) == 11
    table = tool.class_table(tool.COLOURS)
    for i, (red, green, blue) in enumerate(meta["palette"]):
        assert table[red << 16 | green << 8 | blue] == i


def test_split_of_the_whole_release():
    frames = [f"0001TP_{n:06d}" for n in range(6690, 10381, 30)]
    frames += [f"0006R0_f{n:05d}" for n in range(930, 3931, 30)]
    frames += [f"Seq05VD_f{n:05d}" for n in range(0, 5101, 30)]
    frames += [f"0016E5_{n:05d}" for n in range(7959, 8160, 2)]
    splits = [tool.split_of(name) for name in frames]
    assert splits.count("test") == 233
    assert splits.count("val") == 101
    assert splits.count("train") == 62 + 101  # and 204 of 0016E5, see the next test


def test_split_of_the_known_file_names(shared):
    for split in ("train", "val"):
        names = [path.stem for path in (shared / "data/camvid/labels" / split).glob("*.png")]
        assert len(names) == tool.SPLIT_SIZES[split]
        assert {tool.split_of(name) for name in names} == {split}


def test_unknown_frame_name():
    with pytest.raises(tool.DataError, match="0007XX_00010"):
        tool.split_of("0007XX_00010")


def test_unknown_colour_names_file_and_colour_and_writes_nothing(release, tmp_path, capsys):
    path = set_label_pixel(release, (1, 2, 3))
    out = tmp_path / "camvid"
    assert tool.main([str(release), str(out)]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert "(1, 2, 3) at x=5, y=2" in error
    assert [p.name for p in tmp_path.iterdir()] == ["release"]

    assert tool.main([str(release), str(out), "--unknown-as-void"]) == 0
    label = np.array(Image.open(out / "labels/val/0016E5_07959.png"))
    assert label[2, 5] == 255
    assert tool.UNKNOWN not in label


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("", "folder not found"),
        (tool.IMAGE_DIR, f"folder not found: .*{tool.IMAGE_DIR}"),
        (tool.LABEL_DIR, f"folder not found: .*{tool.LABEL_DIR}"),
        (f"{tool.LABEL_DIR}/0016E5_07959_L.png", "1 of 3 frames are missing .*first 0016E5_07959"),
        (f"{tool.IMAGE_DIR}/0016E5_07959.png", "1 of 3 frames are missing .*first 0016E5_07959"),
    ],
)
def test_incomplete_release(release, tmp_path, remove, message):
    (release / remove).rename(tmp_path / "elsewhere")
    with pytest.raises(tool.DataError, match=message):
        tool.run(tool.parse_args([str(release), str(tmp_path / "camvid")]))
    assert not (tmp_path / "camvid").exists()


def test_empty_folder(release, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    args = [str(release), str(tmp_path / "camvid"), "--labels", str(empty)]
    with pytest.raises(tool.DataError, match=r"no \*_L.png"):
        tool.run(tool.parse_args(args))


def test_broken_and_mismatched_files(release, tmp_path, capsys):
    label = release / tool.LABEL_DIR / "0016E5_07959_L.png"
    args = [str(release), str(tmp_path / "camvid")]
    Image.new("RGB", (6, 4)).save(label)
    assert tool.main(args) == 2
    assert "is (8, 4), its label (6, 4)" in capsys.readouterr().err
    label.write_bytes(b"no PNG")
    assert tool.main(args) == 2
    assert f"{label}: cannot be read" in capsys.readouterr().err


def test_existing_output_needs_force(release, tmp_path, capsys):
    out = tmp_path / "camvid"
    assert tool.main([str(release), str(out)]) == 0
    before = tree(out)

    set_label_pixel(release, tool.COLOURS["Fence"])
    assert tool.main([str(release), str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert tree(out) == before

    assert tool.main([str(release), str(out), "--force"]) == 0
    after = tree(out)
    assert {name for name in after if after[name] != before[name]} == {
        "labels/val/0016E5_07959.png"
    }

    # A failing --force leaves the earlier conversion alone.
    set_label_pixel(release, (1, 2, 3))
    assert tool.main([str(release), str(out), "--force"]) == 2
    assert tree(out) == after
    assert sorted(p.name for p in tmp_path.iterdir()) == ["camvid", "release"]


@pytest.mark.parametrize("target", ["release", ".", "other"])
def test_force_never_replaces_anything_else(release, tmp_path, target):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("irreplaceable")
    before = tree(tmp_path)
    assert tool.main([str(release), str(tmp_path / target), "--force"]) == 2
    assert tree(tmp_path) == before


def test_colour_file_of_the_release_is_used(release, tmp_path):
    # Swap two colours in the release's own list: the result follows the list.
    colours = dict(tool.COLOURS, Sky=tool.COLOURS["Road"], Road=tool.COLOURS["Sky"])
    lines = ["{} {} {}\t\t{}".format(*rgb, name) for name, rgb in colours.items()]
    (release / tool.COLOUR_FILE).write_text("\n".join(lines) + "\n")
    out = tmp_path / "camvid"
    assert tool.main([str(release), str(out)]) == 0
    label = np.array(Image.open(out / "labels/val/0016E5_07959.png")).ravel()
    assert label[list(tool.COLOURS).index("Sky")] == 3
    assert label[list(tool.COLOURS).index("Road")] == 0


@pytest.mark.parametrize("line", ["1 2 Sky", "1 2 300 Sky", "1 2 3 Spaceship"])
def test_bad_colour_file(tmp_path, line):
    path = tmp_path / tool.COLOUR_FILE
    path.write_text("128 128 128 Sky\n" + line)
    with pytest.raises(tool.DataError, match="line 2"):
        tool.read_colours(path)
