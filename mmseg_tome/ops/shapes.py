"""Checks of what the facade is called with, the same for every backend.

torch broadcasts where shapes differ by a 1, and kernels read past the end of what is too small;
here both are a ValueError that names the shapes.
"""

from collections.abc import Sequence

from torch import Tensor

from mmseg_tome.ops.labelling import Windows
from mmseg_tome.ops.local import window_counts
from mmseg_tome.ops.segment import SegmentOrder


def check_tokens(x: Tensor) -> None:
    """Raise ValueError unless `x` is `[B, N, C]`."""
    if x.ndim != 3:
        raise ValueError(f"tokens must be [B, N, C], got {tuple(x.shape)}")


def check_match(metric: Tensor, src: Tensor, dst: Tensor) -> None:
    """Raise ValueError unless `metric` is tokens and the others are indices, some of `dst`."""
    check_tokens(metric)
    if src.ndim != 1 or dst.ndim != 1 or not dst.shape[0]:
        raise ValueError(
            f"sources and destinations must be indices, with one destination at least: got "
            f"{tuple(src.shape)} and {tuple(dst.shape)}"
        )


def check_assign(
    similarity: Tensor, nearest: Tensor, r: int, src: Tensor, dst: Tensor, num_tokens: int
) -> None:
    """Raise ValueError unless all of `assignment.assign`'s arguments are of the same tokens."""
    if src.ndim != 1 or dst.ndim != 1 or src.shape[0] + dst.shape[0] != num_tokens:
        raise ValueError(
            f"sources {tuple(src.shape)} and destinations {tuple(dst.shape)} do not make "
            f"{num_tokens} tokens"
        )
    if similarity.ndim != 2 or similarity.shape[1] != src.shape[0]:
        raise ValueError(
            f"similarities {tuple(similarity.shape)} are not [B, S] of {src.shape[0]} sources"
        )
    if nearest.shape != similarity.shape:
        raise ValueError(
            f"nearest destinations {tuple(nearest.shape)} do not fit similarities "
            f"{tuple(similarity.shape)}"
        )
    if not 0 <= r <= src.shape[0]:
        raise ValueError(f"r must be between 0 and the {src.shape[0]} sources, got {r}")


def check_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError unless queries, keys, values and the bias of keys belong together."""
    fits = q.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[-1]
    if not fits or k.shape != v.shape:
        raise ValueError(
            f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)} do not "
            "fit together: [B, heads, N or M, D] are expected"
        )
    if bias is not None and (
        bias.ndim != 4
        or bias.shape[0] not in (1, k.shape[0])
        or bias.shape[1:] != (1, 1, k.shape[2])
    ):
        raise ValueError(f"a bias {tuple(bias.shape)} is not of {k.shape[2]} keys")


def check_windows_of(metric: Tensor, hw: tuple[int, int], stride: tuple[int, int]) -> None:
    """Raise ValueError unless tokens are those of a grid that has windows."""
    check_tokens(metric)
    if metric.shape[1] != hw[0] * hw[1] or min(stride) < 1:
        raise ValueError(
            f"tokens {tuple(metric.shape)} do not fit a grid of {hw[0]}x{hw[1]} with windows of "
            f"{stride}"
        )


def check_assign_windows(
    similarity: Tensor,
    window: Tensor,
    counts: Sequence[int],
    hw: tuple[int, int],
    stride: tuple[int, int],
) -> None:
    """Raise ValueError unless similarities are those of a grid's windows, of which some merge."""
    there = window_counts(hw, stride)
    if similarity.ndim != 2 or similarity.shape[1] != sum(there):
        raise ValueError(
            f"similarities {tuple(similarity.shape)} are not those of the {sum(there)} windows of "
            f"{stride} tokens on a grid of {hw[0]}x{hw[1]}"
        )
    if window.shape != (1, hw[0] * hw[1]):
        raise ValueError(f"windows {tuple(window.shape)} do not fit a grid of {hw[0]}x{hw[1]}")
    known = all(isinstance(n, int) for n in (*counts, *there))  # not as in a trace
    if len(counts) != 4 or (
        known and not all(0 <= r <= n for r, n in zip(counts, there, strict=True))
    ):
        raise ValueError(f"of {tuple(there)} windows {tuple(counts)} cannot merge")


