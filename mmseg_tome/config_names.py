"""Our configs by name, from any folder: with or without their folder below configs, and `.py`."""

from __future__ import annotations

import difflib
import fnmatch
from functools import lru_cache
from pathlib import Path

from mmseg_tome.files import CONFIGS


@lru_cache(maxsize=1)
def config_files() -> dict[str, Path]:
    """Each config that can be run, by its path below `configs/` without `.py`, sorted."""
    paths = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.py"))
    names = sorted(path.with_suffix("").as_posix() for path in paths if "_base_" not in path.parts)
    return {name: CONFIGS / f"{name}.py" for name in names}


def matching_configs(pattern: str = "") -> list[str]:
    """Names of configs: those that hold `pattern`, or, with `*` or `?` in it, that it fits."""
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    return [name for name in config_files() if fnmatch.fnmatch(name, wild)]


def find_config(text: str) -> str:
    """The path of a config: a file's own, else that of ours by this name, else `text` itself."""
    if Path(text).is_file():
        return text
    files, name = config_files(), _name(text)
    alike = [known for known in files if name in (known, known.rpartition("/")[2])]
    return str(files[alike[0]]) if len(alike) == 1 else text


def nearest_configs(text: str) -> str:
    """What to say of a config that is not there: `"; is it ...?"`, or nothing if none is alike."""
    names = {known.rpartition("/")[2]: known for known in config_files()}
    close = difflib.get_close_matches(_name(text).rpartition("/")[2], names, 3, 0.7)
    return f"; is it {' or '.join(names[each] for each in close)}?" if close else ""


def with_public_weights(text: str) -> str:
    """What to say of a config without weights: `"; ... has public weights"`, or nothing.

    Those for a data set have the largest model, and no folder: `segformerpp_hq_coco` for
    `b0/segformerpp_b0_hq_coco`.
    """
    _, *merging_and_data = _name(text).rsplit("_", 2)
    name = "_".join(["segformerpp", *merging_and_data])
    return f"; {name} has public weights" if name in config_files() else ""


def _name(text: str) -> str:
    return text.replace("\\", "/").removesuffix(".py").rpartition("configs/")[2]
