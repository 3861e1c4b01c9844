"""Draw what a merging strategy merges in images, and how their predictions change by it.

    python tools/visualize_merging.py photos/ a.png --config config.py --checkpoint my.pth --out DIR

Each image, also in folders and their subfolders, becomes one figure, DIR/NAME_merging.png: the
image, its prediction without and with merging by the same weights, and what differs; then of each
stage the groups of tokens that merge (in their mean colours, outlined where that leaves something
to be seen) and a map of where tokens are kept apart (1 over the size of a token's group, averaged
over the stage's blocks, since every block matches anew).

The config decides how to merge, or --preset does; whether it segments or finds keypoints is the
config's matter, too. Of several persons, the one with the largest box is drawn. Without
--checkpoint, the config's `load_from` is run, and if there is none, random weights.

Exit codes: 0; 1 if inputs could not be read or drawn, each of which is named, while the others
were; 2 if a mistake, which is named, kept the tool from running or from saving.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IMAGE", help="image or folder; any number, mixed")
    add("--config", required=True, help="config file")
    add("--checkpoint", help="checkpoint; the config's load_from if none")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the figures")
    add(
        "--preset",
        "--tome-cfg",
        metavar="NAME",
        help=f"merge by this preset ({', '.join(names.MERGING_PRESETS)}, each also with -auto) "
        "instead of the config's tome_cfg",
    )
    add(
        "--stages",
        type=_numbers,
        metavar="N,N",
        help="which stages to draw, from 1, such as 1,3 (default: all that merge)",
    )
    add(
        "--block",
        type=_block,
        default="last",
        metavar="first|last|N",
        help="which block's groups to draw, from 1 (default: last, whose tokens hold most context "
        "and whose merging nothing in the stage can mend any more)",
    )
    add("--device", help="cpu, cuda or cuda:N (default: cuda if there)")
    add(
        "--boxes",
        metavar="FILE",
        help="pose: JSON with the persons' boxes, as tools/infer.py takes it; without it, each "
        "image is taken for the box of one person",
    )
    add("--box-threshold", type=float, default=0.3, help="pose: leave out boxes below this score")
    add(
        "--keypoint-threshold",
        type=float,
        default=0.3,
        help="pose: leave out keypoints below this score (default 0.3)",
    )
    options.add_config_arguments(parser)
    # What the predictors of infer.py also ask for.
    parser.set_defaults(batch_size=1, with_labels=False)
    return parser.parse_intermixed_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _block(text: str) -> int | str:
    return text if text in ("first", "last") else int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""

    def work() -> int | None:
        args = parse_args(argv)
        from mmseg_tome.cli.work.visualize import visualize

        return visualize(args)

    return run(work)
