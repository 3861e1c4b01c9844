"""Keypoints of a whole batch of heatmaps at once, where the heatmaps are.

MMPose's `MSRAHeatmap.decode` runs in numpy, person by person and keypoint by keypoint, on heatmaps
that were all brought to the host for it. This is the same function in torch: what goes to the host
is three numbers a keypoint, in one transfer.
"""

import numpy as np
import torch
from mmpose.codecs import MSRAHeatmap
from torch import Tensor


def decodes(codec: object) -> bool:
    """Whether `decode_heatmaps` is what this codec does; others refine keypoints in other ways."""
    return type(codec) is MSRAHeatmap and not codec.unbiased


def decode_heatmaps(heatmaps: Tensor, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode as `MSRAHeatmap(unbiased=False)` does, to the last bit for heatmaps without NaN.

    A keypoint lies at its heatmap's maximum, the first one of several, and a quarter of a pixel
    towards the higher of the neighbours on either side, along x and along y. MMPose moves no
    keypoint along an axis where it lies in the first two pixels or the last one, nor where it lies
    in the other axis's first. Without a positive value there is no keypoint: it gets (-1, -1).

    Args:
        heatmaps: `[B, K, H, W]`, floating point, on any device.
        scale: Pixels of the input a pixel of the heatmap, (x, y): the codec's `scale_factor`.

    Returns:
        Keypoints `[B, 1, K, 2]`, (x, y) in pixels of the input, float32; and their scores
        `[B, 1, K]`, the maxima, of the heatmaps' data type.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.detach().flatten(2)  # [B, K, H * W]
    score, index = flat.max(dim=2)  # [B, K]; the first one, as numpy's
    x, y = index % width, index // width

    around = torch.stack([index - 1, index + 1, index - width, index + width], dim=2)
    around = flat.gather(2, around.clamp_(0, height * width - 1))  # [B, K, 4]
    left, right, above, below = around.unbind(2)
    move_x = (x > 1) & (x < width - 1) & (y > 0)
    move_y = (y > 1) & (y < height - 1) & (x > 0)
    x = x + torch.where(move_x, right - left, 0).sign() * 0.25
    y = y + torch.where(move_y, below - above, 0).sign() * 0.25

    point = torch.where((score <= 0)[..., None], -1, torch.stack([x, y], dim=2))
    found = torch.cat([point, score[..., None]], dim=2)[:, None].cpu().numpy()  # [B, 1, K, 3]
    return found[..., :2].astype(np.float32) * scale, found[..., 2].copy()
