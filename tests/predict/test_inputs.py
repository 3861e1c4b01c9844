import itertools
import struct

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image

from mmseg_tome.errors import UserError
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.predict import inputs
from mmseg_tome.predict.inputs import (
    Item,
    Reader,
    Source,
    UnreadableError,
    check_channels,
    find_sources,
)

CONFIG = dict(type="LoadImageFromFile")


def reader(**options) -> Reader:
    pipeline = [dict(**CONFIG, **options)]
    return Reader(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))))


def read(path, **options) -> list[Item]:
    is_video = path.suffix in inputs.VIDEOS
    return list(reader(**options).read(Source(path, path.stem, is_video)))


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def files(tmp_path):
    """Make empty files below `tmp_path`."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def names(sources) -> list[str]:
    return [source.name for source in sources]


def test_folders_are_searched_in_depth_for_images_and_videos_alone(files):
    root = files("in/b.JPG", "in/a/c.png", "in/d.mp4", "in/notes.txt", "in/.git/e.png", "in/.f.png")
    found = find_sources([str(root / "in")])
    assert names(found) == ["in/a/c", "in/b", "in/d"]
    assert [source.is_video for source in found] == [False, False, True]


def test_no_two_results_share_a_name(files):
    root = files("x/a.png", "y/a.png", "y/A.jpg", "z/y/a.png")
    given = [str(root / name) for name in ("x", "y", "z/y", "x/a.png")]
    found = find_sources(given)
    assert names(found) == ["x/a", "y/A", "y/a_2", "y/a_3"]
    found = find_sources([str(root / "x/a.png"), str(root / "y/a.png")])
    assert names(found) == ["a", "a_2"]


def test_results_of_an_earlier_run_are_no_inputs(files):
    root = files("in/a.png", "in/out/overlays/a.jpg")
    results = [root / "in/out/overlays"]
    assert names(find_sources([str(root / "in")], results)) == ["in/a"]
    with pytest.raises(UserError, match=r"a.jpg lies where the results go"):
        find_sources([str(root / "in/out/overlays/a.jpg")], results)


def test_all_that_is_wrong_is_said_at_once(files):
    root = files("empty/readme.md", "a.png", "b.txt")
    given = [str(root / name) for name in ("empty", "a.png", "b.txt", "c.png")]
    with pytest.raises(UserError) as error:
        find_sources(given)
    assert str(error.value) == (
        f"{root}/empty holds no image or video; {root}/b.txt is of no known image or video type; "
        f"{root}/c.png does not exist"
    )


def test_images_are_read_as_the_pipeline_reads_them(tmp_path, picture):
    """Grey, transparent, 16-bit and turned images."""
    grey, alpha = picture[..., 0], np.dstack([picture, picture[..., :1]])
    kinds = {"grey": grey, "alpha": alpha, "deep": grey.astype(np.uint16) * 257}
    for kind, image in kinds.items():
        cv2.imwrite(str(tmp_path / f"{kind}.png"), image)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif)
    for path in sorted(tmp_path.iterdir()):
        for options in ({}, dict(color_type="color_ignore_orientation")):
            (item,) = read(path, **options)
            expected = LoadImageFromFile(**options)(dict(img_path=str(path)))["img"]
            assert np.array_equal(item.image, expected)
            turned = path.stem == "turned" and not options
            assert item.image.shape == ((60, 40, 3) if turned else (40, 60, 3))
    assert np.array_equal(read(tmp_path / "deep.png")[0].image[..., 0], grey)
    assert np.array_equal(read(tmp_path / "alpha.png")[0].image, picture)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_images_are_refused(tmp_path, picture, suffix):
    whole = tmp_path / f"whole{suffix}"
    cv2.imwrite(str(whole), picture)
    content = whole.read_bytes()
    for name, part in {
        "cut": content[: len(content) * 2 // 3],
        "empty": b"",
        "text": b"no",
    }.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(part)
        with pytest.raises(UnreadableError, match=r"cannot be read|not an image"):
            read(path)


def test_images_of_other_kinds_are_as_the_config_reads_them(tmp_path, picture):
    path = tmp_path / "grey.png"
    deep = picture[..., 0].astype(np.uint16) * 16
    cv2.imwrite(str(path), deep)
    (item,) = read(path, color_type="unchanged")
    assert np.array_equal(item.image, deep)
    assert item.picture.shape == (40, 60, 3)
    assert item.picture.dtype == np.uint8
    check_channels(item, 1)
    with pytest.raises(ModelInputError, match=r"uint16 \[40, 60\], the model takes .* 3 channels"):
        check_channels(item, 3)


def test_a_pipeline_inherited_from_an_mm_package(tmp_path, picture):
    """mmengine writes the package's scope into every step then."""
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (item,) = read(tmp_path / "a.png", _scope_="mmseg")
    assert np.array_equal(item.image, picture)


