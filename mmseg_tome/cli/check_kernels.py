"""Check the Triton kernels against their torch twins, then time both side by side.

The shapes are stage 3 of MiT-B5 under the preset hq: ratio 0.8, stride 4x4, 320 channels. Times
are medians of device time from CUDA graphs, without launch overhead; the floor is the larger of
the bytes over 3.0 TB/s and the FLOP over 800 TFLOP/s (float32: 400, which is tf32), see
docs/results/gpu.md. Needs torch and Triton, no mm package.

Examples:
  mmseg-tome check-kernels               on a GPU: everything, about three minutes
  mmseg-tome check-kernels --tiny        anywhere: tiny sizes, in Triton's interpreter
  mmseg-tome check-kernels --compile 90  anywhere: only compile, for an H100 or H200;
                                         with --tiny a few of the kernels
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmseg_tome.cli import options
from mmseg_tome.cli.ending import command


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = options.Parser(__doc__, allow_abbrev=True)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU without a GPU")
    parser.add_argument("--compile", type=int, metavar="SM", help="for this capability, e.g. 90")
    return parser.read(argv)


main = command(parse_args, "mmseg_tome.lab.kernel_checks.main:check_kernels", "check_kernels.py")
