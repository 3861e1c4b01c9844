"""The networks that are compared: models of configs, built as ours or as the peer's pipeline."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmseg_tome import compat
from mmseg_tome.checkpoints.fitting import load_state
from mmseg_tome.checkpoints.loading import load
from mmseg_tome.checkpoints.wrappers import find_parameters
from mmseg_tome.errors import UserError
from mmseg_tome.files import CONFIGS
from mmseg_tome.runtime.graphs import CudaGraphs, Graphed, graphed_parts, install

from . import peer

NAMES = ("b0", "b1", "b2", "b3", "b4", "b5")
_TOME_CFGS = (
    *("hq", "fast", "n2d", "quality", "speed", "hq-turbo", "fast-turbo"),
    *("hq-prop", "fast-prop", "hq-auto", "fast-auto"),
)
PRESETS: dict[str, dict] = {
    "none": {},
    **{name: {"tome_cfg": name} for name in _TOME_CFGS},
    "downsample": {"down_sample": True},
}
"""The backbone's merging options of each preset; `downsample` is the paper's baseline."""

_MERGING = ("tome_cfg", "down_sample")
_HEATMAP_HEAD = "mmseg_tome.SegformerHeatmapHead"
_STOCK_HEADS = {"mmseg_tome.SegformerHead": "mmseg.SegformerHead"}


class UsageError(UserError):
    """Something the command line asks for cannot be done; the message is one line."""


def check_names(what: str, given: Iterable[str], allowed: Collection[str], where: str = "") -> None:
    """Refuse names that are not allowed.

    Raises:
        UsageError: Names the first and what is allowed.
    """
    if unknown := [name for name in given if name not in allowed]:
        allowed = ", ".join(allowed)
        raise UsageError(f"{where}unknown {what} {unknown[0]!r}; allowed: {allowed}")


# ---- models --------------------------------------------------------------------------------------


@dataclass
class Model:
    """One architecture and the variants of it to compare.

    ``backbone``, ``head`` and ``neck`` are config dicts, the backbone's without merging options;
    ``variants`` maps a label to those options; ``size`` is the (H, W) that the config trains at, if
    it says so.
    """

    name: str
    backbone: dict
    head: dict
    scope: str = "mmseg"
    variants: dict[str, dict] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    neck: dict | None = None

    @property
    def is_segformer(self) -> bool:
        """Whether its backbone is SegFormer's, which alone has a peer."""
        return self.backbone["type"].endswith("MixVisionTransformer")


def preset_model(name: str, presets: Sequence[str]) -> Model:
    """MiT-``name`` with a 19-class SegFormer head, as the repository's configs have it."""
    cfg = read_config(CONFIGS / "_base_" / "models" / f"segformer_mit_{name}.py")
    return model_of(name, cfg, {preset: PRESETS[preset] for preset in presets})


def config_models(paths: Sequence[str]) -> list[Model]:
    """The models of config files; configs that differ in merging alone become one model's variants.

    Each model gets a ``none`` variant to compare with, unless one of its configs is that.
    """
    models: list[Model] = []
    for path in map(Path, paths):
        cfg = read_config(path)
        options = {k: v for k, v in cfg["model"]["backbone"].items() if k in _MERGING and v}
        new = model_of(path.stem, cfg, {path.stem: options})
        parts = (new.backbone, new.neck, new.head)
        same = [m for m in models if (m.backbone, m.neck, m.head) == parts]
        if not same:
            models.append(new)
        elif path.stem in same[0].variants:
            raise UsageError(f"two configs of one model are both called {path.stem}")
        else:
            same[0].variants |= new.variants
    for model in models:
        if {} not in model.variants.values():
            model.variants = {"none": {}} | model.variants
    return models