def check_map(
    slot: Tensor, x: Tensor, tokens: bool = True, order: SegmentOrder | None = None
) -> None:
    """Raise ValueError if a slot map is not of this batch, or, with `tokens`, of as many tokens.

    Args:
        slot: `[B, N]` or `[1, N]`.
        x: `[B, N, C]`; without `tokens` one row a slot, `[B, M, C]`.
        tokens: Whether `x` has a row a token.
        order: The map's order, if it is at hand.
    """
    fits = x.ndim == 3 and slot.ndim == 2 and slot.shape[0] in (1, x.shape[0])
    if not fits or (tokens and slot.shape[1] != x.shape[1]):
        raise ValueError(f"a slot map {tuple(slot.shape)} does not fit {tuple(x.shape)}")
    if order is not None and not tokens:
        check_order(order, slot, x.shape[1])


def check_order(order: SegmentOrder, slot: Tensor, num_slots: int) -> None:
    """Raise ValueError unless an order is of such a slot map."""
    tokens, offsets, _ = order
    shared = tokens.shape == (1, slot.shape[1])
    if not (shared or tokens.shape == slot.shape) or offsets.shape != (
        slot.shape[0],
        num_slots + 1,
    ):
        raise ValueError(
            f"the order of a slot map, {tuple(tokens.shape)} and {tuple(offsets.shape)}, is not of "
            f"{tuple(slot.shape)} tokens in {num_slots} slots"
        )


def check_sum(residual: Tensor, y: Tensor, slot: Tensor | None, order=None) -> None:
    """Raise ValueError unless an update, or one row a slot of it, can be added to tokens."""
    if slot is not None:
        check_map(slot, residual)
        check_map(slot, y, tokens=False, order=order)
        fits = y.shape[0] == residual.shape[0] and y.shape[2] == residual.shape[2]
    else:
        check_tokens(residual)
        fits = y.shape == residual.shape
    if not fits:
        raise ValueError(f"an update {tuple(y.shape)} does not fit {tuple(residual.shape)}")


def check_channels(x: Tensor, **vectors: Tensor | None) -> None:
    """Raise ValueError unless each named vector that is there has a value a channel of `x`."""
    for name, vector in vectors.items():
        if vector is not None and (vector.ndim != 1 or vector.shape[0] != x.shape[-1]):
            raise ValueError(f"a {name} {tuple(vector.shape)} does not fit {tuple(x.shape)}")


def check_depthwise(x: Tensor, weight: Tensor, bias: Tensor, hw: tuple[int, int]) -> None:
    """Raise ValueError unless grid, weight and bias are those of the tokens `x`."""
    check_tokens(x)
    if hw[0] * hw[1] != x.shape[1]:
        raise ValueError(f"a grid of {hw[0]}x{hw[1]} tokens does not fit {tuple(x.shape)}")
    check_channels(x, bias=bias)
    if weight.shape != (x.shape[2], 1, 3, 3):
        raise ValueError(f"a weight {tuple(weight.shape)} does not fit {tuple(x.shape)}")


def check_maps(x: Tensor, maps: Sequence[Tensor]) -> None:
    """Raise ValueError unless feature maps have the batch and the channels of `x`."""
    for each in (x, *maps):
        if each.ndim != 4 or each.shape[:2] != x.shape[:2]:
            raise ValueError(f"a feature map {tuple(each.shape)} does not fit {tuple(x.shape)}")


def check_windows(
    logits: Tensor,
    windows: Windows,
    padding: tuple[int, int, int, int],
    size: tuple[int, int] | None,
) -> tuple[int, int]:
    """Raise ValueError unless logits are those of windows, and something is left without padding.

    Returns:
        `size`, by default that of the image without its padding.
    """
    number = windows.grid[0] * windows.grid[1]
    if logits.ndim != 4 or logits.shape[0] % number or not min(logits.shape[1:]):
        raise ValueError(f"logits {tuple(logits.shape)} are not those of {number} windows an image")
    left, right, top, bottom = padding
    cut = (windows.hw[0] - top - bottom, windows.hw[1] - left - right)
    if min(padding) < 0 or min(cut) < 1:
        raise ValueError(f"a padding of {tuple(padding)} does not fit an image of {windows.hw}")
    size = tuple(map(int, size or cut))
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"labels of {size} pixels are no image")
    return size
