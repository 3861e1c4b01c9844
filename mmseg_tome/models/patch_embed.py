"""From feature maps to tokens."""

from torch import Tensor, nn

from mmseg_tome.models.layers import Grid, LateBiasConv2d
from mmseg_tome.models.norms import convolve_and_normalise


class PatchEmbed(nn.Module):
    """Overlapping patch embedding (SegFormer, arXiv 2105.15203, section 3.1).

    Args:
        in_channels: Channels of the incoming map.
        embed_dims: Channels of a token.
        patch_size: Kernel size of the convolution; half of it is the padding.
        stride: Stride of the convolution.
        norm: Normalises the tokens.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, patch_size: int, stride: int, norm: nn.Module
    ):
        super().__init__()
        self.projection = LateBiasConv2d(
            in_channels, embed_dims, patch_size, stride=stride, padding=patch_size // 2
        )
        self.norm = norm

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """`[B, in_channels, H, W]` -> tokens `[B, h * w, embed_dims]` and their grid (h, w)."""
        return convolve_and_normalise(self.projection, self.norm, x)

    def grid(self, hw: Grid) -> Grid:
        """The token grid of a map of `hw`."""
        kernel, stride, pad = (
            self.projection.kernel_size[0],
            self.projection.stride[0],
            self.projection.padding[0],
        )
        return tuple((size + 2 * pad - kernel) // stride + 1 for size in hw)
