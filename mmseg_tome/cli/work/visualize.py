"""What `tools/visualize_merging.py` does once its command line is read."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
from mmengine.config import Config
from rich.console import Console
from rich.progress import Progress

from mmseg_tome.cli.ending import ignore_developer_warnings
from mmseg_tome.cli.work.infer import EXIT_SOME_FAILED, build_predictor, choose_device, read_boxes
from mmseg_tome.config import OURS, check_checkpoint, is_pose, read_config
from mmseg_tome.config_datasets import with_one_test_dataset
from mmseg_tome.errors import UserError, first_line
from mmseg_tome.files import only_one
from mmseg_tome.merging import PRESETS, merges, parse_tome_cfg
from mmseg_tome.nets.errors import ModelInputError
from mmseg_tome.predict.inputs import VIDEOS, Reader, Source, UnreadableError, find_sources
from mmseg_tome.visualization.illustrator import (
    MergingIllustrator,
    NothingToDrawError,
)
from mmseg_tome.visualization.stage_maps import Selection

ENDING = "_merging.png"
OPACITY = 0.6  # of the classes' colours


def visualize(args: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    ignore_developer_warnings()
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
        failed = draw_all(sources, reader, illustrator, args.out)
    count = len(sources) - len(failed)
    figures = "1 figure" if count == 1 else f"{count} figures"
    print(f"{figures} drawn, {len(failed)} inputs failed: {args.out}")
    return EXIT_SOME_FAILED if failed else 0


def find_images(inputs: Sequence[str], out: Path) -> list[Source]:
    """The images that `inputs` name; figures of an earlier run are none.

    Raises:
        UserError: As `find_sources`, or a video is named, or folders hold nothing but videos.
    """
    videos = [text for text in inputs if Path(text).suffix.lower() in VIDEOS]
    if videos:
        raise UserError(f"{videos[0]} is a video: only images can be drawn")

    def is_figure(path: Path) -> bool:
        return path.name.endswith(ENDING) and path.resolve().is_relative_to(out.resolve())

    found = find_sources(inputs)
    sources = [each for each in found if not each.is_video and not is_figure(each.path)]
    if not sources:
        raise UserError(f"{', '.join(inputs)}: videos or figures of this tool alone, no image")
    return sources


def read_merging_config(args: argparse.Namespace) -> Config:
    """The config, with --preset in its place.

    Raises:
        UserError: As `read_config`, or nothing merges.
        TomeConfigError: There is no such preset, or the config's tome_cfg cannot be read.
    """
    if args.preset is not None:
        parse_tome_cfg(args.preset)
        preset = {"model.backbone.tome_cfg": args.preset}
        args.cfg_options = {**(args.cfg_options or {}), **preset}
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
    sources: Sequence[Source], reader: Reader, illustrator: MergingIllustrator, out: Path
) -> dict[Path, str]:
    """Draw a figure of each image; returns what failed, why by path."""
    failed: dict[Path, str] = {}
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("figures", total=len(sources))
        for source in sources:
            try:
                for item in reader.read(source):
                    illustrator.draw(item, out / f"{source.name}{ENDING}")
            # OpenCV's where a side shrinks to 0.
            except (UnreadableError, NothingToDrawError, ModelInputError, cv2.error) as error:
                failed[source.path] = first_line(error)
                line = f"error: {source.path}: {failed[source.path]}"
                progress.console.out(line, highlight=False)
            progress.advance(task)
    return failed
