"""What a row needs before it can run: whether it is there, where it goes, where to get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.config import Config

from mmseg_tome.checkpoints.loading import load_from_http, load_from_local
from mmseg_tome.lab.output import file_digest

from .tables import DataSource

THERE, DOWNLOAD, MISSING = "there", "download", "MISSING"


@dataclass(frozen=True)
class Requirement:
    """One thing that must be there."""

    place: str  # its path, or a package's name
    status: str  # THERE, DOWNLOAD (not yet, but the tool can fetch it) or MISSING
    detail: str  # what was found, or what is wrong
    get: str = ""  # how to get it, if it is not there
    note: str = ""  # what is there instead of what the paper had, if that differs
    address: str = ""  # where DOWNLOAD fetches it from
    is_checkpoint: bool = False


def data_of(cfg: Config, stages: tuple[str, ...], data: DataSource) -> list[Requirement]:
    """The folders and annotation files that the data loaders of ``stages`` read."""
    found: dict[str, Requirement] = {}
    for stage in stages:
        dataset = (cfg.get(f"{stage}_dataloader") or {}).get("dataset") or {}
        root = dataset.get("data_root") or ""
        if annotations := dataset.get("ann_file"):
            path = os.path.join(root, annotations)
            found.setdefault(path, _file(path, data))
        for key, folder in (dataset.get("data_prefix") or {}).items():
            path = os.path.join(root, folder).rstrip("/")
            count = data.images.get(stage)
            found.setdefault(path, _folder(path, data.endings.get(key, ("",)), count, data))
    return list(found.values())


def _file(path: str, data: DataSource) -> Requirement:
    if Path(path).is_file():
        return Requirement(path, THERE, "a file")
    return Requirement(path, MISSING, "no such file", data.get)


def _folder(
    path: str, endings: tuple[str, ...], count: int | None, data: DataSource
) -> Requirement:
    if not Path(path).is_dir():
        return Requirement(path, MISSING, "no such folder", data.get)
    files = _count(path, endings)
    wanted = " or ".join(f"*{ending}" for ending in endings)
    if not files:
        return Requirement(path, MISSING, f"no {wanted} in it", data.get)
    detail = f"{files} files {wanted}"
    note = f"{detail} in place of {count}" if count not in (None, files) else ""
    return Requirement(path, THERE, detail, note=note)


@cache  # rows share their folders
def _count(path: str, endings: tuple[str, ...]) -> int:
    """How many files with such an ending lie below a folder."""
    return sum(
        name.endswith(endings) for _, _, names in os.walk(path, followlinks=True) for name in names
    )


def forget() -> None:
    """Count files anew from here on: they may have changed since the last plan."""
    _count.cache_clear()


def checkpoint(name: str) -> Requirement:
    """A checkpoint, by its path or its address."""
    if "://" not in name:
        if Path(name).is_file():
            return Requirement(name, THERE, "a file", is_checkpoint=True)
        return Requirement(name, MISSING, "no such file", "name another one", is_checkpoint=True)
    path = download_path(name)
    status, detail = (THERE, "a file") if path.is_file() else (DOWNLOAD, "not downloaded yet")
    return Requirement(str(path), status, detail, name, address=name, is_checkpoint=True)


def download_path(address: str) -> Path:
    """Where `load_from_http` keeps what it downloads."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(address).path).name


def tomesd() -> Requirement:
    """The package that the peer pipeline merges with."""
    if find_spec("tomesd"):
        return Requirement("tomesd", THERE, "a package, for the peer pipeline")
    get = "pip install tomesd, or leave the peer out by --no-peer"
    return Requirement("tomesd", MISSING, "package not installed, for the peer pipeline", get)


def fetch(requirements: list[Requirement]) -> None:
    """Download what can be, and read every checkpoint once, before long work depends on it.

    Raises:
        CheckpointError: One cannot be downloaded, is damaged, or wants to run code.
    """
    for needed in requirements:
        if needed.address:
            load_from_http(needed.address, map_location="cpu")
        elif needed.is_checkpoint:
            load_from_local(needed.place, map_location="cpu")


def missing(requirements: list[Requirement]) -> list[Requirement]:
    return [needed for needed in requirements if needed.status == MISSING]


def identity(name: str) -> str:
    """What tells one checkpoint from another: its content; of an address, the address."""
    path = Path(name)
    if "://" in name or not path.is_file():
        return name
    return file_digest(path)
