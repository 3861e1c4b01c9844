"""Reading slot maps out of a running backbone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmseg_tome.merging import SlotMap
from mmseg_tome.merging.attention import MergedAttention
from mmseg_tome.runtime.graphs import suspended

BlockKey = tuple[int, int, str]
"""Stage and block, both from 0, and "q" or "kv"."""


class CapturedSlots(NamedTuple):
    """What one block merged by in one forward pass."""

    slots: SlotMap  # [B or 1, N]
    hw: tuple[int, int]  # its grid in tokens, H * W == N; of keys and values the reduced one


class Pass(NamedTuple):
    """One forward pass of a backbone."""

    image: Tensor  # its input, [B, C, H, W]
    slots: dict[BlockKey, CapturedSlots]  # of every block; empty where the backbone is compiled


@contextmanager
def capture_slot_maps(model: nn.Module) -> Iterator[dict[BlockKey, CapturedSlots]]:
    """Collect the slot maps of every forward pass inside the context.

        with capture_slot_maps(model) as captured:
            model(images)
        slots, hw = captured[2, 0, "q"]  # queries of the third stage's first block

    They are those that a block merged by: its own, or an earlier block's that it reuses, or one
    that merges nothing where automatic choice decided so. CUDA graphs, which would show nothing of
    what runs in them, are left aside meanwhile.

    Args:
        model: A merge-aware backbone, or a model that has it as `backbone`.

    Yields:
        Filled while the model runs; a later pass overwrites an earlier one.

    Raises:
        TypeError: The backbone does not merge tokens.
    """
    backbone = getattr(model, "backbone", model)
    if not hasattr(backbone, "attentions"):
        raise TypeError(
            f"{type(backbone).__name__} has no token mergers: "
            "use type='mmseg_tome.MixVisionTransformer' for the backbone"
        )
    captured: dict[BlockKey, CapturedSlots] = {}
    with suspended(backbone), ExitStack() as hooks:
        for i, attentions in enumerate(backbone.attentions()):
            for j, attn in enumerate(attentions):
                for handle in _watch_mergers(attn, captured, (i, j)):
                    hooks.callback(handle.remove)
        yield captured


@contextmanager
def record_passes(model: nn.Module) -> Iterator[list[Pass]]:
    """Keep every forward pass inside the context: sliding windows, flips, batches of boxes.

    Nothing is read from the device. Our segmentor runs its windows one by one meanwhile, as views
    of the image: where they lie is read from that.

    Args:
        model: As `capture_slot_maps` takes it.

    Yields:
        Filled while the model runs, in the order of the passes.

    Raises:
        TypeError: The backbone does not merge tokens.
    """
    passes: list[Pass] = []
    with capture_slot_maps(model) as captured, _stock_windows(model):

        def finish(_backbone, inputs, _output):
            passes.append(Pass(inputs[0].detach(), dict(captured)))
            captured.clear()

        hook = getattr(model, "backbone", model).register_forward_hook(finish)
        try:
            yield passes
        finally:
            hook.remove()


@contextmanager
def _stock_windows(model: nn.Module) -> Iterator[None]:
    if not hasattr(model, "labels_only") or model.test_cfg.get("mode", "whole") == "whole":
        yield
        return
    from mmseg.models.segmentors import EncoderDecoder

    labels_only, model.labels_only = model.labels_only, False
    model.slide_inference = MethodType(EncoderDecoder.slide_inference, model)
    try:
        yield
    finally:
        del model.slide_inference
        model.labels_only = labels_only


def _watch_mergers(
    attn: MergedAttention, captured: dict[BlockKey, CapturedSlots], block: tuple[int, int]
) -> list[RemovableHandle]:
    """Each merger gives what its block merges by, found by itself or by another of its group."""

    def hook(kind: str):
        def keep(_merger, inputs, slots):
            captured[(*block, kind)] = CapturedSlots(slots, tuple(inputs[1]))

        return keep

    return [getattr(attn, f"{s}_merger").register_forward_hook(hook(s)) for s in ("q", "kv")]
