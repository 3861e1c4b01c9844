"""Checks of what operations are called with, the same for every backend.

torch broadcasts where shapes differ by a 1, and kernels read past the end of what is too small;
here both are a ValueError that names the shapes.
"""

from torch import Tensor


def check_tokens(x: Tensor) -> None:
    """Raise ValueError unless `x` is `[B, N, C]`."""
    if x.ndim != 3:
        raise ValueError(f"tokens must be [B, N, C], got {tuple(x.shape)}")


def check_map(
    slot: Tensor, x: Tensor, tokens: bool = True, order: tuple[Tensor, Tensor, int] | None = None
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


def check_order(order: tuple[Tensor, Tensor, int], slot: Tensor, num_slots: int) -> None:
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


def check_sum(residual: Tensor, y: Tensor, slot: Tensor | None, order: tuple | None = None) -> None:
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
