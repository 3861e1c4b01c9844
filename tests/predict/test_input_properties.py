"""Any files that a user names are read, or each that cannot be is named in a line; none ends a run.

`PROPERTY_EXAMPLES` sets how many cases each property is tried on.
"""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmseg_tome.errors import UserError
from mmseg_tome.predict.inputs import IMAGES, VIDEOS, Reader, UnreadableError, find_sources
from mmseg_tome.predict.results import Prediction, ResultsWriter

PIL = pytest.importorskip("PIL.Image")
hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=int(os.environ.get("PROPERTY_EXAMPLES", 100)))
pytestmark = pytest.mark.filterwarnings("ignore")

READER = Reader(
    Config(
        dict(
            default_scope="mmseg",
            test_dataloader=dict(dataset=dict(type="A", pipeline=[dict(type="LoadImageFromFile")])),
        )
    )
)


def encoded(mode: str, size: tuple[int, int], kind: str, exif: int) -> bytes:
    """A picture as a file's bytes; nothing where a format does not know the mode."""
    if (mode, kind) == ("YCbCr", "TIFF"):  # what Pillow writes there, it cannot read
        return b""
    pixels = np.arange(size[0] * size[1] * 4, dtype=np.uint32) % 251
    image = PIL.fromarray(pixels.astype(np.uint8).reshape(size[1], size[0], 4), "RGBA")
    stream = io.BytesIO()
    try:
        tags = PIL.Exif()
        tags[0x0112] = exif
        image.convert(mode).save(stream, kind, exif=tags)
    except (OSError, ValueError, KeyError):
        return b""
    return stream.getvalue()


pictures = st.builds(
    encoded,
    st.sampled_from(["RGB", "RGBA", "L", "1", "P", "CMYK", "I", "I;16", "F", "YCbCr", "LA"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"]),
    st.integers(0, 9),
)
damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), max_size=4)
endings = st.sampled_from(sorted(IMAGES | VIDEOS))


def damaged(content: bytes, changes, keep: float) -> bytes:
    content = bytearray(content)
    for place, new in changes:
        at = int(place * len(content))
        content[at : at + len(new)] = new
    return bytes(content[: max(1, int(keep * len(content)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@settings
@hypothesis.given(
    content=st.one_of(pictures, st.binary(max_size=100)),
    changes=damage,
    keep=st.sampled_from([1.0, 1.0, 0.5, 0.9]),
    ending=endings,
)
def test_a_file_is_read_or_named(folder, content, changes, keep, ending):
    path = folder / f"file{ending}"
    path.write_bytes(damaged(content, changes, keep))
    (source,) = find_sources([str(path)])
    try:
        for item in READER.read(source):
            assert item.image.size > 0
            assert item.picture.shape == (*item.image.shape[:2], 3)
            assert item.picture.dtype == np.uint8
    except UnreadableError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(error)  # noqa: PT017
    finally:
        path.unlink()


@settings
@hypothesis.given(pictures)
def test_whole_pictures_are_read(folder, content):
    hypothesis.assume(content)
    with PIL.open(io.BytesIO(content)) as image:  # OpenCV has no TIFF of 32 bits
        hypothesis.assume(image.format != "TIFF" or image.mode not in ("I", "F"))
    path = folder / "whole.png"
    path.write_bytes(content)
    (item,) = READER.read(*find_sources([str(path)]))
    with PIL.open(path) as image:
        assert sorted(image.size) == sorted(item.image.shape[:2])


parts = st.text(
    st.characters(codec="utf-8", exclude_characters="/\x00", exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).filter(lambda part: part not in (".", "..") and len(part.encode()) < 200)
trees = st.lists(
    st.tuples(st.lists(parts, max_size=2), parts, st.sampled_from([".png", ".PNG", ".txt", ""])),
    max_size=5,
)


@settings
@hypothesis.given(tree=trees)
def test_names_of_any_letters_are_found_and_written_back(tmp_path_factory, tree):
    base = tmp_path_factory.mktemp("tree")
    picture = cv2.imencode(".png", np.zeros((3, 4, 3), np.uint8))[1].tobytes()
    for folders, name, ending in tree:
        try:
            place = base.joinpath("in", *folders)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}{ending}").write_bytes(picture)
        except OSError:  # a file and a folder of one name
            continue
    try:
        sources = find_sources([str(base / "in")])
    except UserError as error:
        assert "holds no image" in str(error) or "does not exist" in str(error)  # noqa: PT017
        return
    assert len({source.name.lower() for source in sources}) == len(sources)
    with ResultsWriter(base / "out") as writer:
        for source in sources:
            for item in READER.read(source):
                writer.add(item, Prediction({}, item.picture, item.image[..., 0]))
        writer.write({}, {})
    for entry in writer.entries:
        for key in ("overlay", "labels"):
            written = base / "out" / entry[key]
            assert written.is_file()
            assert written.resolve().is_relative_to((base / "out").resolve())
    assert len({entry["labels"] for entry in writer.entries}) == len(sources)
