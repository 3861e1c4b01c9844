"""Writing a checkpoint, in one piece or not at all."""

import io
import json
from pathlib import Path

import torch

from mmseg_tome import __version__
from mmseg_tome.checkpoints.architecture import BACKBONE
from mmseg_tome.checkpoints.checkpoint import Checkpoint
from mmseg_tome.checkpoints.formats.huggingface import (
    make_config,
    make_preprocessor,
    to_hugging_face,
)
from mmseg_tome.checkpoints.formats.mm import META
from mmseg_tome.checkpoints.reading import CONFIG, PREPROCESSOR, WEIGHT_FILES
from mmseg_tome.checkpoints.tensors import State
from mmseg_tome.errors import ConversionError
from mmseg_tome.files import replacing

SAFETENSORS, PICKLES = ".safetensors", (".pth", ".pt")


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint for this package; a backbone's keys have no prefix, as `init_cfg` wants.

    Args:
        checkpoint: What to write.
        path: A `.pth` or `.safetensors` file.

    Raises:
        ConversionError: The file has another ending.
    """
    state = checkpoint.state
    if checkpoint.head is None:
        state = {key.removeprefix(BACKBONE): value for key, value in state.items()}
    state = {key: value.contiguous() for key, value in state.items()}
    meta = {META: describe(checkpoint)}
    if path.suffix == SAFETENSORS:
        text = {key: json.dumps(value) for key, value in meta.items()}
        with replacing(path) as temporary:
            _save_safetensors(state, temporary, dict(format="pt", **text))
    elif path.suffix in PICKLES:
        data = dict(classes=checkpoint.classes, palette=checkpoint.palette)
        data = {key: list(value) for key, value in data.items() if value}
        # Of pose, all that was found: a part of it would hide the rest.
        data = {**checkpoint.dataset_meta, **data} if checkpoint.task != "backbone" else {}
        if data:
            meta["dataset_meta"] = data
        content = io.BytesIO()  # torch reports a file that it cannot write without saying why
        torch.save(dict(meta=meta, state_dict=state), content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())
    else:
        raise ConversionError(f"{path} must end in .pth or .safetensors")


def write_hugging_face(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that `transformers` loads: `SegformerForSemanticSegmentation.from_pretrained`.

    Raises:
        ConversionError: There is no equal model in `transformers`.
    """
    state = to_hugging_face(checkpoint)
    jsons = {CONFIG: make_config(checkpoint), PREPROCESSOR: make_preprocessor(checkpoint)}
    with replacing(folder) as temporary:
        temporary.mkdir()
        _save_safetensors(state, temporary / WEIGHT_FILES[0], dict(format="pt"))
        for name, content in jsons.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_text(text: str, path: Path) -> None:
    """Write a text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def describe(checkpoint: Checkpoint) -> dict:
    """What a file of ours says beside its parameters, in plain values."""
    arch, head = checkpoint.architecture, checkpoint.head
    return dict(
        version=__version__,
        origin=checkpoint.origin,
        task=checkpoint.task,
        variant=arch.variant,
        linear_head=head.linear if head else None,
        num_heads=list(arch.num_heads),
        strides=list(arch.strides),
        norm_eps=checkpoint.norm_eps,
        tome_cfg=checkpoint.tome_cfg,
        down_sample=checkpoint.down_sample,
        mean=list(checkpoint.mean),
        std=list(checkpoint.std),
        input_size=checkpoint.input_size and list(checkpoint.input_size),
        classes=checkpoint.classes and list(checkpoint.classes),
        palette=checkpoint.palette and [list(colour) for colour in checkpoint.palette],
    )


def _save_safetensors(state: State, path: Path, metadata: dict[str, str]) -> None:
    try:
        from safetensors.torch import save
    except ImportError:
        raise ConversionError(
            f"writing {path.suffix} needs safetensors: pip install safetensors"
        ) from None
    path.write_bytes(save(state, metadata))  # its `save_file` lets nobody else read the file
