"""Weights from a file of any known format into a model, with torch alone."""

from pathlib import Path

from torch import nn

from mmseg_tome.checkpoints import ConversionError, convert
from mmseg_tome.checkpoints.architecture import surplus
from mmseg_tome.checkpoints.fitting import mismatch
from mmseg_tome.checkpoints.loading import fetch, load_from_local
from mmseg_tome.checkpoints.reading import read_source
from mmseg_tome.errors import CheckpointError


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Put a checkpoint's weights into a model of `mmseg_tome.create_model`.

    No code in the file runs, see `mmseg_tome.checkpoints.loading`.

    Args:
        model: Gets the weights, in place; is left as it was if they do not fit.
        path: A `.pth` or `.safetensors` file or its address (https://...), or a Hugging Face folder
            or name, of any format that `mmseg_tome.checkpoints` knows: mmseg's, mmpose's, ours,
            NVlabs', Hugging Face's. One of a backbone alone (ImageNet weights) goes into the
            model's backbone.

    Returns:
        The model.

    Raises:
        CheckpointError: The file cannot be had or read, wants to run code, or does not fit the
            model.
    """
    file = fetch(str(path)) if "://" in str(path) else path
    try:
        checkpoint = convert(read_source(str(file), load_from_local))
    except ConversionError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state, target = checkpoint.state, model
    if checkpoint.head is None:
        target = model.backbone
        state = {name.removeprefix("backbone."): value for name, value in state.items()}
    if problem := mismatch(target, state) or surplus(state, target.state_dict()):
        linear = checkpoint.head is not None and checkpoint.head.linear
        hint = f", channels={checkpoint.head.channels}, linear=True" if linear else ""
        variant = checkpoint.architecture.variant or "a backbone of another size"
        raise CheckpointError(
            f"{path} does not fit the model: {problem}. It is {checkpoint.task} by {variant}{hint}"
        )
    target.load_state_dict(state, strict=False)  # counters of batch norms may be missing
    for module in model.backbone.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = checkpoint.norm_eps  # no weight shows it
    return model
