"""Matching tokens on some frames of a video alone; the slot maps serve those between, too."""

from torch import nn

from mmseg_tome.errors import UserError
from mmseg_tome.merging.attention import TokenMerger
from mmseg_tome.merging.memory import SlotMemory
from mmseg_tome.runtime.acceleration import unwrap
from mmseg_tome.runtime.graphs import graphed_parts
from mmseg_tome.runtime.merging_switch import check_merges


class FrameReuse:
    """Lets a model match on every `every`-th frame, in all blocks, until `remove`.

    A backbone that runs by CUDA graphs captures one for frames that match and one for the others.

    Args:
        model: With a `backbone` that merges. One frame is run at a time.
        every: From one frame that matches to the next; 1 matches on all.

    Attributes:
        every: The same; may change before a video.

    Raises:
        UserError: `every` is less than 1.
        NothingMergesError: The model merges nothing.
    """

    def __init__(self, model: nn.Module, every: int):
        if every < 1:
            raise UserError(f"slot maps are kept for 1 frame or more, not for {every}")
        self.backbone = unwrap(model).backbone
        self.every = every
        self.memory = SlotMemory()
        mergers = [each for each in model.modules() if isinstance(each, TokenMerger)]
        check_merges(model, mergers)
        self._mergers = [each for each in mergers if not each.strategy.by_grid]
        self._video: object = None
        self._count = 0
        for merger in self._mergers:
            merger.memory = self.memory
        self._hook = self.backbone.register_forward_pre_hook(self._before_pass)

    @property
    def saves(self) -> bool:
        """Whether there is anything to keep: windows of the grid are found without matching."""
        return self.every > 1 and bool(self._mergers)

    def before_frame(self, video: object | None) -> None:
        """To be called before a frame is run: of the same video as before, or a new one.

        Args:
            video: What the frame is of; None for an image, which matches.
        """
        if video is None or video is not self._video:
            self._count = 0
        self._video = video
        self.memory.keeping = self.saves
        self.memory.matching = self._count % self.every == 0
        self.memory.number = 0
        self._count += 1

    def remove(self) -> None:
        """Let the model match on every frame."""
        self._hook.remove()
        for merger in self._mergers:
            merger.memory = None
        self.backbone.graph_variant = None
        for part in graphed_parts(self.backbone):
            part.forget("inference")  # graphs that write to the memory

    def _before_pass(self, *_) -> None:
        self.memory.number += 1
        kind = (self.memory, self.memory.matching, self.memory.number)
        self.backbone.graph_variant = kind if self.memory.keeping else None
