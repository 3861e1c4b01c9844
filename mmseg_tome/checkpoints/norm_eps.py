"""Layer norms with another epsilon, made equal by scaling what comes before them.

Code bases of SegFormer differ in the epsilon of their layer norms, which no checkpoint says:

| | patch embeddings, spatial reductions | blocks, outputs |
|---|---|---|
| NVlabs | 1e-5 | 1e-6 |
| Hugging Face, whatever its `layer_norm_eps` says | 1e-5 | 1e-5 |
| mmseg, and here by default | 1e-6 | 1e-6 |

It matters wherever features have a small variance. A layer norm of s * x with epsilon s^2 * e is
one of x with epsilon e, so that weights can make up for it exactly, to rounding.
"""

import re
from dataclasses import dataclass

from torch import Tensor

from mmseg_tome.checkpoints.tensors import State


@dataclass(frozen=True)
class NormEps:
    """Epsilons of a backbone's layer norms.

    Attributes:
        stem: After convolutions: patch embeddings and spatial reductions.
        blocks: On the residual stream: in blocks and before outputs.
    """

    stem: float
    blocks: float


NVLABS = NormEps(stem=1e-5, blocks=1e-6)
HUGGING_FACE = NormEps(stem=1e-5, blocks=1e-5)
DEFAULT = 1e-6
"""What ours and mmseg's layer norms have unless a config says otherwise."""

# The convolutions right before a norm.
BEFORE_NORM = re.compile(r"backbone\.layers\.\d+\.(0\.projection|1\.\d+\.attn\.sr)\.(weight|bias)")
# All that is added to a stage's residual stream; it is only ever read through a norm.
INTO_STREAM = re.compile(
    r"backbone\.layers\.\d+\."
    r"(0\.norm|1\.\d+\.attn\.attn\.out_proj|1\.\d+\.ffn\.layers\.4)\.(weight|bias)"
)


def change_eps(state: State, have: NormEps, want: NormEps) -> State:
    """Scale weights made for the epsilons `have` so that with `want` they give the same outputs."""
    stem, stream = (want.stem / have.stem) ** 0.5, (want.blocks / have.blocks) ** 0.5

    def scaled(key: str, value: Tensor) -> Tensor:
        factor = stem if BEFORE_NORM.fullmatch(key) else 1.0
        factor = stream if INTO_STREAM.fullmatch(key) else factor
        return value if factor == 1 else (value.double() * factor).to(value.dtype)

    return {key: scaled(key, value) for key, value in state.items()}
