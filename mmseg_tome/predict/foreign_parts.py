"""Parts of a config inside an exported file: built only if they are what an export writes.

mmengine takes any importable name for a `type`, even `subprocess.Popen`, and calls it with the
other values; a scope is a module that it imports.
"""

import importlib

from mmengine import registry as root
from mmengine.registry import Registry

from mmseg_tome import compat, registry  # noqa: F401  (ours are children of mmengine's)
from mmseg_tome.errors import UserError

SCOPES = ("mmcv", "mmengine", "mmseg", "mmpose", "mmseg_tome")
KEYS = {"default_scope", "model", "test_dataloader", "train_dataloader"}
MODEL_KEYS = {"type", "data_preprocessor", "test_cfg", "head", "decode_head"}
LOADER_KEYS = {"batch_size", "dataset"}
DATASET_KEYS = {"type", "pipeline"}


def check_parts(parts: dict, path: str) -> None:
    """Raise UserError unless parts of a config name registered classes, and nothing else.

    Args:
        parts: `Metadata.inference` of an untrusted file.
        path: Of the file, for the message.
    """
    model, loaders = parts.get("model"), [parts.get(key) for key in sorted(KEYS) if "load" in key]
    loaders = [loader for loader in loaders if loader is not None]
    known = isinstance(model, dict) and all(isinstance(each, dict) for each in loaders)
    datasets = [loader.get("dataset", {}) for loader in loaders] if known else []
    if not (
        known
        and set(parts) <= KEYS
        and set(model) <= MODEL_KEYS
        and all(set(loader) <= LOADER_KEYS for loader in loaders)
        and all(isinstance(each, dict) and set(each) <= DATASET_KEYS for each in datasets)
    ):
        raise UserError(
            f"{path} was not written by tools/export.py: it has other parts of a config"
        )
    if parts.get("default_scope", "mmseg") not in SCOPES:
        raise UserError(f"{path} names the scope {parts['default_scope']!r}: not one of mm's")
    for name in _types(parts):
        if not _is_registered(name):
            raise UserError(
                f"{path} names {name!r}, which is nothing that the mm packages have registered here"
            )


def _types(node):
    """All values of `type` and `_scope_` in a tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "type":
                yield value
            elif key == "_scope_":
                yield f"{value}.{node.get('type')}"
            else:
                yield from _types(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _types(value)


def _is_registered(name) -> bool:
    if not isinstance(name, str):
        return False
    scope, dot, key = name.rpartition(".")
    if dot and scope not in SCOPES:
        return False
    return any(key in each.module_dict for each in _registries())


def _registries() -> list[Registry]:
    """Those of the mm packages that are here, filled."""
    found = [root.MODELS, root.TRANSFORMS, root.DATASETS]
    for package in ("mmseg", "mmpose"):
        if compat.has(package):
            importlib.import_module(f"{package}.registry")
    if compat.has("mmpose"):
        from mmpose.registry import KEYPOINT_CODECS

        found.append(KEYPOINT_CODECS)
    found += [child for each in found for child in each.children.values()]
    for each in found:
        each.import_from_location()
    return found
