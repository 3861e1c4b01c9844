"""Names of models: those of our metafiles, for ourselves and for mm's inferencers."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urldefrag

from mmseg_tome.config_names import find_config, nearest_configs
from mmseg_tome.errors import UserError
from mmseg_tome.files import HOME

INDEX = "model-index.yml"
TASKS = {"mmseg": "Semantic Segmentation", "mmpose": "Body 2D Keypoint"}
"""What metafiles call the task of each mm package."""


def find_model(name: str | Path) -> tuple[Path, str | None]:
    """The config of a model, and the weights that were published for this name.

    Args:
        name: A config, by path or name, whose weights are those that it
            names itself; or a name of docs/zoo.md.

    Returns:
        The file, and an address if the name stands for other weights than the config's.

    Raises:
        UserError: There is no such file or name.
    """
    models = {model["Name"]: model for model in zoo_models()}
    model = models.get(str(name))
    if model is not None and not Path(name).is_file():
        return HOME / model["Config"], model["Weights"]
    path = Path(find_config(str(name)))
    if path.is_dir():
        raise UserError(f"config {name} is a folder")
    if not path.is_file():
        close = difflib.get_close_matches(str(name), models, 1, 0.9)
        hint = f"; is it {close[0]}?" if close else nearest_configs(str(name))
        raise UserError(f"config {name} does not exist{hint}")
    return path, None


@functools.cache
def zoo_models() -> tuple[dict, ...]:
    """The entries of all metafiles; none where the package was installed without them."""
    from mmengine.fileio import load

    if not (HOME / INDEX).is_file():
        return ()
    files = load(HOME / INDEX)["Import"]
    models = [model for file in files for model in load(HOME / file)["Models"]]
    # What follows "#" is a file name for `mim`.
    return tuple({**model, "Weights": urldefrag(model["Weights"]).url} for model in models)


def add_to_inferencers() -> None:
    """Let mmseg's and mmpose's inferencers find our models by name, until the process ends.

        import mmseg_tome

        mmseg_tome.add_to_inferencers()
        MMSegInferencer("segformerpp_b0_fast_cityscapes")
        Pose2DInferencer("segformerpp_hq_coco")

    mmengine looks a name up in the one package that is called as the scope is, so ours are put
    before what it reads there. `list_models("mmseg")` and `list_models("mmseg_tome")` have them.
    """
    from mmseg_tome import compat  # before anything of the mm packages

    from mmengine.config.utils import MODULE2PACKAGE  # isort: skip
    from mmengine.infer import BaseInferencer

    compat.name_packages()
    MODULE2PACKAGE.setdefault("mmseg_tome", "mmseg_tome")
    stock = BaseInferencer._get_models_from_metafile
    if getattr(stock, "func", None) is not _with_ours:
        ours = functools.partial(_with_ours, stock)
        BaseInferencer._get_models_from_metafile = staticmethod(ours)


def _with_ours(stock: Callable[[str], Iterator[dict]], folder: str) -> Iterator[dict]:
    """Our models of a package's task, with paths of their configs, and what it lists itself."""
    place = Path(folder)  # of a package: its `.mim`, or the checkout that it is in
    inside = [place.parent.name] if place.name == ".mim" else [p.name for p in place.iterdir()]
    tasks = [task for package, task in TASKS.items() if package in inside]
    for model in zoo_models():
        if model["Results"][0]["Task"] in tasks or "mmseg_tome" in inside:
            yield {**model, "Config": str(HOME / model["Config"])}
    if "mmseg_tome" not in inside:
        yield from stock(folder)  # seconds of YAML, which a look for one of ours does not need
