"""A trained segmentor whose merging can be set anew at any time: its predictions and its times.

Times of several settings are taken in turns, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmseg_tome.checkpoints.model import load_model
from mmseg_tome.errors import UserError
from mmseg_tome.lab.bench import measure
from mmseg_tome.models import MixVisionTransformer
from mmseg_tome.nets.segformer import image_channels
from mmseg_tome.runtime import merging_switch
from mmseg_tome.runtime.acceleration import accelerate
from mmseg_tome.runtime.graphs import CudaGraphs, graphed_parts, install
from mmseg_tome.runtime.precision import DTYPES, to_half

from .settings import NONE, Setting


def build_network(cfg: Config, checkpoint: str) -> nn.Module:
    """A config's model with a checkpoint's weights, on the CPU, in eval mode.

    Raises:
        UserError: The model has no merge-aware backbone.
        CheckpointError: The checkpoint cannot be read, or does not fit.
    """
    model = load_model(cfg, checkpoint)
    if not isinstance(getattr(model, "backbone", None), MixVisionTransformer):
        raise UserError(
            "the config's model has no backbone of type mmseg_tome.MixVisionTransformer"
        )
    return model.requires_grad_(False)


def set_merging(backbone: MixVisionTransformer, setting: Setting) -> None:
    """Let a backbone merge by a setting from now on; its weights stay as they are."""
    merging_switch.set_merging(backbone, setting.tome_cfg)
    backbone.down_sample = setting.down_sample


def tokens_kept(
    backbone: MixVisionTransformer, hw: tuple[int, int], setting: Setting
) -> dict[str, float]:
    """Percent of all blocks' queries, keys/values and query-key pairs that a setting leaves.

    `hw` is the images' size, before any downsampling. The backbone is left with the setting.
    """
    sums = []
    for chosen in (NONE, setting):
        set_merging(backbone, chosen)
        counts = {"queries": 0, "keys_values": 0, "pairs": 0}
        for blocks, kept in zip(backbone.num_layers, backbone.tokens_kept(hw), strict=True):
            q, kv = kept["q"][0], kept["kv"][0]
            for name, count in zip(counts, (q, kv, q * kv), strict=True):
                counts[name] += blocks * count
        sums.append(counts)
    total, left = sums
    return {name: round(100 * left[name] / total[name], 2) for name in total}


class Network:
    """A trained model on a device, to be run under any setting; errors are `build_network`'s.

    What merges in `cfg` does not matter. `dtype` is "float32", or for half precision "bfloat16" or
    "float16", see `accelerate`.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str, dtype: str = "float32") -> None:
        self.model = build_network(cfg, checkpoint).to(device)
        if dtype != "float32":
            accelerate(self.model, dtype, launch="eager")

    @torch.no_grad()
    def predict(self, batches: Iterable[list[dict]], setting: Setting) -> Iterator[np.ndarray]:
        """Predicted classes of each image at its original size, uint8 or uint16 `[H, W]`.

        `batches` are samples of a test pipeline; those of a batch have one size.
        """
        set_merging(self.model.backbone, setting)
        few = self.model.num_classes < 255
        for batch in batches:
            for sample in self.model.test_step(pseudo_collate(batch)):
                classes = sample.pred_sem_seg.data[0].to(torch.uint8 if few else torch.int32)
                yield classes.cpu().numpy().astype(np.uint8 if few else np.uint16, copy=False)


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
        advance: Called for each setting, then for each of its rounds.
        launch: "eager", or by CUDA graphs where there is a GPU.

    Returns:
        For each setting `ms` per image (median, q1, q3, min, max), and `launch`, how it was
        launched.
    """
    move(model, device, dtype)
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
        forwards.append(inference(lambda x, n=network: n.decode_head(n.backbone(x)), image))
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


def move(model: nn.Module, device: torch.device, dtype: str) -> None:
    """Move a segmentor to the device that is timed, and cast it."""
    measure.make_current(device)
    model.to(device)
    if dtype in DTYPES:
        for part in (model.backbone, model.decode_head):
            to_half(part, DTYPES[dtype])


def with_setting(model: nn.Module, setting: Setting) -> nn.Module:
    """A copy of a segmentor that merges by a setting and shares the weights."""
    tensors = [*model.parameters(), *model.buffers()]
    network = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    set_merging(network.backbone, setting)
    return network


def inference(run: Callable[[Tensor], Tensor], x: Tensor) -> measure.Forward:
    """`run(x)` as a function to be timed."""
    return torch.inference_mode()(lambda: run(x))


def _launch(network: nn.Module) -> str:
    """How the kernels of a network are launched, read off it after it ran."""
    captured = [c for part in graphed_parts(network) for c in part.captured]
    if not captured:
        return "eager"  # on a CPU nothing is captured
    return "CUDA graphs" if all(captured) else "eager in part: no CUDA graph could be captured"


@cache
def device_name(device: torch.device) -> str:
    """What reports call a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
