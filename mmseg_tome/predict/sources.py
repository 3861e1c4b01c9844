"""What a user names as input: files, folders, patterns, lists, addresses, cameras and stdin."""

import base64
import glob
import http.client
import io
import itertools
import os
import re
import sys
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit

from PIL import Image

from mmseg_tome.errors import UserError

# fmt: off
IMAGES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jp2", ".png", ".bmp", ".dib", ".webp", ".gif",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
})
VIDEOS = frozenset({
    ".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv",
})
# fmt: on
SEVERAL = {".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Files that may hold several images, with Pillow's name of the format."""
LISTS = frozenset({".txt", ".streams"})
STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
SECONDS = 20
"""That a server may take to answer."""
SHOWN = 5
"""Of what is wrong with the inputs of one run."""


class UnreadableError(UserError):
    """An input that exists but cannot be read; the message does not name it."""


@dataclass(frozen=True)
class Source:
    """An image, several in one file, a video, or a stream.

    Attributes:
        path: Where it is; of what is no file how results call it, without its password.
        name: Relative path without suffix for what is made of it; no two sources share one.
        is_video: Whether it is a video or a stream.
        images: How many an image file holds, as animations and TIFFs may.
        is_paged: Whether these are pages, which may differ in size, and are not to be played.
        address: What is opened, of what is no file: a URL, or a camera's number.
        is_live: Whether it is a stream, which has no end that is known.
        content: Of an image that is here already.
    """

    path: Path | str
    name: str
    is_video: bool
    images: int = 1
    is_paged: bool = False
    address: str | int | None = None
    is_live: bool = False
    content: bytes | None = field(default=None, repr=False)


def find_sources(inputs: Sequence[str], results: Sequence[Path] = ()) -> list[Source]:
    """List what `inputs` name, in that order, each once.

    A folder stands for all images and videos in it and in its subfolders, sorted; other and hidden
    files are passed over. A pattern (`photos/*.jpg`, `**`) stands for those that match. Names keep
    the path from the folder's own name on, or from that of the last folder before the first
    wildcard: `photos/a/1.jpg` of `photos` is `photos/a/1`.

    A number is a camera, unless a file or folder has that name. `-` reads stdin: an image, or
    inputs, one a line, as a .txt or .streams file holds them; there, what does not exist is looked
    for beside the file. An http address is what its suffix says, else what the server says.

    Args:
        inputs: As the user names them.
        results: Folders of results: what is in them, maybe from an earlier run, is no input.

    Raises:
        UserError: Inputs are missing, neither image nor video, folders without either, or addresses
            that cannot be opened.
    """
    finder = _Finder(results)
    for text in inputs:
        finder.add(text)
    if problems := finder.problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("; ".join(problems[:SHOWN] + more))
    names = _unique(source.name for source in finder.found.values())
    return [
        replace(source, name=name)
        for source, name in zip(finder.found.values(), names, strict=True)
    ]


def download(address: str) -> bytes:
    """The content of an http address.

    Raises:
        UnreadableError: There is none.
    """
    return _ask(address, lambda answer: answer.read())


class _Finder:
    """Collects sources, and what is wrong with the inputs."""

    def __init__(self, results: Sequence[Path]):
        self._results = [folder.resolve() for folder in results]
        self._list = ""  # that is being read
        self.found: dict[object, Source] = {}
        self.problems: list[str] = []

    def add(self, text: str) -> None:
        # Unlike Path's, these two take any text.
        path = Path(os.path.expanduser(text))
        exists = os.path.exists(path)
        if text == "-" and not self._list:
            self._add_stdin()
        elif scheme := SCHEME.match(text):
            self._add_address(text, scheme[1].lower())
        elif os.path.isdir(path):
            self._add_files(text, path, _files_below(path))
        elif text.isdecimal() and not exists:
            self._add(Source(text, f"camera_{text}", True, address=int(text), is_live=True))
        elif not exists and glob.has_magic(text):
            files = filter(_is_known, map(Path, glob.iglob(str(path), recursive=True)))
            self._add_files(text, _before_wildcards(path), sorted(files))
        elif not exists:
            self._wrong(f"{text} does not exist")
        elif not self._list and path.suffix.lower() in LISTS and (lines := _lines_of(path)):
            self._add_list(text, lines, path.parent)
        elif path.suffix.lower() not in IMAGES | VIDEOS:
            self._wrong(f"{text} is of no known image or video type")
        elif self._is_result(path):
            self._wrong(f"{text} lies where the results go")
        else:
            self._add_file(path, Path(path.name))

    def _wrong(self, problem: str) -> None:
        self.problems.append(f"{self._list}: {problem}" if self._list else problem)

    def _add(self, source: Source) -> None:
        self.found.setdefault(source.path, source)

    def _add_file(self, path: Path, name: Path) -> None:
        suffix = path.suffix.lower()
        source = Source(path, name.with_suffix("").as_posix(), suffix in VIDEOS)
        if suffix in SEVERAL:
            source = replace(source, **(_images(path) or {}))
        self.found.setdefault(path.resolve(), source)

    def _add_files(self, text: str, folder: Path, files: Iterable[Path]) -> None:
        files = [file for file in files if not self._is_result(file)]
        if not files:
            self._wrong(f"{text} holds no image or video")
        for file in files:
            self._add_file(file, folder.resolve().name / file.relative_to(folder))

    def _add_list(self, name: str, lines: list[str], folder: Path) -> None:
        self._list = name
        for line in lines:
            beside = not os.path.exists(line) and os.path.exists(folder / line)
            self.add(str(folder / line) if beside else line)
        self._list = ""

    def _add_stdin(self) -> None:
        if sys.stdin is None or sys.stdin.isatty():
            return self._wrong("- reads stdin: pipe an image or a list of inputs into it")
        content = sys.stdin.buffer.read()
        if (images := _images(io.BytesIO(content))) is not None:
            return self._add(Source("-", "stdin", False, **images, content=content))
        if lines := _lines(content):
            return self._add_list("-", lines, Path())
        return self._wrong("- (stdin) holds neither an image nor a list of inputs")

    def _add_address(self, address: str, scheme: str) -> None:
        shown, parts = _shown(address), urlsplit(address)
        path = PurePosixPath(unquote(parts.path))
        is_file = path.suffix.lower() in IMAGES | VIDEOS
        place = path.stem if is_file else f"{parts.hostname or ''}{path}"
        name = re.sub(r"[^\w.-]+", "_", place).strip("._") or scheme
        source = Source(shown, name, True, address=address, is_live=True)
        if scheme in STREAMS:
            return self._add(source)
        if scheme not in ("http", "https"):
            known = ", ".join(("http", "https", *STREAMS))
            return self._wrong(f"{shown} cannot be read: {scheme} is none of {known}")
        try:
            self._add(_over_http(source, path.suffix.lower()))
        except UnreadableError as error:
            self._wrong(f"{shown}: {error}")

    def _is_result(self, file: Path) -> bool:
        return any(file.resolve().is_relative_to(folder) for folder in self._results)


def _over_http(stream: Source, suffix: str) -> Source:
    """What an http address is, which may be no stream."""
    image = replace(stream, is_video=False, is_live=False)
    video = replace(stream, is_live=False)
    if suffix in SEVERAL:
        content = download(stream.address)
        return replace(image, content=content, **(_images(io.BytesIO(content)) or {}))
    if suffix in IMAGES | VIDEOS:
        return image if suffix in IMAGES else video
    kind, length = _ask(
        stream.address,
        lambda answer: (answer.headers.get_content_type(), answer.headers["Content-Length"]),
    )
    if kind == "text/html":
        raise UnreadableError("it is a web page, not an image, video or stream")
    if kind.startswith("image/"):
        return image
    return video if kind.startswith("video/") and length else stream


def _ask(address: str, read):
    """What `read` makes of a server's answer."""
    parts = urlsplit(address)
    request = urllib.request.Request(_bare(parts), headers={"User-Agent": "mmseg_tome"})
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        coded = base64.b64encode(user.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return read(answer)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) if not hasattr(error, "code") else None
        reason = getattr(reason, "strerror", None) or reason or error
        raise UnreadableError(f"it cannot be opened: {reason}") from None


def _bare(parts: SplitResult) -> str:
    """An address without user and password."""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _shown(address: str) -> str:
    return _bare(urlsplit(address))


def _images(file: Path | io.BytesIO) -> dict | None:
    """`images` and `is_paged` of an image file; None of what Pillow does not know."""
    with suppress(Exception), Image.open(file) as image:
        count = image.n_frames if image.format in SEVERAL.values() else 1
        return dict(images=count, is_paged=count > 1 and image.format == "TIFF")
    return None


def _lines_of(path: Path) -> list[str]:
    with suppress(OSError):
        return _lines(path.read_bytes())
    return []


def _lines(content: bytes) -> list[str]:
    """Inputs in a text, one a line but for comments (#); none in what is no text."""
    with suppress(UnicodeDecodeError):
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
        if "\0" not in "".join(lines):
            return [line for line in lines if line and not line.startswith("#")]
    return []


def _before_wildcards(path: Path) -> Path:
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))


def _is_known(file: Path) -> bool:
    return file.suffix.lower() in IMAGES | VIDEOS and file.is_file()


def _files_below(folder: Path) -> list[Path]:
    def is_wanted(file: Path) -> bool:
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        return not hidden and _is_known(file)

    return sorted(filter(is_wanted, folder.rglob("*")))


def _unique(names: Iterable[str]) -> list[str]:
    """Number what occurs again: `a`, `a`, `A` become `a`, `a_2`, `A_3`, on any file system."""
    taken: set[str] = set()
    result = []
    for name in names:
        free, number = name, 1
        while free.lower() in taken:
            number += 1
            free = f"{name}_{number}"
        taken.add(free.lower())
        result.append(free)
    return result
