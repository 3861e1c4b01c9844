"""Draw what a merging strategy merges in images, and how their predictions change by it.

Each image, also in folders and their subfolders, becomes one figure, NAME_merging.png in the folder
of --out: the image, its prediction without and with merging by the same weights, and what differs;
then of each stage the groups of tokens that merge (in their mean colours, outlined where that
leaves something to be seen) and a map of where tokens are kept apart (1 over the size of a token's
group, averaged over the stage's blocks, since every block matches anew).

The config decides how to merge, or --preset does; whether it segments or finds keypoints is the
config's matter, too. Of several persons, the one with the largest box is drawn. Without a
checkpoint, the config's `load_from` is run, and if there is none, random weights.

Exit codes: 0; 1 if inputs could not be read or drawn, each of which is named, while the others
were; 2 if a mistake, which is named, kept the command from running or from saving.

Examples:
  mmseg-tome visualize segformerpp_fast_cityscapes work.pth photos/ a.png --out figures
  mmseg-tome visualize my_config.py my.pth a.png --out figures --preset hq --stages 1,3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command, ignore_developer_warnings
from mmseg_tome.cli.infer import (
    EXIT_SOME_FAILED,
    add_pose,
    build_predictor,
    read_boxes,
)
from mmseg_tome.cli.progress import progress_bar
from mmseg_tome.config import OURS, check_checkpoint, choose_device, is_pose, read_config
from mmseg_tome.errors import UserError, first_line
from mmseg_tome.files import only_one

if TYPE_CHECKING:
    from mmengine.config import Config

    from mmseg_tome.predict.inputs import Reader, Source
    from mmseg_tome.visualization.illustrator import MergingIllustrator

ENDING = "_merging.png"
OPACITY = 0.6  # of the classes' colours


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    images = ("IMAGE ...", "image or folder; any number, mixed")
    parser = options.Parser(__doc__, options.CONFIG, options.CHECKPOINT, images)
    add = parser.add_argument
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the figures")
    add("--stages", type=_numbers, metavar="N,N",
        help="which stages to draw, from 1, such as 1,3 (default: all that merge)")  # fmt: skip
    add("--block", type=_block, default="last", metavar="first|last|N",
        help="which block's groups to draw, from 1 (default: last, whose tokens hold most context "
        "and whose merging nothing in the stage can mend any more)")  # fmt: skip
    options.add_device(parser)
    add_pose(parser)
    options.add_model(parser, preset=f"{', '.join(names.MERGING_PRESETS)}, each also with -auto")
    options.also(parser, "--preset", "--tome-cfg")
    options.add_verbosity(parser)
    # What the predictors of infer.py also ask for.
    parser.set_defaults(batch_size=1, with_labels=False)
    return parser.read(argv, "config", "checkpoint", required=["config", "inputs"], rest="inputs")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _block(text: str) -> int | str:
    return text if text in ("first", "last") else int(text)


def visualize(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    if not args.verbose:
        ignore_developer_warnings()
    from mmseg_tome.config_datasets import with_one_test_dataset
    from mmseg_tome.predict.inputs import Reader
    from mmseg_tome.visualization.illustrator import MergingIllustrator
    from mmseg_tome.visualization.stage_maps import Selection

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file, not a folder")
    sources = find_images(args.inputs, args.out)
    cfg = with_one_test_dataset(read_merging_config(args))
    checkpoint = args.checkpoint or cfg.get("load_from")
    check_checkpoint(checkpoint)
    device = choose_device(args.device)
    args.opacity = None if is_pose(cfg) else OPACITY
    boxes = read_boxes(args, cfg, sources)
    reader = Reader(cfg)
    if not checkpoint:
        print("warning: no checkpoint: random weights are run", file=sys.stderr)
    predictor = build_predictor(args, cfg, checkpoint or None, device, boxes)
    shown = Path(checkpoint).name if checkpoint else "random weights"
    merging = cfg.model.backbone.tome_cfg
    preset = f"preset {merging}" if isinstance(merging, str) else "tome_cfg of its own"
    note = f"{Path(args.config).name}, {preset}, {shown}"
    illustrator = MergingIllustrator(predictor, cfg, note, Selection(args.block, args.stages))
    with only_one(args.out):
        failed = draw_all(args, sources, reader, illustrator)
    count = len(sources) - len(failed)
    figures = "1 figure" if count == 1 else f"{count} figures"
    print(f"{figures} drawn, {len(failed)} inputs failed: {args.out}")
    return EXIT_SOME_FAILED if failed else 0


def find_images(inputs: Sequence[str], out: Path) -> list[Source]:
    """The images that `inputs` name; figures of an earlier run are none.

    Raises:
        UserError: As `find_sources`, or a video is named, or folders hold nothing but videos.
    """
    from mmseg_tome.predict.inputs import VIDEOS, find_sources

    videos = [text for text in inputs if Path(text).suffix.lower() in VIDEOS]
    if videos:
        raise UserError(f"{videos[0]} is a video: only images can be drawn")

    def is_figure(path: Path | str) -> bool:
        path = Path(path)
        return path.name.endswith(ENDING) and path.resolve().is_relative_to(out.resolve())

    found = find_sources(inputs)
    images = [each for each in found if not each.is_video and not is_figure(each.path)]
    sources = [replace(each, images=1) for each in images]  # the first of an animation
    if not sources:
        raise UserError(f"{', '.join(inputs)}: videos or figures of this tool alone, no image")
    return sources


def read_merging_config(args: argparse.Namespace) -> Config:
    """The config, with --preset in its place.

    Raises:
        UserError: As `read_config`, or nothing merges.
        TomeConfigError: There is no such preset, or the config's tome_cfg cannot be read.
    """
    from mmseg_tome.merging import PRESETS, merges, parse_tome_cfg

    if args.preset is not None:
        parse_tome_cfg(args.preset)
    cfg = read_config(args)
    backbone = cfg.model.get("backbone") or {}
    kind = str(backbone.get("type"))
    if args.preset is not None and not kind.startswith(OURS):
        raise UserError(f"--preset is for the backbones of mmseg_tome, the config's is {kind}")
    if not merges(backbone.get("tome_cfg")):
        raise UserError(
            f"config {args.config} merges nothing: choose a preset by --preset, one of "
            f"{', '.join(PRESETS)}"
        )
    return cfg


def draw_all(
    args: argparse.Namespace,
    sources: Sequence[Source],
    reader: Reader,
    illustrator: MergingIllustrator,
) -> dict[Path, str]:
    """Draw a figure of each image; returns what failed, why by path."""
    import cv2

    from mmseg_tome.nets.errors import ModelInputError
    from mmseg_tome.predict.inputs import UnreadableError
    from mmseg_tome.visualization.illustrator import NothingToDrawError

    failed: dict[Path, str] = {}
    with progress_bar(args, "figures", len(sources)) as (advance, tell):
        for source in sources:
            try:
                for item in reader.read(source):
                    illustrator.draw(item, args.out / f"{source.name}{ENDING}")
            # OpenCV's where a side shrinks to 0.
            except (UnreadableError, NothingToDrawError, ModelInputError, cv2.error) as error:
                failed[source.path] = first_line(error)
                tell(f"error: {source.path}: {failed[source.path]}")
            advance(1)
    return failed


main = command(parse_args, visualize)