def read_config(path: Path) -> Config:
    """Read a config that has a model with a backbone and a head.

    Raises:
        UsageError: It cannot be read, or is no such config.
    """
    if not path.is_file():
        raise UsageError(f"no config file at {path}")
    try:
        compat.name_packages()
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program: anything can come out of it
        raise UsageError(f"cannot read config {path}: {_one_line(error)}") from error
    model = cfg.get("model") or {}
    if "backbone" not in model or not ({"decode_head", "head"} & set(model)):
        raise UsageError(f"config {path} has no model with a backbone and a head")
    return cfg


def model_of(name: str, cfg: Config, variants: dict[str, dict]) -> Model:
    """The model of a config that `read_config` gives."""
    model = cfg.model.to_dict()
    backbone = {k: v for k, v in model["backbone"].items() if k not in _MERGING}
    head = model.get("decode_head") or model["head"]
    size = cfg.get("crop_size") or cfg.model.get("data_preprocessor", {}).get("size")
    if "codec" in cfg and "input_size" in cfg.codec:
        size = cfg.codec.input_size[::-1]  # MMPose says (w, h)
    backbone, head, neck = map(_for_one_process, (backbone, head, model.get("neck")))
    scope = cfg.get("default_scope") or "mmseg"
    return Model(name, backbone, head, scope, variants, tuple(size) if size else None, neck)


def _for_one_process(cfg):
    """A copy without weights to download, with SyncBN, which needs a process group, as BN."""
    if isinstance(cfg, dict):
        kept = {k: v for k, v in cfg.items() if k not in ("init_cfg", "pretrained")}
        return {k: _for_one_process(v) for k, v in kept.items()}
    if isinstance(cfg, list | tuple):
        return type(cfg)(_for_one_process(v) for v in cfg)
    return "BN" if cfg == "SyncBN" else cfg


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


# ---- building ------------------------------------------------------------------------------------


class Pipeline(nn.Module):
    """Image resizing and neck if any, backbone, head up to logits or heatmaps if there is one."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, resize: nn.Module, neck: nn.Module | None = None
    ):
        super().__init__()
        self.resize = resize
        self.backbone = backbone
        self.neck = neck or nn.Identity()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` -> ``[B, classes, H / 4, W / 4]``, or the backbone's last stage."""
        return self.head(self.neck(self.backbone(self.resize(x))))


class _LastStage(nn.Module):
    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[-1]


def build(model: Model, options: dict, of_peer: bool, part: str = "model") -> Pipeline:
    """Build one variant in eval mode on the CPU, with torch's random initial weights.

    The peer is the stock backbone and head of the mm packages; our heatmap head, which they do not
    have, fuses there as SegFormer defines it.

    Raises:
        UsageError: The config's model cannot be built, or the peer lacks its merging.
    """
    backbone, head = copy.deepcopy((model.backbone, model.head))
    if of_peer:
        if not model.is_segformer:
            raise UsageError(f"there is no peer of {model.name}'s backbone: pass --no-peer")
        backbone["type"] = "mmseg.MixVisionTransformer"
        head["type"] = _STOCK_HEADS.get(head["type"], head["type"])
    else:
        backbone |= options
    try:
        with DefaultScope.overwrite_default_scope(model.scope), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about losses, which nobody computes
            body = MODELS.build(backbone)
            top = MODELS.build(head) if part == "model" else _LastStage()
            neck = MODELS.build(model.neck) if model.neck and part == "model" else None
        resize = nn.Identity()
        if of_peer:
            peer.add_merging(body, options.get("tome_cfg"))
            if head["type"] == _HEATMAP_HEAD and part == "model":
                peer.use_plain_fusion(top)
            if options.get("down_sample"):
                resize = nn.Upsample(scale_factor=0.5)
    except Exception as error:
        raise UsageError(f"cannot build {model.name}: {_one_line(error)}") from error
    return Pipeline(body, top, resize, neck).eval()


def load_checkpoint(net: Pipeline, path: str) -> None:
    """Load a checkpoint of the whole model, safely, from a file or an address.

    Raises:
        UserError: It cannot be read, wants to run code, or does not fit the model.
    """
    state = find_parameters(load(path)) or {}
    state = {key.replace("decode_head.", "head.", 1): value for key, value in state.items()}
    load_state(net, state, path)


