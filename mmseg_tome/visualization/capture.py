"""Reading slot maps out of a running backbone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import nn

from mmseg_tome.merging import SlotMap

BlockKey = tuple[int, int, str]
"""Stage and block, both from 0, and "q" or "kv"."""


class CapturedSlots(NamedTuple):
    """What one merger gave in one forward pass.

    Attributes:
        slots: The slot map, `[B or 1, N]`.
        hw: Its grid in tokens, `H * W == N`; of keys and values the spatially reduced one.
    """

    slots: SlotMap
    hw: tuple[int, int]


@contextmanager
def capture_slot_maps(model: nn.Module) -> Iterator[dict[BlockKey, CapturedSlots]]:
    """Collect the slot maps of every forward pass inside the context.

        with capture_slot_maps(model) as captured:
            model(images)
        slots, hw = captured[2, 0, "q"]  # queries of the third stage's first block

    Args:
        model: A merge-aware backbone, or a model that has it as `backbone`.

    Yields:
        Filled while the model runs; a later pass overwrites an earlier one.

    Raises:
        TypeError: The backbone does not merge tokens.
    """
    backbone = getattr(model, "backbone", model)
    mergers = dict(_mergers(backbone))
    if not mergers:
        raise TypeError(
            f"{type(backbone).__name__} has no token mergers: "
            "use type='mmseg_tome.MixVisionTransformer' for the backbone"
        )
    captured: dict[BlockKey, CapturedSlots] = {}

    def keep(key: BlockKey):
        def hook(_module, inputs, output):
            _metric, hw = inputs
            captured[key] = CapturedSlots(output, tuple(hw))

        return hook

    with ExitStack() as hooks:
        for key, merger in mergers.items():
            hooks.callback(merger.register_forward_hook(keep(key)).remove)
        yield captured


def _mergers(backbone: nn.Module) -> Iterator[tuple[BlockKey, nn.Module]]:
    for i, stage in enumerate(getattr(backbone, "layers", ())):
        for j, block in enumerate(stage[1]):
            for name in ("q", "kv"):
                merger = getattr(block.attn, f"{name}_merger", None)
                if merger is not None:
                    yield (i, j, name), merger
