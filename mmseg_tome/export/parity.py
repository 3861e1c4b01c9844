"""How far an exported network is from the one it was made of.

Merging decides by comparing: which destination is nearest, which sources are among the r nearest.
Two runtimes round differently, so of two candidates that are equal to seven digits each may take
another one. That moves one token to another group, which changes the output at its place by
something like the difference of two similar tokens, and everywhere else far less. A bound on the
largest difference would therefore fail by chance. Compared are instead

- the share of values that are *near*: within a thousandth of the outputs' range (rounding alone is
  a thousand times less; a wrong operator moves nearly all values further);
- the share of positions whose largest channel, the class, is the same; of a single channel, which
  tells one class from the rest, whether the class is there.

That the twins which are traced are the same functions is checked apart from rounding, in float64,
where such ties do not occur: see tests/export/test_tracing.py.
"""

from dataclasses import dataclass

import numpy as np

NEAR = 1e-3
"""What a value may differ by to be near, as a part of the range of all values."""

THRESHOLD = 0.3
"""Probability above which a single channel's class is there, unless a head says so: mmseg's."""

NEAR_ENOUGH, AGREEING_ENOUGH = 0.95, 0.99
"""Share of near values, and of equal positions, by which a float32 file is accepted.

Measured with random weights: on noise all values are near, on an image with an area of one colour,
whose tokens are all equally similar, 99.7 % at the least.
"""


@dataclass(frozen=True)
class Parity:
    """A comparison of two outputs.

    Attributes:
        near: Share of values that differ by less than `NEAR` of the range.
        agreement: Share of positions whose class is the same; of heatmaps, of channels whose
            largest position is the same.
        largest: Largest difference, as a part of the range.
        finite: Whether all values are numbers.
    """

    near: float
    agreement: float
    largest: float
    finite: bool

    def holds(self) -> bool:
        """Whether both are the same function but for rounding and its ties."""
        return self.finite and self.near >= NEAR_ENOUGH and self.agreement >= AGREEING_ENOUGH

    def __str__(self) -> str:
        return (
            f"{100 * self.near:.3f} % of values near, {100 * self.agreement:.3f} % agreement, "
            f"largest difference {self.largest:.1e} of the range"
        )


def compare(
    got: np.ndarray, expected: np.ndarray, task: str, threshold: float | None = None
) -> Parity:
    """Compare outputs `[B, K, h, w]` of a task with those that are expected.

    Args:
        got: What is compared.
        expected: With what.
        task: `segmentation` or `pose`.
        threshold: Of a segmentation in a single channel, see `decisions`.

    Raises:
        ValueError: They have different shapes.
    """
    if got.shape != expected.shape:
        raise ValueError(f"the output is {got.shape}, expected is {expected.shape}")
    spread = float(np.ptp(expected)) or 1.0
    difference = np.abs(got.astype(np.float64) - expected) / spread
    return Parity(
        near=float((difference < NEAR).mean()),
        agreement=float(
            (decisions(got, task, threshold) == decisions(expected, task, threshold)).mean()
        ),
        largest=float(difference.max()),
        finite=bool(np.isfinite(got).all()),
    )


def decisions(output: np.ndarray, task: str, threshold: float | None = None) -> np.ndarray:
    """The class of each position, `[B, h, w]`, or the peak of each heatmap, `[B, K]`.

    Args:
        output: `[B, K, h, w]`.
        task: `segmentation` or `pose`.
        threshold: Of a single channel: the probability above which its class is there, from 0 to 1.
    """
    if task == "segmentation" and output.shape[1] == 1:
        level = np.clip(THRESHOLD if threshold is None else threshold, 0, 1)
        with np.errstate(divide="ignore"):
            return output[:, 0] > np.log(level) - np.log1p(-level)  # sigmoid(output) > level
    if task == "segmentation":
        return output.argmax(axis=1)
    return output.reshape(*output.shape[:2], -1).argmax(axis=2)
