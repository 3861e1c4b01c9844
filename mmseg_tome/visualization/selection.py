"""Which stages and blocks a user wants to see."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from mmseg_tome.merging import Identity


@dataclass(frozen=True)
class Selection:
    """Stages to draw, and the block whose groups stand for a stage. Both are counted from 1.

    Attributes:
        block: "first", "last" or a number.
        stages: Numbers of stages; None for all.
    """

    block: int | str = "last"
    stages: Collection[int] | None = None

    def wants(self, stage: int) -> bool:
        """Whether to draw a stage, counted from 0."""
        return self.stages is None or stage + 1 in self.stages

    def block_of(self, blocks: int) -> int:
        """The wanted one of a stage's blocks, counted from 0."""
        return {"first": 1, "last": blocks}.get(self.block, self.block) - 1

    def check(self, backbone: nn.Module) -> None:
        """Raise ValueError unless a backbone has these stages and this block, and can merge."""
        if not hasattr(backbone, "attentions"):
            raise ValueError(
                f"{type(backbone).__name__} merges no tokens that could be drawn: the backbone "
                "must be mmseg_tome.MixVisionTransformer or another of mmseg_tome's"
            )
        stages = backbone.attentions()
        every = range(1, len(stages) + 1)
        beyond = [number for number in self.stages or () if number not in every]
        if beyond:
            raise ValueError(f"there is no stage {words(beyond)}, only 1 to {len(stages)}")
        for number in merging_stages(backbone):
            blocks = len(stages[number - 1])
            known = self.block in ("first", "last") or self.block in range(1, blocks + 1)
            if self.wants(number - 1) and not known:
                raise ValueError(
                    f"there is no block {self.block} in stage {number}, choose first, last or 1 "
                    f"to {blocks}"
                )


def merging_stages(backbone: nn.Module) -> list[int]:
    """The stages of a merge-aware backbone whose strategies merge, counted from 1."""
    found = []
    for number, attentions in enumerate(backbone.attentions(), start=1):
        mergers = [merger for a in attentions[:1] for merger in (a.q_merger, a.kv_merger)]
        if not all(isinstance(merger.strategy, Identity) for merger in mergers):
            found.append(number)
    return found


def words(numbers: Sequence[int]) -> str:
    """Numbers for a reader, such as "1, 2 and 3"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last