# ---- pipelines -----------------------------------------------------------------------------------


def as_built(net: Pipeline) -> Pipeline:
    """Change nothing: kernels are launched eagerly."""
    return net


def by_graphs(net: Pipeline) -> Pipeline:
    """Run backbone and head as CUDA graphs, in place, as `acceleration.accelerate` does.

    The first call captures. Has no effect on a CPU, nor where a head's place is taken by something
    without weights.
    """
    memory = CudaGraphs()
    for part in _parts(net):
        install(part, "inference", patience=0, capture=memory)
    return net


def by_training_graphs(net: Pipeline) -> Pipeline:
    """Train the backbone by CUDA graphs, in place, as `FastTrainingHook` does."""
    install(net.backbone, "training", patience=0, capture=CudaGraphs())
    return net


def compiled(net: Pipeline) -> Pipeline:
    """Compile backbone and head by inductor, in place; the first call does.

    In torch's default mode: the others tune single matrix products for minutes, or capture CUDA
    graphs of their own, which fall back silently. Here graphs are captured as ours are.
    """
    for part in _parts(net):
        part.forward = torch.compile(part.forward, dynamic=False)
    return net


def _parts(net: Pipeline) -> list[nn.Module]:
    return [part for part in (net.backbone, net.head) if next(part.parameters(), None) is not None]


@dataclass(frozen=True)
class Recipe:
    """How one pipeline is made.

    Attributes:
        name: What reports call it.
        of_peer: Whether it is the stock model with tomesd merging, see `build`.
        fused: Whether the peer computes attention without its matrices.
        launch: Gives what is timed, once the eager network was inspected.
        launch_training: The same for training steps.
    """

    name: str
    of_peer: bool
    fused: bool = False
    launch: Callable[[Pipeline], nn.Module] = as_built
    launch_training: Callable[[Pipeline], nn.Module] = as_built

    @property
    def layout(self) -> str:
        """Which of a run's weights it takes, see `cases.Weights`."""
        return "peer" if self.of_peer else "ours"


OURS = Recipe("ours", of_peer=False)
GRAPHS = Recipe("ours, graphs", False, launch=by_graphs, launch_training=by_training_graphs)
PEER = Recipe("peer", of_peer=True)
FUSED_PEER = Recipe("fused peer", of_peer=True, fused=True)
COMPILED_PEER = Recipe(
    "compiled stock",
    of_peer=True,
    fused=True,
    launch=lambda net: by_graphs(compiled(net)),
    launch_training=lambda net: by_training_graphs(compiled(net)),
)

RECIPES = {recipe.name: recipe for recipe in (OURS, GRAPHS, PEER, FUSED_PEER, COMPILED_PEER)}
"""By name, in the order of reports."""


def is_ours(name: str) -> bool:
    """Whether a pipeline of this name is ours."""
    return not RECIPES[name].of_peer


def launch_of(net: nn.Module) -> str:
    """How the kernels of a network are launched, read off it after it ran."""
    captured = {captured for part in graphed_parts(net) for captured in part.captured}
    launch = {
        frozenset(): "eager",  # on a CPU nothing is captured
        frozenset({True}): "CUDA graphs",
        frozenset({False}): "eager, since no CUDA graph could be captured",
        frozenset({True, False}): "CUDA graphs in part, since not all could be captured",
    }[frozenset(captured)]
    if not _is_compiled(net):
        return launch
    return "torch.compile" if launch == "eager" else f"torch.compile; {launch}"


def _is_compiled(net: nn.Module) -> bool:
    if hasattr(net, "_orig_mod"):
        return True
    forwards = [module.__dict__.get("forward") for module in net.modules()]
    functions = [f.function if isinstance(f, Graphed) else f for f in forwards]
    return any(hasattr(function, "_torchdynamo_orig_callable") for function in functions)
