"""Checkpoints of mmseg (0.x and 1.x), of mmpose, of the SegFormer++ authors' forks, and ours.

All of them name parameters as we do. A file of a backbone alone has keys without `backbone.`, as
the zoo's `mit_b0_20220624-7e0fe6dd.pth`. The authors' files come from forks of mmseg and of mmpose;
they are told apart by the merging in the config text that they carry.
"""

import ast
import json
import re

from mmseg_tome.checkpoints.checkpoint import Checkpoint, Source, build_checkpoint
from mmseg_tome.checkpoints.formats.base import DROPPED, Format, register_format
from mmseg_tome.checkpoints.tensors import DEFAULT
from mmseg_tome.merging import merges

OURS = re.compile(
    r"backbone\.layers\.\d+\.(0\.(projection|norm)|2|1\.\d+\.("
    r"norm[12]|attn\.(sr|norm|attn\.out_proj)|ffn\.layers\.[014]"
    r"))\.(weight|bias)"
    r"|backbone\.layers\.\d+\.1\.\d+\.attn\.attn\.in_proj_(weight|bias)"
    r"|(decode_head|head)\.(convs\.\d+|fusion_conv)\.(conv|bn)\.\w+"
    r"|(decode_head\.conv_seg|head\.final_layer)\.(weight|bias)"
)
UNUSED = re.compile(r"auxiliary_head\..+|data_preprocessor\.(mean|std)|(head\.)?loss_module\..+")
META = "mmseg_tome"
"""Where files of ours hold what no other checkpoint says."""


@register_format
class MM(Format):
    name = "mm"
    title = "MMSegmentation / MMPose"

    def our_key(self, key: str) -> str | None:
        if UNUSED.fullmatch(key):
            return DROPPED
        key = f"backbone.{key}" if key.startswith("layers.") else key
        return key if OURS.fullmatch(key) else None

    def convert(self, source: Source) -> Checkpoint:
        state, dropped = self.rename(source.state)
        model, own = _model(source.meta), own_meta(source.meta)
        backbone = section(model, "backbone")
        known = read_meta(source.meta)
        tome_cfg = backbone.get("tome_cfg") or own.get("tome_cfg")
        known["tome_cfg"] = tome_cfg if merges(tome_cfg) else None
        known["down_sample"] = bool(backbone.get("down_sample") or own.get("down_sample"))
        eps = section(backbone, "norm_cfg").get("eps") or own.get("norm_eps") or DEFAULT
        return build_checkpoint(
            state,
            num_heads=backbone.get("num_heads") or own.get("num_heads"),
            strides=backbone.get("strides") or own.get("strides"),
            origin=self._origin(source.meta, own, known),
            norm_eps=float(eps),
            dropped=dropped,
            **known,
        )

    def _origin(self, meta: dict, own: dict, known: dict) -> str:
        if own:
            return f"mmseg_tome (converted from {own['origin']})"
        if known["tome_cfg"] or known["down_sample"]:
            return "SegFormer++ (mmseg_tome, or its authors' forks of MMSegmentation and MMPose)"
        if "mmengine_version" in meta:
            return f"{self.title} 1.x"
        old = [key for key in ("mmseg_version", "mmpose_version", "mmcv_version") if key in meta]
        return f"{self.title} 0.x" if old or "CLASSES" in meta else self.title


def read_meta(meta: dict) -> dict:
    """Names, colours and normalisation that an mm checkpoint's `meta` knows.

    Returns:
        `classes`, `palette`, `dataset_meta`, `mean`, `std` and `input_size` of a `Checkpoint`, as
        far as known.
    """
    data, own = section(meta, "dataset_meta"), own_meta(meta)
    old = dict(classes=meta.get("CLASSES"), palette=meta.get("PALETTE"))  # 0.x
    known: dict = dict(dataset_meta=data)
    for found in (data, old, own):
        classes, palette = found.get("classes"), found.get("palette")
        if not isinstance(classes, (list, tuple)) or not classes:
            continue
        known["classes"] = tuple(map(str, classes))
        if isinstance(palette, (list, tuple)) and len(palette) == len(classes):
            known["palette"] = tuple(tuple(map(int, colour)) for colour in palette)
        break
    preprocessor = section(_model(meta), "data_preprocessor") or own
    mean, std = preprocessor.get("mean"), preprocessor.get("std")
    if mean and std:
        known.update(mean=tuple(map(float, mean)), std=tuple(map(float, std)))
    if own.get("input_size"):
        known["input_size"] = tuple(map(int, own["input_size"]))
    return known


def own_meta(meta: dict) -> dict:
    """What `mmseg_tome.checkpoints.writing` noted; safetensors hold text alone."""
    own = meta.get(META) or {}
    try:
        own = json.loads(own) if isinstance(own, str) else own
    except ValueError:
        return {}
    return own if isinstance(own, dict) and "origin" in own else {}


def _model(meta: dict) -> dict:
    return read_model(meta.get("cfg") or meta.get("config") or "")  # the second in 0.x


def read_model(text) -> dict:
    """The `model` of a config's text, as far as it is made of plain values.

    Args:
        text: What mmcv 1.x (`meta["config"]`) and mmengine (`meta["cfg"]`) save: assignments of
            constants, lists, tuples and `dict(...)` calls.

    Returns:
        The dictionary; empty if there is none, or the text is something else.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return {}
    for statement in statements:
        names = [getattr(t, "id", None) for t in getattr(statement, "targets", ())]
        if names == ["model"]:
            model = _value(statement.value)
            return model if isinstance(model, dict) else {}
    return {}


def section(model: dict, name: str) -> dict:
    """A dictionary within `model`; empty if there is none."""
    found = model.get(name)
    return found if isinstance(found, dict) else {}


def _value(node: ast.AST):
    """A plain value; None in place of anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
