"""What else than files and folders can be named, and what is said of what cannot."""

import io
import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_tome.errors import UserError
from mmseg_tome.predict import sources
from mmseg_tome.predict.sources import find_sources


def png() -> bytes:
    return cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Empty files in the current folder."""
    for name in ("in/a.png", "in/b.jpg", "in/deep/c.png", "in/notes.md", "0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stdin(monkeypatch):
    """Let stdin hold this."""

    def give(content: bytes, terminal: bool = False) -> None:
        given = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)
        monkeypatch.setattr("sys.stdin", given)

    return give


def names(*inputs: str) -> list[str]:
    return [source.name for source in find_sources(inputs)]


def problem(*inputs: str) -> str:
    with pytest.raises(UserError) as error:
        find_sources(inputs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_patterns(files):
    assert names("in/*.png") == ["in/a"]
    assert names("in/**/*.png") == ["in/a", "in/deep/c"]
    assert names(f"{files}/in/*") == ["in/a", "in/b"]
    assert names("in/[ab].*", "in/a.png") == ["in/a", "in/b"]
    assert problem("in/*.gif") == "in/*.gif holds no image or video"


def test_a_file_with_a_wildcard_in_its_name_is_that_file(files):
    (files / "in/[ab].png").touch()
    assert names("in/[ab].png") == ["[ab]"]


def test_a_number_is_a_camera_unless_it_is_a_file(files):
    (source,) = find_sources(["0"])
    assert (source.path, source.name, source.address) == ("0", "camera_0", 0)
    assert source.is_video
    assert source.is_live
    (files / "0").mkdir()
    assert problem("0") == "0 holds no image or video"


def test_lists_name_inputs_beside_them_or_from_here(files):
    lines = ["# my own", "", "a.png", "in/b.jpg", "deep", "rtsp://camera/live", "7"]
    (files / "in/list.txt").write_text("\r\n".join(lines))
    expected = ["a", "b", "deep/c", "camera_live", "camera_7"]
    assert names("in/list.txt") == expected
    (files / "in/list.txt").rename(files / "in/list.streams")
    assert names("in/list.streams") == expected


def test_what_is_wrong_with_a_list_names_it(files):
    (files / "list.txt").write_text("no.png\nin/notes.md\n-\nlist.txt\n")
    assert problem("list.txt") == (
        "list.txt: no.png does not exist; list.txt: in/notes.md is of no known image or video type;"
        " list.txt: - does not exist; list.txt: list.txt is of no known image or video type"
    )
    (files / "list.txt").write_bytes(png())
    assert problem("list.txt") == "list.txt is of no known image or video type"


def test_a_long_list_of_problems_is_cut(files):
    (files / "list.txt").write_text("\n".join(f"{i}.gif" for i in range(9)))
    assert problem("list.txt").endswith("4.gif does not exist; and 4 more")


def test_names_that_no_file_can_have(files):
    assert "does not exist" in problem("a" * 5000)
    assert "does not exist" in problem("a\0b")


def test_an_image_on_stdin(stdin, files):
    stdin(png())
    (source,) = find_sources(["-"])
    assert (source.path, source.name, source.is_video) == ("-", "stdin", False)
    assert source.content == png()


def test_a_list_on_stdin(stdin, files):
    stdin(b"in/a.png\nin/b.jpg\n")
    assert names("-", "0.png") == ["a", "b", "0"]


def test_what_stdin_cannot_be(stdin, files):
    for content in (b"", b"\x00\x01", b"\xff\xfe\xfd"):
        stdin(content)
        assert problem("-") == "- (stdin) holds neither an image nor a list of inputs"
    stdin(png(), terminal=True)
    assert problem("-") == "- reads stdin: pipe an image or a list of inputs into it"


def test_how_many_images_a_file_holds(files):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "white")]
    for name, several in {"a.gif": True, "b.webp": True, "c.tif": True, "d.gif": False}.items():
        frames[0].save(name, save_all=several, append_images=frames[1:] if several else [])
    found = find_sources(["a.gif", "b.webp", "c.tif", "d.gif"])
    assert [(s.images, s.is_paged, s.is_video) for s in found] == [
        (3, False, False), (3, False, False), (3, True, False), (1, False, False)
    ]  # fmt: skip


def test_what_a_server_says_decides_where_the_name_does_not(server):
    found = find_sources([f"{server}/{name}" for name in ("photo.png", "photo", "live", "clip")])
    assert [(s.is_video, s.is_live) for s in found] == [
        (False, False), (False, False), (True, True), (True, False)
    ]  # fmt: skip
    assert [source.name for source in found] == [
        "photo", "127.0.0.1_photo", "127.0.0.1_live", "127.0.0.1_clip"
    ]  # fmt: skip


@pytest.mark.parametrize("scheme", sources.STREAMS)
def test_streams_are_not_opened_yet_and_keep_their_password(scheme):
    (source,) = find_sources([f"{scheme}://me:secret@camera:554/live/1"])
    assert source.is_live
    assert source.address == f"{scheme}://me:secret@camera:554/live/1"
    assert source.path == f"{scheme}://camera:554/live/1"
    assert source.name == "camera_live_1"


def test_addresses_that_cannot_be_read(server):
    assert problem(f"{server}/page").endswith(
        "/page: it is a web page, not an image, video or stream"
    )
    assert "/none: it cannot be opened: HTTP Error 404" in problem(f"{server}/none")
    assert problem("http://me:secret@127.0.0.1:1/x") == (
        "http://127.0.0.1:1/x: it cannot be opened: Connection refused"
    )
    assert problem("ftp://host/a.png").startswith("ftp://host/a.png cannot be read: ftp is none of")


def test_a_password_is_sent_to_the_server(server):
    address = server.replace("//", "//me:s%20t@")
    (source,) = find_sources([f"{address}/private"])
    assert sources.download(source.address).startswith(b"\x89PNG")
    assert not os.path.exists(source.path)
