"""What of the mm stack is here, and what stands in for the parts that are not.

Two families of distributions share the import names mmcv, mmengine and mmseg: the official ones
and the maintained `onedl-*` ones. On both, some modules import things that SegFormer never uses:
mmcv's compiled ops, mmdet, torchvision. Importing this module imports the installed mm packages
with stand-ins in place of whatever of that is missing, then takes the stand-ins away again, so
that nothing lasting is left in `sys.modules`; what they gave out raises a clear ImportError once
somebody really uses it. Where the real thing is installed, it is used.
"""

import functools
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mmseg_tome.config_names import find_config, nearest_configs
from mmseg_tome.errors import MMStackError
from mmseg_tome.files import CONFIGS

STACKS = {
    "onedl": {"onedl-mmcv", "onedl-mmengine", "onedl-mmsegmentation"},
    "openmmlab": {"mmcv", "mmcv-lite", "mmengine", "mmsegmentation"},
}
"""Distributions of each mm stack, by the name of our extra that installs it."""

OPTIONAL = {
    "mmcv.ops": ("MultiScaleDeformableAttention", "point_sample", "sigmoid_focal_loss"),
    "mmdet.utils": ("ConfigType", "reduce_mean"),
    "torchvision.transforms": ("ToPILImage",),
}
"""Modules that may be missing, and the names that mmseg and mmpose import from them unguarded."""

PACKAGES = ("mmseg", "mmpose")
PARTS = ("models", "visualization", "datasets", "evaluation", "engine")


def has(package: str) -> bool:
    """Whether the mm package `package` ("mmseg" or "mmpose") is installed and can be imported."""
    return package in _importable


def installed_stack() -> str:
    """Name of the mm stack in this environment, a key of `STACKS`.

    Raises:
        MMStackError: There is none, or there are both, which overwrite each other's files.
    """
    installed = {_normalised(dist.metadata["Name"]) for dist in metadata.distributions()}
    found = {stack: sorted(names & installed) for stack, names in STACKS.items()}
    found = {stack: names for stack, names in found.items() if names}
    if len(found) > 1:
        listed = " and ".join(f"{', '.join(names)} ({stack})" for stack, names in found.items())
        raise MMStackError(
            f"two mm stacks are installed over each other: {listed}. They share their import "
            "names. Uninstall all of these, then install one stack: "
            "pip install 'mmseg_tome[onedl]' or pip install 'mmseg_tome[openmmlab]'"
        )
    if not found:
        raise MMStackError(
            "mmseg_tome's models need an mm stack and none is installed: "
            "pip install 'mmseg_tome[onedl]' or pip install 'mmseg_tome[openmmlab]'"
        )
    return next(iter(found))


@contextmanager
def stand_ins(optional: dict[str, Iterable[str]]) -> Iterator[list[str]]:
    """Let `optional` modules that cannot be imported seem to be there, within the context.

    Args:
        optional: Module names, each with the names that must be importable from it.

    Yields:
        The modules that are stood in for.
    """
    missing = {name: error for name in optional if (error := _import_error(name))}
    for name, error in missing.items():
        sys.modules[name] = _stand_in(name, optional[name], error)
    try:
        yield list(missing)
    finally:
        for name in missing:
            sys.modules.pop(name, None)


def _import_error(name: str) -> Exception | None:
    """What importing `name` raises; a failed import leaves nothing behind."""
    before = set(sys.modules)
    try:
        import_module(name)
    except Exception as error:  # a torchvision that does not match torch raises RuntimeError
        for left in set(sys.modules) - before:
            if left == name or left.startswith(f"{name}."):
                del sys.modules[left]
        return error
    return None


def _stand_in(name: str, needed: Iterable[str], error: Exception) -> ModuleType:
    """A module whose `needed` names fail when used and whose other names fail when imported."""
    module = ModuleType(name, f"Stand-in for {name}, which cannot be imported: {error}")
    for attribute in needed:
        setattr(module, attribute, _unusable(f"{name}.{attribute}", error))

    def getattr_(attribute: str):
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        # The kind that the guards in mmcv and mmseg expect.
        raise ModuleNotFoundError(f"{name}.{attribute} is not available: {error}")

    module.__getattr__ = getattr_
    return module


def _unusable(name: str, error: Exception) -> type:
    """A class, so that annotations may name it, that cannot be called."""

    def refuse(cls, *args, **kwargs):
        raise ImportError(
            f"{name} was used but cannot be imported here ({type(error).__name__}: {error}); "
            f"SegFormer does not need it, install {name.partition('.')[0]} in full for models "
            "that do"
        )

    return type(name.rpartition(".")[2], (), {"__new__": refuse, "__module__": __name__})


def name_packages() -> None:
    """Let `_base_` find `"mmseg::..."` on both stacks, and `"mmseg_tome::NAME"`, ours by name.

    mmengine looks packages up by the official distributions' names, and where there is no such
    distribution by the name that is imported. Of packages that it does not list it reads nothing.
    """
    stock = Config._get_cfg_path
    if getattr(stock, "func", None) is not _config_path:
        Config._get_cfg_path = staticmethod(functools.partial(_config_path, stock))
    for module, distribution in list(MODULE2PACKAGE.items()):
        try:
            metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            if module in PACKAGES and find_spec(module) is not None:
                MODULE2PACKAGE[module] = module


def _config_path(
    stock: Callable[[str, str], tuple[str, str | None]], path: str, filename: str
) -> tuple[str, str | None]:
    """Where a `_base_` lies, and the scope of its classes: none for ours, which name mmseg's."""
    package, _, name = path.rpartition("::")
    if package != "mmseg_tome":
        return stock(path, filename)
    name = name.removesuffix(".py")
    found = CONFIGS / f"{name}.py"  # which also finds the parts in `_base_`
    found = found if found.is_file() else Path(find_config(f"configs/{name}"))
    if not found.is_file():
        raise FileNotFoundError(None, "", f"{path} does not exist{nearest_configs(name)}")
    return str(found), None


def _normalised(distribution: str | None) -> str:
    return (distribution or "").lower().replace("_", "-")


def _import_mm_packages() -> set[str]:
    """Import what is installed of `PACKAGES`; one that is broken must not take the other along."""
    importable = set()
    # One stack prints that it does without a package of its own.
    with stand_ins(OPTIONAL), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        for message in ("Fail to import ``MultiScaleDeformable", "pkg_resources is deprecated"):
            warnings.filterwarnings("ignore", message=message)
        for package in PACKAGES:
            if find_spec(package) is None:
                continue
            try:
                for part in PARTS:
                    import_module(f"{package}.{part}")
            except Exception as error:
                message = f"{package} is installed but cannot be imported: {error!r}"
                warnings.warn(message, stacklevel=2)
            else:
                importable.add(package)
    return importable


installed_stack()

with warnings.catch_warnings():  # one stack's mmengine is told that a package of its is old
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from mmengine.config import Config  # (there is an mm stack)
    from mmengine.config.utils import MODULE2PACKAGE

_importable = _import_mm_packages()
