"""Time of a network under every setting, in turns, so that drift of the machine hits all alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mmseg_tome.lab.bench import measure
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.runtime.acceleration import accelerate
from mmseg_tome.runtime.graphs import CudaGraphs, graphed_parts, install
from mmseg_tome.runtime.precision import DTYPES, to_half

from .network import set_merging
from .settings import Setting


def time_settings(
    model: nn.Module,
    settings: Sequence[Setting],
    hw: tuple[int, int],
    batch: int,
    device: torch.device,
    dtype: str = "float32",
    rounds: int = 10,
    advance: Callable[[], None] = lambda: None,
    launch: str = "auto",
) -> list[dict]:
    """Time backbone and head of a segmentor.

    Args:
        model: The segmentor, in eval mode, not accelerated; is moved and cast.
        settings: What merges, in turn.
        hw: Size of the input.
        batch: Images at a time.
        device: Where it runs.
        dtype: "float32", "bfloat16" or "float16".
        rounds: How often each is timed.
        advance: Called `steps` times.
        launch: "eager", or by CUDA graphs where there is a GPU.

    Returns:
        For each setting `ms` per image (median, q1, q3, min, max), and `launch`, how it was
        launched.
    """
    measure.make_current(device)
    model.to(device)
    if dtype in DTYPES:
        for part in (model.backbone, model.decode_head):
            to_half(part, DTYPES[dtype])
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, image_channels(model), *hw, generator=generator).to(device)
    # Only one graph runs at a time: all share their memory.
    capture = CudaGraphs()
    networks, forwards = [], []
    for setting in settings:
        network = with_setting(model, setting)
        if dtype in DTYPES:
            accelerate(network, dtype, launch="eager")
        for part in (network.backbone, network.decode_head) if launch != "eager" else ():
            install(part, "inference", patience=0, capture=capture)
        networks.append(network)
        forwards.append(_forward(network, image))
        forwards[-1]()  # captures
        forwards[-1]()
        advance()
    samples = measure.time_in_turns(forwards, rounds, device, on_sample=advance)
    return [
        {
            "ms": measure.summarise([sample / batch for sample in times]),
            "launch": _launch(network),
        }
        for network, times in zip(networks, samples, strict=True)
    ]


def steps(settings: Sequence[Setting], rounds: int) -> int:
    """How often `time_settings` reports progress."""
    return len(settings) * (1 + rounds)


def with_setting(model: nn.Module, setting: Setting) -> nn.Module:
    """A copy of a segmentor that merges by a setting and shares the weights."""
    tensors = [*model.parameters(), *model.buffers()]
    network = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    set_merging(network.backbone, setting)
    return network


def _forward(network: nn.Module, image: Tensor) -> measure.Forward:
    @torch.inference_mode()
    def forward() -> Tensor:
        return network.decode_head(network.backbone(image))

    return forward


def _launch(network: nn.Module) -> str:
    """How the kernels of a network are launched, read off it after it ran."""
    captured = [c for part in graphed_parts(network) for c in part.captured]
    if not captured:
        return "eager"  # on a CPU nothing is captured
    return "CUDA graphs" if all(captured) else "eager in part: no CUDA graph could be captured"
