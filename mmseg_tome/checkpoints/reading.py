"""Finding a checkpoint's files: one file, a Hugging Face folder, shards, or a name on the hub."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmseg_tome.checkpoints.checkpoint import Source
from mmseg_tome.checkpoints.wrappers import find_parameters, is_lightning, plain_names
from mmseg_tome.errors import ConversionError, first_line, some

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a Hugging Face folder may hold, what is preferred first."""

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LoadFile = Callable[[str, str], dict]


def read_source(name: str, load_file: LoadFile) -> Source:
    """Read a checkpoint.

    Args:
        name: A file, a folder, an index of shards, or `owner/model` on the Hugging Face hub.
        load_file: Reads one file onto a device, as `loading.load_from_local`.

    Raises:
        ConversionError: There is no such thing, files are missing, or there are no parameters.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if not HUB_NAME.fullmatch(name) or path.parent.exists() or path.suffix in (".pth", ".pt"):
            raise ConversionError(f"{name} does not exist (from {Path.cwd()})")
        path = download(name)
    path = path.parent if path.name == CONFIG else path
    weights = _weights_in(path) if path.is_dir() else path
    if weights.name.endswith(".index.json"):
        state, meta = _load_shards(weights, load_file), {}
    else:
        checkpoint = load_file(str(weights), "cpu")
        state = find_state(checkpoint, str(weights))
        meta = checkpoint.get("meta") or {}
    configs = {}
    if path.is_dir() or weights.name in WEIGHT_FILES:
        names = dict(config=CONFIG, preprocessor=PREPROCESSOR)
        for field, file in names.items():
            if (weights.parent / file).is_file():
                configs[field] = read_json(weights.parent / file)
    return Source(state=state, meta=meta if isinstance(meta, dict) else {}, **configs)


def find_state(checkpoint, name: str) -> dict[str, Tensor]:
    """The parameters in what was saved, by the names that they have where nothing wraps a model.

    Raises:
        ConversionError: There are none.
    """
    found = find_parameters(checkpoint)
    if found is None:
        found = checkpoint
    if not isinstance(found, dict) or not found or not any(map(torch.is_tensor, found.values())):
        raise ConversionError(f"{name} is not a checkpoint: it has no weights by name{_has(found)}")
    wrong = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ConversionError(
            f"{name} is not a checkpoint: {len(wrong)} of its {len(found)} entries are no tensors "
            f"({some(wrong)})"
        )
    plain = plain_names(found, isinstance(checkpoint, dict) and is_lightning(checkpoint))
    return {key: value.detach() for key, value in plain.items()}


def _has(found) -> str:
    """The names in a file without weights, for a message."""
    if isinstance(found, dict) and found:
        return f", but {some([str(key) for key in found])}"
    return ""


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        ConversionError: It is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also one of encoding
        raise ConversionError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConversionError(f"{path} is not a JSON object")
    return content


def download(name: str) -> Path:
    """Download a model of the Hugging Face hub, or find it among those downloaded before.

    Raises:
        ConversionError: `huggingface_hub` is not installed, or it fails.
    """
    by_hand = f"download it where you can (hf download {name} --local-dir DIR) and name DIR"
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConversionError(
            f"{name} is not a file or folder, and a download from the Hugging Face hub needs "
            f"huggingface_hub: pip install huggingface_hub, or {by_hand}"
        ) from None
    wanted = [CONFIG, PREPROCESSOR, "*.safetensors", "*.index.json"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if not any((folder / file).is_file() for file in WEIGHT_FILES[:2]):
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, "*.bin"]))
    except Exception as error:  # of many libraries: names, rights, networks, disks
        raise ConversionError(
            f"{name} is not a file or folder, and the Hugging Face hub does not provide it "
            f"({first_line(error)}): {by_hand}"
        ) from None
    return folder


def _weights_in(folder: Path) -> Path:
    for file in WEIGHT_FILES:
        if (folder / file).is_file():
            return folder / file
    raise ConversionError(f"{folder} has no checkpoint: none of {', '.join(WEIGHT_FILES)} is there")


def _load_shards(index: Path, load_file: LoadFile) -> dict[str, Tensor]:
    """The parameters of all shards that an index names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConversionError(f"{index} has no weight_map")
    # A name alone: an index must not point elsewhere.
    files = sorted({Path(str(file)).name for file in weight_map.values()})
    if missing := [file for file in files if not (index.parent / file).is_file()]:
        raise ConversionError(
            f"{index} needs {len(files)} shards, {len(missing)} are missing: {some(missing)}"
        )
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(find_state(load_file(str(index.parent / file), "cpu"), file))
    if lost := [key for key in weight_map if key not in state]:
        raise ConversionError(f"{index} lists keys that no shard has: {some(lost)}")
    return state