def test_a_config_without_a_loader():
    dataset = dict(type="A", pipeline=[dict(type="PackSegInputs")])
    with pytest.raises(UserError, match="needs LoadImageFromFile in test_dataloader"):
        Reader(Config(dict(test_dataloader=dict(dataset=dataset))))
    with pytest.raises(UserError, match="has no test data"):
        Reader(Config(dict()))


def write_video(path, images):
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 7, size)
    for image in images:
        writer.write(image)
    writer.release()


def test_the_frames_of_a_video(tmp_path, picture):
    path = tmp_path / "clip.avi"
    write_video(path, [np.full_like(picture, grey) for grey in (0, 100, 200)])
    items = read(path)
    assert [item.frame for item in items] == [0, 1, 2]
    assert [item.image.mean() for item in items] == pytest.approx([0, 100, 200], abs=3)
    assert inputs.count(items[0].source) == 3
    assert inputs.frame_rate(path) == 7


def test_a_video_that_ends_early(tmp_path, picture):
    path = tmp_path / "clip.avi"
    write_video(path, [picture] * 3)
    content = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):  # both headers say how many frames
        struct.pack_into("<I", content, content.index(tag) + offset, 30)
    path.write_bytes(content)
    frames = reader().read(Source(path, "clip", True))
    assert [next(frames).frame for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UnreadableError, match="ends after 3 of 30 frames"):
        next(frames)


def test_a_video_that_is_none(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no")
    with pytest.raises(UnreadableError, match="not a video"):
        read(path)


def test_the_frames_of_an_animation(tmp_path):
    """With what stays from the frame before, and at its speed."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (60, 40), colours[0]) for _ in colours]
    for frame, colour in zip(frames, colours, strict=True):
        frame.paste(colour, (0, 0, 30, 40))
    for name, options in {"a.gif": {}, "b.webp": dict(lossless=True)}.items():
        path = tmp_path / name
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, **options)
        (source,) = find_sources([str(path)])
        items = list(reader().read(source))
        assert [(item.frame, item.rate) for item in items] == [(0, 25), (1, 25), (2, 25)]
        assert inputs.count(source) == 3
        for item, colour in zip(items, colours, strict=True):
            assert np.abs(item.image[20, 10] - np.array(colour[::-1])).max() < 8
            assert np.abs(item.image[20, 50] - np.array(colours[0][::-1])).max() < 8


@pytest.mark.parametrize("color_type", ["color", "unchanged", "grayscale"])
def test_the_pages_of_a_tiff_are_as_single_files(tmp_path, picture, color_type):
    """Of any size and depth."""
    pages = [picture, picture[:20, :30], picture[..., 0].astype(np.uint16) * 256, picture[..., 1]]
    cv2.imwritemulti(str(tmp_path / "all.tif"), pages)
    (source,) = find_sources([str(tmp_path / "all.tif")])
    items = list(reader(color_type=color_type).read(source))
    assert [item.frame for item in items] == [0, 1, 2, 3]
    for item, page in zip(items, pages, strict=True):
        cv2.imwrite(str(tmp_path / "one.tif"), page)
        (alone,) = read(tmp_path / "one.tif", color_type=color_type)
        assert item.image.dtype == alone.image.dtype
        assert np.array_equal(item.image, alone.image)


def test_an_animation_that_breaks_off(tmp_path, picture):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(np.roll(picture, 5 * i, 0)) for i in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    (source,) = find_sources([str(path)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 5 // 8])
    found = reader().read(source)
    assert next(found).frame == 0
    with pytest.raises(UnreadableError, match=r"image 3 of 4 cannot be read"):
        list(found)


def test_what_comes_over_http(server):
    given = ("photo.png", "photo", "clip", "pages.tif")
    found = [list(reader().read(s)) for s in find_sources([f"{server}/{name}" for name in given])]
    assert [[item.frame for item in items] for items in found] == [
        [None], [None], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]
    ]  # fmt: skip
    greys = [[item.image.mean() for item in items] for items in found]
    assert greys[0] == greys[1] == [80]
    assert greys[2] == pytest.approx(greys[3], abs=3)
    assert greys[3] == [0, 40, 80, 120, 160]


def test_a_stream_over_http(server, monkeypatch):
    monkeypatch.setattr("mmseg_tome.predict.streams.SECONDS", 0)
    (source,) = find_sources([f"{server}/live"])
    assert inputs.count(source) is None
    found = list(itertools.islice(reader().read(source), 3))
    numbers = [item.frame for item in found]
    assert numbers == sorted(set(numbers))
    for item in found:
        assert item.image.mean() == pytest.approx(item.frame % 5 * 40, abs=3)
        assert item.rate == 25


def test_batches_have_one_size():
    source = Source(None, "a", False)
    heights = [4, 4, 4, 5, 4]
    items = [Item(source, np.zeros((height, 4, 3), np.uint8)) for height in heights]
    found = [[item.image.shape[0] for item in batch] for batch in inputs.batches(items, 2)]
    assert found == [[4, 4], [4], [5], [4]]
