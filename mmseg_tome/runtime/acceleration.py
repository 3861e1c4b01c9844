"""The fastest safe way to run a trained network: CUDA graphs, and half precision if wanted."""

from collections.abc import Callable

import torch
from torch import nn

from mmseg_tome.config import LAUNCHES
from mmseg_tome.errors import UserError
from mmseg_tome.runtime.graphs import MAX_SHAPES, Plain, install, release
from mmseg_tome.runtime.precision import DTYPES, InDtype, to_half


class AccelerationError(UserError, ValueError):
    """An unknown option of `accelerate`, or a model that it does not know."""


class Acceleration:
    """What was changed about a model.

    Attributes:
        summary: In one line what runs how, and why not by CUDA graphs where not.
    """

    def __init__(self, network: nn.Module, summary: str, undo: list[Callable[[], None]]):
        self.network = network
        self.summary = summary
        self._undo = undo

    def restore(self) -> None:
        """Let the model run as before; a second time nothing happens."""
        while self._undo:
            self._undo.pop()()
        if self.network.__dict__.get("_acceleration") is self:
            del self.network.__dict__["_acceleration"]

    def __deepcopy__(self, memo) -> None:
        return None  # a copy of the model stays as it is, accelerated

    def __reduce__(self):
        return type(None), ()


def accelerate(
    model: nn.Module,
    dtype: str | None = None,
    launch: str = "auto",
    max_shapes: int = MAX_SHAPES,
) -> Acceleration:
    """Make a trained segmentation or pose model's network run faster, in place.

    Args:
        model: A model with a `backbone` and a `decode_head` or `head`, or one that wraps such a
            model for test-time augmentation or for several GPUs. What an earlier call did to it is
            undone first.
        dtype: "float16" or "bfloat16" to compute in half precision, without autocast's casts;
            None or "float32" keeps the data type, and the outputs equal.
        launch: "graphs" for CUDA graphs, one for each input shape; "eager"; or "auto", which takes
            graphs for the networks of this package. A CPU has none.
        max_shapes: Input shapes whose graphs are kept, see `Graphed`.

    Raises:
        AccelerationError: Unknown `dtype` or `launch`, or a model without these parts.
    """
    check_launch(launch)
    if dtype not in (None, "float32", *DTYPES):
        raise AccelerationError(
            f"dtype must be None, float32, {' or '.join(DTYPES)}, got {dtype!r}"
        )
    network = unwrap(model)
    head = _head(network)
    if not has_backbone_and_head(network):
        raise AccelerationError(
            f"{type(network).__name__} has no backbone with a head to accelerate"
        )
    if previous := network.__dict__.get("_acceleration"):
        previous.restore()
    undo: list[Callable[[], None]] = []
    half = DTYPES.get(dtype)
    if half is not None:
        # Features go from the backbone to the head as they are; results are float32.
        undo += [_in_half(network.backbone, half, None), _in_half(head, half, torch.float32)]
    reason = why_eager(network, launch)
    if reason is None:
        backbone = install(network.backbone, "inference", max_shapes=max_shapes)
        install(head, "inference", max_shapes=max_shapes, capture=backbone.capture)
        for part in (network.backbone, head):
            undo.append(lambda part=part: release(part, "inference"))
    how = "by CUDA graphs" if reason is None else f"eagerly ({reason})"
    weights = dtype or str(next(network.parameters()).dtype).removeprefix("torch.")
    done = Acceleration(network, f"the network runs {how} in {weights}", undo)
    network.__dict__["_acceleration"] = done
    return done


def has_backbone_and_head(network: nn.Module) -> bool:
    """Whether a network is made of what `accelerate` knows."""
    return hasattr(network, "backbone") and _head(network) is not None


def _head(network: nn.Module) -> nn.Module | None:
    return getattr(network, "decode_head", None) or getattr(network, "head", None)


def check_launch(launch: str) -> None:
    """Raise AccelerationError unless this is a way to launch kernels."""
    if launch not in LAUNCHES:
        raise AccelerationError(f"launch must be one of {', '.join(LAUNCHES)}, got {launch!r}")


def why_eager(network: nn.Module, launch: str) -> str | None:
    """Why a network is launched kernel by kernel; None if CUDA graphs are captured of it."""
    if launch == "eager":
        return "as asked for"
    if next(network.parameters()).device.type != "cuda":
        return "CUDA graphs need a GPU"
    ours = type(network.backbone).__module__.partition(".")[0] == __name__.partition(".")[0]
    if launch == "auto" and not ours:
        return f"{type(network.backbone).__name__} is none of mmseg_tome's backbones"
    return None


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside wrappers for several GPUs or test-time augmentation."""
    while not hasattr(model, "backbone") and hasattr(model, "module"):
        model = model.module
    return model


def _in_half(part: nn.Module, dtype: torch.dtype, result: torch.dtype | None) -> Callable:
    """Cast a part's weights and what it is given; the returned function undoes it."""
    before = part.__dict__.get("forward")
    restore_weights = to_half(part, dtype)
    part.forward = InDtype(before or Plain(part), dtype, result)

    def undo() -> None:
        restore_weights()
        if before is None:
            del part.forward
        else:
            part.forward = before

    return undo
