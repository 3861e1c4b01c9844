"""Run a segmentation or pose model on images, folders of images and videos.

    python tools/infer.py photos/ street.mp4 --config config.py --checkpoint my.pth --out DIR

Without --checkpoint, the config's `load_from` is run; whether it segments or finds keypoints is the
config's matter, too. `--model FILE` takes what tools/export.py wrote, .onnx or .pt2, in place of
both. Folders are searched with all their subfolders. DIR gets

    overlays/    each image with its prediction painted over it, a PNG if it is too wide for a
                 JPEG; of a video, a video
    labels/      segmentation: class index of each pixel, a grey PNG an image or frame
    merging/     with --show-merging: of each image the figure of tools/visualize_merging.py
    results.json for each image or frame its path, size, milliseconds (without reading, painting
                 and saving) and files; for segmentation the share of each class; for pose boxes
                 [x, y, w, h], keypoints [x, y] in pixels of the image, and scores

Names keep the path from a given folder's own name on. results.json is written last, in one piece;
then what an earlier run into DIR left is removed.

Exit codes: 0; 1 if inputs could not be read or run, each of which is named, while the others were;
2 if a mistake, which is named, kept the tool from running or from saving.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IMAGE", help="image, folder or video; any number, mixed")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config", help="config file")
    model.add_argument(
        "--model", metavar="FILE", help="exported model, .onnx or .pt2, which runs on the CPU"
    )
    add("--checkpoint", help="checkpoint; the config's load_from if none")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there)")
    add(
        "--batch-size",
        type=_at_least_1,
        help="images of one size, or boxes of one image, that run together (default: as the "
        "config tests)",
    )
    add(
        "--opacity",
        type=_fraction,
        help="of what is painted, 0 to 1 (default: segmentation 0.5, pose 1)",
    )
    add(
        "--with-labels",
        action="store_true",
        help="segmentation: write class names into the overlays (seconds for a large image)",
    )
    add(
        "--boxes",
        metavar="FILE",
        help="pose: JSON with the boxes [x, y, w, h] of the persons in the images, as COCO's "
        'detections, [{"file_name" or "image_id", "bbox", "score"}], or annotations, {"images", '
        '"annotations"}; without it, each image is taken for the box of one person',
    )
    add(
        "--box-threshold",
        type=_fraction,
        default=0.3,
        help="pose: leave out boxes with a lower score (default 0.3)",
    )
    add(
        "--keypoint-threshold",
        type=_fraction,
        default=0.3,
        help="pose: do not draw keypoints with a lower score (default 0.3); all are in "
        "results.json",
    )
    options.add_launch(parser)
    options.add_dtype(parser)
    options.add_show_merging(parser)
    options.add_config_arguments(parser)
    return parser.parse_intermixed_args(argv)  # options may stand between inputs


def _at_least_1(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _fraction(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return float(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.cli.work.infer import infer

        return infer(args)

    return run(work)
