"""Weights from a file into a model, with torch alone."""

import pickle
from pathlib import Path

import torch
from torch import nn

from mmseg_tome.checkpoints import ConversionError, convert
from mmseg_tome.checkpoints.fitting import mismatch
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.errors import CheckpointError, first_line

SAFETENSORS = ".safetensors"


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Put a checkpoint's weights into a model of `mmseg_tome.create_model`.

    No code in the file runs: `torch.load(weights_only=True)`, with empty values in the place of
    what mmengine saves beside weights.

    Args:
        model: Gets the weights, in place; is left as it was if they do not fit.
        path: A `.pth` or `.safetensors` file or a Hugging Face folder, of any format that
            `mmseg_tome.checkpoints` knows: mmseg's, mmpose's, ours, NVlabs', Hugging Face's. One
            of a backbone alone (ImageNet weights) goes into the model's backbone.

    Returns:
        The model.

    Raises:
        CheckpointError: The file cannot be read, wants to run code, or does not fit the model.
    """
    try:
        checkpoint = convert(read_source(str(path), _load_file))
    except ConversionError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state, target = checkpoint.state, model
    if checkpoint.head is None:
        target = model.backbone
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    if problem := mismatch(target, state) or _surplus(target, state):
        linear = checkpoint.head is not None and checkpoint.head.linear
        hint = f", channels={checkpoint.head.channels}, linear=True" if linear else ""
        variant = checkpoint.architecture.variant or "a backbone of another size"
        raise CheckpointError(
            f"{path} does not fit the model: {problem}. It is {checkpoint.task} by {variant}{hint}"
        )
    target.load_state_dict(state, strict=False)  # counters of batch norms may be missing
    _set_eps(model, checkpoint.norm_eps)
    return model


def _set_eps(model: nn.Module, eps: float) -> None:
    """Layer norms as the weights were trained with, which no weight shows."""
    for module in model.backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps


def _surplus(model: nn.Module, state: dict) -> str | None:
    known = model.state_dict()
    more = [name for name in state if name not in known]
    return f"it has {len(more)} parameters more, such as {more[0]}" if more else None


class _Blank:
    """Stands for values that are not weights; takes whatever a file says of them."""

    def __new__(cls, *_args):
        return super().__new__(cls)

    def __init__(self, *_args):
        pass

    def __setstate__(self, _state) -> None:
        pass


BESIDE_WEIGHTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    "numpy.ndarray",
    "numpy.dtype",
)
"""What mmengine's checkpoints name beside tensors and plain values."""


def _load_file(file: str, device: str) -> dict:
    """Read one file. Raises CheckpointError."""
    if Path(file).suffix == SAFETENSORS:
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise CheckpointError(
                f"reading {file} needs safetensors: pip install safetensors"
            ) from None
        load = load_file
    else:
        load = _load_pickle
    try:
        return load(file, device)
    except CheckpointError:
        raise
    except Exception as error:  # in bytes that are no checkpoint, readers run into anything
        raise CheckpointError(f"{file} cannot be read: {first_line(error)}") from None


def _load_pickle(file: str, device: str) -> dict:
    blanks = [(_Blank, name) for name in BESIDE_WEIGHTS]
    try:
        with torch.serialization.safe_globals(blanks):
            return torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        try:
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except Exception:  # a file of another protocol, or damaged
            wanted = []
        wanted = ", ".join(sorted({*wanted} - {*BESIDE_WEIGHTS})) or first_line(error)
        # torch's own message advises to load without these restrictions.
        raise CheckpointError(
            f"{file} was not loaded: besides tensors it wants to run {wanted}"
        ) from None
