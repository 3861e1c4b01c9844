"""From recorded forward passes to one map of groups and one of heat for each stage that merges."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch import nn

from mmseg_tome.merging import Identity
from mmseg_tome.visualization.capture import Pass
from mmseg_tome.visualization.painting import borders, fit, paint_groups, stretch, to_rgb

WORDS = {"q": "queries", "kv": "keys/values"}
COLOUR_MAP, GAMMA = "viridis", 0.5
SPARSE, CROWDED = 0.15, 0.5
"""Shares of an image's pixels up to which outlines are drawn in full, and at all: many hide it."""


SMALLEST = 512
GAP, CAPTION = 8, 28
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6


@dataclass(frozen=True)
class Selection:
    """Stages to draw, and the block whose groups stand for a stage. Both are counted from 1."""

    block: int | str = "last"  # or "first"
    stages: Collection[int] | None = None  # None for all

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


DEFAULT = Selection()


@dataclass(frozen=True, eq=False)
class StageMap:
    """How one stage merged its queries, or its keys and values, in one image.

    `heat` is how far each pixel's token is kept apart: 1 over the size of its group, the mean over
    the stage's blocks.
    """

    stage: int  # from 0
    kind: str  # "q" or "kv"
    block: int  # whose groups these are, from 0
    blocks: int  # of the stage
    hw: tuple[int, int]  # grid in tokens, of a window if there are several
    kept: int  # merged tokens, of a window
    windows: int  # that the image was cut into
    groups: np.ndarray  # group of each pixel, [H, W]; windows have groups of their own
    heat: np.ndarray  # [H, W] float32

    @property
    def total(self) -> int:
        """Tokens before merging, of a window."""
        return self.hw[0] * self.hw[1]

    @property
    def label(self) -> str:
        """For a program, such as "stage3_q"."""
        return f"stage{self.stage + 1}_{self.kind}"

    @property
    def name(self) -> str:
        """For a reader, such as "stage 3: queries, 64x128 tokens"."""
        return f"stage {self.stage + 1}: {WORDS[self.kind]}, {self.hw[0]}x{self.hw[1]} tokens"

    @property
    def counts(self) -> str:
        """For a reader, such as "820 of 4096 kept (20 %)"."""
        share = 100 * self.kept / self.total
        digits = 0 if share >= 10 else 1
        windows = f" in each of {self.windows} windows" if self.windows > 1 else ""
        return f"{self.kept} of {self.total} kept ({share:.{digits}f} %){windows}"

    def paint(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw groups and heat at the size of an image: `paint_groups` and `paint_heat`."""
        return self.paint_groups(image), self.paint_heat(image.shape[:2])

    def paint_groups(self, image: np.ndarray) -> np.ndarray:
        """Draw groups in their mean colours.

        Lines run between groups unless these are so small that lines would cover the picture.

        Args:
            image: The picture, `[H, W, 3]` uint8 RGB, of any size.

        Returns:
            A new picture, as the image is.
        """
        groups = stretch(self.groups, image.shape[:2])
        painted, lines = paint_groups(image, groups), borders(groups)
        if 0 < lines.mean() <= CROWDED:
            painted[lines] = _contrast(painted[lines], min(1, SPARSE / lines.mean()))
        return painted

    def paint_heat(self, size: tuple[int, int]) -> np.ndarray:
        """Draw the heat in `COLOUR_MAP` at `size`, (height, width): `[height, width, 3]` uint8."""
        return colour_heat(stretch(self.heat, size))


def tokens_apart(slot: np.ndarray) -> np.ndarray:
    """1 over the size of each token's group, `[N]` -> `[N]` float32; 1 for a token on its own."""
    return (1 / np.bincount(slot))[slot].astype(np.float32)


def colour_heat(heat: np.ndarray) -> np.ndarray:
    """Values in 0 to 1 in colours, `[H, W]` -> `[H, W, 3]` uint8 RGB.

    Colours follow the square root: groups of 4 and of 64 tokens look different.
    """
    from matplotlib import colormaps  # mmengine requires it; merging alone does not

    return colormaps[COLOUR_MAP](heat**GAMMA, bytes=True)[..., :3]


def stage_picture(stage: StageMap, image: np.ndarray, longest: int = 1024) -> np.ndarray:
    """One picture of a stage, for logs: groups and heat side by side above a caption.

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


def read_stages(
    passes: Sequence[Pass], sample: int = 0, selection: Selection = DEFAULT
) -> list[StageMap]:
    """What merged in an image, stage by stage, queries before keys and values.

    Args:
        passes: Of one image, or one batch: windows that were cut from one tensor are put together;
            of other passes, such as those of mirrored images, the first is read.
        sample: Number of the image in the batch.
        selection: Stages to read, and whose groups to show; one that `check` took.

    Returns:
        A map for each sequence that merges; stages that merge nothing are left out.
    """
    placed = _place(passes)
    captured = placed[0][0].slots
    found = []
    for stage, kind in sorted({(i, kind) for i, _, kind in captured}, key=_by_kind):
        blocks = sum(i == stage and k == kind for i, _, k in captured)
        first = [captured[stage, j, kind] for j in range(blocks)]
        merges = any(slots.num_slots < slots.slot.shape[1] for slots, _ in first)
        if merges and selection.wants(stage):
            shown = selection.block_of(blocks)
            maps = _assemble(placed, sample, stage, kind, blocks, shown)
            slots, hw = first[shown]
            found.append(
                StageMap(stage, kind, shown, blocks, hw, slots.num_slots, len(placed), *maps)
            )
    return found


def network_image(
    passes: Sequence[Pass], sample: int, preprocessor: nn.Module | None
) -> np.ndarray:
    """The image that `read_stages` is about, put together from its windows.

    Args:
        passes: As `read_stages` takes them.
        sample: Number of the image in the batch.
        preprocessor: What `to_rgb` undoes.

    Returns:
        `[H, W, 3]` uint8 RGB, of the size of the maps.
    """
    placed = _place(passes)
    canvas = np.zeros((*_canvas(placed), 3), np.uint8)
    for window, y, x in placed:
        part = to_rgb(window.image[sample], preprocessor)
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


def _contrast(colours: np.ndarray, strength: float) -> np.ndarray:
    """Darker shades of light colours and lighter ones of dark colours, `[..., 3]` uint8."""
    dark = colours.mean(axis=-1, keepdims=True) < 90
    ends = np.where(dark, 255.0, 0.0)
    share = np.where(dark, 0.28, 0.55) * strength
    return (colours + share * (ends - colours)).round()


def _by_kind(key: tuple[int, str]) -> tuple[int, int]:
    return key[0], list(WORDS).index(key[1])


def _place(passes: Sequence[Pass]) -> list[tuple[Pass, int, int]]:
    """Passes with the top left corners of their windows; only those of the first one's image.

    A sliding window is a view of the whole image, so memory tells where it lies.
    """
    first = passes[0].image
    windows = [each for each in passes if _memory(each.image) == _memory(first)]
    offsets = [each.image.storage_offset() for each in windows]
    row, col = first.stride()[2:]
    corners = [divmod(at - min(offsets), row) for at in offsets]
    return [(each, y, x // col) for each, (y, x) in zip(windows, corners, strict=True)]


def _memory(x) -> tuple:
    return x.untyped_storage().data_ptr(), x.stride()


def _canvas(placed: list[tuple[Pass, int, int]]) -> tuple[int, int]:
    ends = [(y + each.image.shape[2], x + each.image.shape[3]) for each, y, x in placed]
    return max(y for y, _ in ends), max(x for _, x in ends)


def _assemble(
    placed: list[tuple[Pass, int, int]], sample: int, stage: int, kind: str, blocks: int, shown: int
) -> tuple[np.ndarray, np.ndarray]:
    """Groups and heat of each pixel, `[H, W]`; where windows overlap, of the last one."""
    groups = np.zeros(_canvas(placed), np.int64)
    heat = np.zeros(groups.shape, np.float32)
    used = 0
    for window, y, x in placed:
        maps = [window.slots[stage, j, kind] for j in range(blocks)]
        hw = maps[shown].hw
        slot = [_of_sample(slots.slot, sample) for slots, _ in maps]
        size = tuple(window.image.shape[2:])
        part = np.s_[y : y + size[0], x : x + size[1]]
        groups[part] = stretch(slot[shown].reshape(hw) + used, size)
        used += maps[shown].slots.num_slots
        apart = np.mean([tokens_apart(each) for each in slot], axis=0)
        heat[part] = stretch(apart.reshape(hw), size)
    return groups, heat


def _of_sample(slot, sample: int) -> np.ndarray:
    """A sample's slots, `[B or 1, N]` -> `[N]`."""
    return slot[min(sample, slot.shape[0] - 1)].cpu().numpy()
