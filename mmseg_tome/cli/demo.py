"""Train a small SegFormer on rendered streets and test it under every preset: minutes on a CPU.

One checkpoint is trained without merging by `mmseg-tome train` and tested, as it is, by `mmseg-tome
test` under every preset. The folder gets a picture and `results.json`; a table is printed. `scenes`
only renders the data set: labels as in Cityscapes, persons' keypoints as in COCO.

Examples:
  mmseg-tome demo
  mmseg-tome demo pose --out demo_output
  mmseg-tome demo scenes --out data/demo_scenes --height 1024
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command
from mmseg_tome.errors import MMStackError

WHAT = ("segmentation", "pose", "scenes")
MIN_ITERS = 8  # a shorter training has no warm-up that mmengine could schedule


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, ("[WHAT]", f"{', '.join(WHAT)} (default: {WHAT[0]})"))
    parser.set_defaults(what=None)
    add = parser.add_argument
    add("--out", type=Path, help="folder (default: demo_output; of scenes: data/demo_scenes)")
    add("--iters", type=int, default=400, help="training iterations (default: 400)")
    add("--seed", type=int, default=0, help="of the scenes and of the training")
    add("--height", type=int, help="rows of a scene (default: 256; of Cityscapes: 1024)")
    add("--train", type=int, default=120, help="scenes for training (default: 120)")
    add("--val", type=int, default=20, help="scenes for validation (default: 20)")
    add("--keep", action="store_true", help="keep scenes, checkpoint, logs and predictions, too")
    args = parser.read(argv, "what")
    args.what = args.what or WHAT[0]
    if args.what not in WHAT:
        parser.error(f"there is no demo {args.what}: choose from {', '.join(WHAT)}")
    if args.what == "pose" and args.height is not None:
        parser.error("--height is not for pose, whose persons are cut from scenes of 512 rows")
    args.height = 256 if args.height is None else args.height
    if args.height < 256 or args.height % 32:
        parser.error(f"--height must be a multiple of 32 from 256 on, not {args.height}")
    for name, least in (("iters", MIN_ITERS), ("seed", 0), ("train", 1), ("val", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, not {getattr(args, name)}")
    args.out = args.out or Path("data/demo_scenes" if args.what == "scenes" else "demo_output")
    if args.out.exists() and args.what != "scenes" and not args.out.is_dir():
        parser.error(f"--out {args.out} is not a folder")
    return args


def demonstrate(args: argparse.Namespace) -> None:
    """Run one of the demos, or render its data."""
    if args.what == "scenes":
        from mmseg_tome.lab.demo.dataset import write_dataset

        write_dataset(args.out, args.train, args.val, args.height, args.seed)
        print(f"{args.train} + {args.val} scenes: {args.out}")
        return
    from mmseg_tome import compat
    from mmseg_tome.lab.demo.run import run_demo

    if args.what == "pose":
        if not compat.has("mmpose"):
            raise MMStackError(
                f"mmpose cannot be imported: tools/install_mmpose.sh {sys.executable}"
            )
        from mmseg_tome.lab.demo.pose import Pose

        run_demo(Pose(), args)
    else:
        from mmseg_tome.lab.demo.segmentation import Segmentation

        run_demo(Segmentation(args.height, args.train, args.val), args)


main = command(parse_args, demonstrate)
