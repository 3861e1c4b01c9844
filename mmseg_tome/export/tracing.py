"""What a network is traced for: choices that `ops.backend` makes operation by operation."""

from contextlib import AbstractContextManager

from mmseg_tome.ops.backend import Export, exporting

SCORES_MIB = 16
"""Attention scores of a sample that exist at a time, by default: about what a CPU can cache."""


def portable(any_size: bool = False) -> AbstractContextManager[None]:
    """Trace torch's own operators, for any batch, see `Export`."""
    return exporting(Export(onnx=False, any_size=any_size))


def plain_onnx(
    scores_mib: int = SCORES_MIB, any_size: bool = False, executorch: bool = False
) -> AbstractContextManager[None]:
    """As `portable`, in operators that ONNX has, convolutions in NCHW.

    Args:
        scores_mib: Attention scores of a sample that may exist at a time, in MiB; 0 for all.
        any_size: As for `portable`. Neither are scores computed in parts then, nor do windows
            become poolings: both are made for one size.
        executorch: For ExecuTorch, see `Export`.
    """
    scores = 0 if any_size else scores_mib * 2**20
    return exporting(Export(onnx=True, any_size=any_size, scores=scores, executorch=executorch))
