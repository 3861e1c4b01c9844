"""Images of anybody's, and looking into groups."""

import io

import numpy as np
import pytest
from PIL import Image

from mmseg_tome.lab.explore.pictures import GroupsView, Token, read_photo
from mmseg_tome.predict.inputs import UnreadableError
from mmseg_tome.visualization.painting import MARK
from mmseg_tome.visualization.stage_maps import StageMap


@pytest.fixture
def written(tmp_path):
    def write(image: Image.Image, kind: str, **options):
        image.save(tmp_path / "photo", kind, **options)
        return tmp_path / "photo"

    return write


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_images_of_every_kind(written, kind):
    found = read_photo(written(Image.new("RGB", (60, 40), (200, 10, 10)), kind), 1024)
    assert found.shape == (40, 60, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.reshape(-1, 3).mean(0) - (200, 10, 10)).max() < 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_images_of_every_mode(written, mode):
    image = Image.new(mode, (60, 40))
    assert read_photo(written(image, "TIFF" if mode == "CMYK" else "PNG"), 30).shape == (20, 30, 3)


def test_a_large_image_is_reduced(written):
    path = written(Image.new("L", (12_000, 12_000), 90), "JPEG", quality=10)
    found = read_photo(path, 256)
    assert found.shape == (256, 256, 3)
    assert np.abs(found.astype(int) - 90).max() <= 2


def test_a_turned_image_is_turned_back(written):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = written(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    assert read_photo(path, 1024).shape == (60, 40, 3)


def test_too_many_pixels(written):
    path = written(Image.new("1", (40_000, 5_000)), "PNG")
    with pytest.raises(UnreadableError, match="at most 160 million"):
        read_photo(path, 256)


def half_an_image() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()[:4000]


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", half_an_image(), b"<svg></svg>", b"%PDF-1.4"],
)
def test_what_is_no_image(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    with pytest.raises(UnreadableError, match="not an image") as caught:
        read_photo(tmp_path / "photo.png", 256)
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def view() -> GroupsView:
    """4x8 tokens of 8 pixels; the left half of the first row is a group, the others are alone."""
    slot = np.arange(32).reshape(4, 8)
    slot[0, :4] = 0
    groups = np.kron(slot, np.ones((8, 8), int))
    stage = StageMap(2, "q", 0, 1, (4, 8), 29, 1, groups, np.ones(groups.shape, np.float32))
    image = np.random.default_rng(0).integers(0, 255, (*groups.shape, 3), np.uint8)
    return GroupsView(stage, image, (32, 64))


def test_the_token_under_a_point(view):
    assert view.grid == (4, 8)
    assert view.token_at(0, 0, 1, None) == Token(0, 0)
    assert view.token_at(0.99, 0.99, 1, None) == Token(3, 7)
    assert view.token_at(1.0, 1.0, 1, None) == Token(3, 7)
    assert view.token_at(0.5, 0.5, 2, Token(3, 7)) == Token(3, 6)
    assert view.token_at(0.01, 0.01, 4, Token(0, 7)) == Token(0, 6)


def test_what_a_token_merged_with(view):
    assert view.describe(Token(0, 2)) == (
        "The token in row 1, column 3 merged with 3 others, in rows 1 to 1 and columns 1 to 4."
    )
    assert "kept apart" in view.describe(Token(3, 3))
    assert "row 4, column 8" in view.describe(Token(99, 99))


def test_a_group_is_shown_and_the_rest_dimmed(view):
    picture = view.paint(token=Token(0, 1), longest=512)
    assert picture.shape == (256, 512, 3)
    marked = (picture == MARK).all(axis=-1)
    assert 0.001 < marked.mean() < 0.05
    colourful = np.ptp(picture.astype(int), axis=-1) * ~marked
    assert colourful[10:50, 10:240].mean() > 20
    assert colourful[100:, 300:].max() == 0


def test_zoom_shows_a_part(view):
    whole, part = view.paint(longest=64), view.paint(zoom=2, around=Token(3, 7), longest=64)
    assert whole.shape == part.shape == (32, 64, 3)
    means = view.image[16:, 32:].reshape(2, 8, 4, 8, 3).mean(axis=(1, 3))
    assert np.abs(part[8, 8].astype(int) - means[0, 0]).max() <= 40  # enlarged by interpolation


def test_heat_is_of_one_colour_where_all_is_kept(view):
    assert len(np.unique(view.paint(heat=True).reshape(-1, 3), axis=0)) == 1
