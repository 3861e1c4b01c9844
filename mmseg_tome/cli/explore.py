"""See in a browser what merges in your images, and what that changes.

One page: an image from a file, the camera or the demo's scenes; a preset, or ratio, window, reuse
and proportional attention of each stage. It shows the prediction without and with merging behind a
slider, the groups of merged tokens of each stage, what changed, tokens kept, the time of both, and
the tome_cfg to copy. The page is served on this machine alone, unless --host says otherwise, and
asks no other machine for anything. Visitors send images, never models: those are named here.

MODEL is a config, also by the name of one of ours; a name of docs/zoo.md; or a SegFormer that needs
no config: of the Hugging Face hub, a folder of it, or a .pth or .safetensors file.

Examples:
  mmseg-tome explore segformerpp_b0_hq_cityscapes
  mmseg-tome explore my_config.py my.pth --preset fast --port 8000
  mmseg-tome explore nvidia/segformer-b0-finetuned-ade-512-512
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command, ignore_developer_warnings
from mmseg_tome.config import TRUST_VARIABLE, choose_device
from mmseg_tome.errors import UserError

if TYPE_CHECKING:
    from mmseg_tome.predict.load import Predictor

MODEL = ("MODEL", "config, name of the zoo, or SegFormer checkpoint")
LONGEST = 1024
SMALLEST = 128


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, MODEL, options.CHECKPOINT)
    parser.known["config"] = MODEL[0]
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to serve on; 0.0.0.0 lets others in (default: 127.0.0.1)")  # fmt: skip
    add("--port", type=int, metavar="N", help="port (default: the first free one from 7860 on)")
    add("--longest", type=int, default=LONGEST, metavar="N",
        help=f"longest side in pixels that images are reduced to (default: {LONGEST})",
        )  # fmt: skip
    options.add_device(parser)
    options.add_model(parser, preset=f"none, {', '.join(names.MERGING_PRESETS)}")
    options.add_verbosity(parser)
    args = parser.read(argv, "config", "checkpoint", required=["config"])
    if args.longest < SMALLEST:
        parser.error(f"--longest must be at least {SMALLEST}, not {args.longest}")
    if args.port is not None and not 0 < args.port < 65536:
        parser.error(f"--port must be between 1 and 65535, not {args.port}")
    return args


def explore(args: argparse.Namespace) -> None:
    """Serve the page until interrupted."""
    if not args.verbose:
        ignore_developer_warnings()
    from mmseg_tome.lab.explore.page import require_gradio

    require_gradio()
    from mmseg_tome.lab.explore.comparing import Explorer
    from mmseg_tome.lab.explore.page import serve

    predictor = load_predictor(args)
    name = Path(args.config).stem if Path(args.config).is_file() else args.config
    explorer = Explorer(predictor, name, args.longest)
    serve(explorer, args.host, args.port, lambda url: print(f"{name}: {url} (Ctrl-C ends it)"))


def load_predictor(args: argparse.Namespace) -> Predictor:
    """The model that the line names.

    Raises:
        UserError: As `mmseg_tome.load`.
    """
    from mmseg_tome.merging import parse_tome_cfg
    from mmseg_tome.predict.load import Predictor, load

    if args.preset is not None:
        parse_tome_cfg(args.preset)
    if args.trust_checkpoint:
        os.environ[TRUST_VARIABLE] = "1"
    if not set(args.cfg_options or ()) - {"model.backbone.tome_cfg"}:
        return load(args.config, args.checkpoint, args.preset, args.device)
    if not Path(args.config).is_file():
        raise UserError(f"--cfg-options are for a config, and {args.config} is none")
    device = choose_device(args.device)
    return Predictor(args.config, args.checkpoint, args.preset, device, args.cfg_options)


main = command(parse_args, explore, when_interrupted="the page is closed")
