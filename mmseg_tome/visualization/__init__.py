"""Looking at what merges with what."""

from mmseg_tome.visualization.capture import capture_slot_maps
from mmseg_tome.visualization.painting import draw_slots

__all__ = ["capture_slot_maps", "draw_slots"]
