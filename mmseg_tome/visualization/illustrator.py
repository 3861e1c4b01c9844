"""What `tools/visualize_merging.py` draws: one figure of an image.

The network runs twice with the same weights, merged and unmerged. The predictors of
`tools/infer.py` run it, so a figure shows what they predict.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config

from mmseg_tome.errors import UserError
from mmseg_tome.files import replacing
from mmseg_tome.predict.inputs import Item
from mmseg_tome.predict.results import Prediction
from mmseg_tome.runtime.merging_switch import without_merging
from mmseg_tome.visualization.capture import Pass, record_passes
from mmseg_tome.visualization.comparison import (
    PoseComparison,
    SegmentationComparison,
    box_padding,
)
from mmseg_tome.visualization.figure import ColourBar, Panel, choose_layout, draw_figure
from mmseg_tome.visualization.painting import fit
from mmseg_tome.visualization.stage_maps import (
    COLOUR_MAP,
    GAMMA,
    Selection,
    StageMap,
    merging_stages,
    network_image,
    read_stages,
    words,
)

BAR = ColourBar(
    COLOUR_MAP,
    GAMMA,
    ticks=[(0, "0"), (1 / 64, "1/64"), (1 / 16, "1/16"), (1 / 4, "1/4"), (1 / 2, "1/2"), (1, "1")],
    ends=("merged with many", "kept apart"),
)


class NothingToDrawError(UserError):
    """An image in which nothing merges, or nobody is to be seen; the message does not name it."""


class MergingIllustrator:
    """Draws what merges in an image and how its prediction changes by it.

    Args:
        predictor: A `SegmentationPredictor`, or a `PosePredictor` that runs one box at a time.
        cfg: The config that it was built from.
        note: What ran, for the heading.
        selection: Stages to draw, and whose groups.

    Raises:
        UserError: The model merges nothing, not in these stages, or has no such stage or block.
    """

    def __init__(self, predictor, cfg: Config, note: str, selection: Selection):
        self._predictor = predictor
        self._model = predictor.model
        self._note = note
        self._selection = selection
        backbone = self._model.backbone
        try:
            selection.check(backbone)
        except ValueError as error:
            raise UserError(str(error)) from None
        self._wanted = [
            number
            for number in range(1, len(backbone.attentions()) + 1)
            if selection.wants(number - 1)
        ]
        if not set(self._wanted) & set(merging_stages(backbone)):
            raise UserError(f"nothing merges in stage {words(self._wanted)} with this tome_cfg")
        self._padding = box_padding(cfg)

    def draw(self, item: Item, path: Path) -> None:
        """Draw the figure of one image; `path` is there once it is whole.

        Raises:
            NothingToDrawError: Nothing merges in this image, or no box lies in it.
            ModelInputError: The image is too small for the network.
            UserError: The file cannot be written.
        """
        with record_passes(self._model) as passes:
            (merged,) = self._predictor.predict([item])
        with without_merging(self._model), record_passes(self._model):  # by the same arithmetic
            (plain,) = self._predictor.predict([item])
        if not passes:
            raise NothingToDrawError("no box of a person lies in it")
        compared = self._compare(item, plain, merged, passes)
        maps = read_stages(compared.passes, 0, self._selection)
        if not maps:
            raise NothingToDrawError(
                "nothing merges in it: its token grids are too small, or automatic choice found "
                "that merging does not pay"
            )
        layout = choose_layout(compared.aspect, [4, *_lines(len(maps))])
        picture = network_image(compared.passes, 0, self._model.data_preprocessor)
        panels = [
            *compared.panels(layout.size),
            *_stage_panels(maps, fit(picture, layout.size)),
        ]
        size = "x".join(map(str, item.image.shape[:2][::-1]))
        heading = (f"{item.source.path.name}, {size}: {compared.summary}", self._foot(maps))
        with replacing(path) as temporary:
            draw_figure(temporary, layout, panels, heading, compared.legend, BAR)

    def _compare(
        self, item: Item, plain: Prediction, merged: Prediction, passes: list[Pass]
    ) -> SegmentationComparison | PoseComparison:
        seen, predictor = (item, plain, merged, passes), self._predictor
        if predictor.task == "pose":
            return PoseComparison(*seen, self._padding, predictor.threshold)
        return SegmentationComparison(*seen, predictor.classes, predictor.palette)

    def _foot(self, maps: Sequence[StageMap]) -> str:
        drawn = {each.stage + 1 for each in maps}
        idle = [number for number in self._wanted if number not in drawn]
        if not idle:
            return self._note
        return f"{self._note}; nothing merges in stage{'s' * (len(idle) > 1)} {words(idle)}"


def _lines(maps: int) -> list[int]:
    """Pictures in each line of the figure: groups and heat of two stages, or one of each of 4."""
    lines = []
    for first in range(0, maps, 4):
        count = min(4, maps - first)
        lines += [2 * count] if count <= 2 else [count, count]
    return lines


def _stage_panels(maps: Sequence[StageMap], image: np.ndarray) -> Iterator[Panel]:
    """Panels in the order of `_lines`."""
    for first in range(0, len(maps), 4):
        part = [_panels_of(each, image) for each in maps[first : first + 4]]
        ordered = part if len(part) <= 2 else zip(*part, strict=True)
        yield from (panel for panels in ordered for panel in panels)


def _panels_of(stage: StageMap, image: np.ndarray) -> tuple[Panel, Panel]:
    groups, heat = stage.paint(image)
    mean = f", mean of {stage.blocks} blocks" if stage.blocks > 1 else ""
    number = f"block {stage.block + 1} of {stage.blocks}"
    return (
        Panel(groups, stage.name, f"{stage.counts}, {number}"),
        Panel(heat, f"stage {stage.stage + 1}: kept apart", f"1 / size of a token's group{mean}"),
    )
