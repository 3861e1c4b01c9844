"""One picture of one stage, for logs: its groups, its heat map and a line of numbers."""

import cv2
import numpy as np

from mmseg_tome.visualization.resizing import fit
from mmseg_tome.visualization.stage_maps import StageMap

SMALLEST = 512
GAP, CAPTION = 8, 28
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6


def stage_picture(stage: StageMap, image: np.ndarray, longest: int = 1024) -> np.ndarray:
    """Groups and heat side by side above a caption.

    Args:
        stage: What to draw.
        image: What merged, `[H, W, 3]` uint8 RGB.
        longest: Longest side of each of the two in pixels. A smaller image stays as it is, but is
            enlarged to `SMALLEST`.

    Returns:
        `[H', W', 3]` uint8 RGB.
    """
    side = max(image.shape[:2])
    scale = min(max(side, SMALLEST), longest) / side
    height, width = (max(1, round(pixels * scale)) for pixels in image.shape[:2])
    groups, heat = stage.paint(fit(image, (height, width)))
    picture = np.full((height + CAPTION, 2 * width + GAP, 3), 255, np.uint8)
    picture[:height, :width] = groups
    picture[:height, width + GAP :] = heat
    caption = f"{stage.name}, {stage.counts}"
    needed = cv2.getTextSize(caption, FONT, FONT_SCALE, 1)[0][0]
    scale = FONT_SCALE * min(1, (picture.shape[1] - 8) / needed)
    place = (4, height + CAPTION - 9)
    return cv2.putText(picture, caption, place, FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
