"""Which of a backbone's maps are its output."""

from collections.abc import Sequence


def check_out_indices(out_indices: Sequence[int], levels: int, what: str) -> tuple[int, ...]:
    """Indices from 0 on; -1 and so on count from the end, as Python's do.

    Args:
        out_indices: What a config says.
        levels: How many there are.
        what: What is counted, in the plural.

    Raises:
        ValueError: There is none, or one that the backbone does not have.
    """
    if not out_indices or not all(-levels <= i < levels for i in out_indices):
        raise ValueError(
            f"out_indices {tuple(out_indices)} must name one or more of the {levels} {what}, 0 to "
            f"{levels - 1}"
        )
    return tuple(i % levels for i in out_indices)
