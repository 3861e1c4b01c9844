"""Latency, throughput, peak memory, FLOPs and tokens kept, beside the peer pipeline, in one run.

The peer pipeline is the stock MMSegmentation model with tomesd merging, as the authors of
SegFormer++ run it, with the same weights and input; --fused-peer adds the same with torch's fused
attention, --compiled-peer that compiled and captured as CUDA graphs, --graphs ours by CUDA graphs.
Before anything is timed, the outputs of all are compared.
With --train, steps of training are timed instead, and no outputs compared. Writes benchmark.json
and benchmark.png, and with --breakdown breakdown.png.

--as-typed times the commands themselves instead, as a user types them, each beside stock
MMSegmentation or MMPose in the same command, on made-up data with random weights; writes
as_typed.json.

Examples:
  mmseg-tome benchmark --models b0 b2 --presets none hq fast n2d --size 1024x1024
  mmseg-tome benchmark segformerpp_fast_cityscapes --device cuda --dtype bfloat16 --fused-peer \\
      --graphs
  mmseg-tome benchmark --models b5 --batch-size 4 --device cuda --dtype bfloat16 --autocast --train
  mmseg-tome benchmark --as-typed --models b5 --dtype float32 bfloat16
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmseg_tome.cli import names, options
from mmseg_tome.cli.ending import command
from mmseg_tome.config import LAUNCHES, TRUST_FLAG
from mmseg_tome.config_names import find_config

DTYPES = ("float32", "bfloat16", "float16", "float64")
TYPED_ROUNDS, TYPED_WARMUP = 2, 20


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    configs = ("[CONFIG ...]", "configs to time, of mmseg or mmpose: files or names of ours")
    parser = options.Parser(__doc__, configs, allow_abbrev=True)
    add = parser.add_argument
    add("--models", nargs="+", metavar="B",
        help=f"of {' '.join(names.MODELS)} (default, without configs: b0)")  # fmt: skip
    options.add_presets(parser, ["none", "hq", "fast", "n2d"],
        help=f"of {' '.join(names.PRESETS)}; for --models")  # fmt: skip
    add("--config", dest="configs", nargs="+", metavar="FILE", help="the same as CONFIG")
    options.also(parser, "--config", "--configs")
    add("--checkpoint", metavar="FILE", help="weights of the one model given (default: random)")
    add(TRUST_FLAG, action="store_true",
        help="unpickle the checkpoint without restrictions: it can run any code")  # fmt: skip
    add("--size", nargs="+", metavar="HxW",
        help="image sizes (default: the config's own, else 1024x1024)")  # fmt: skip
    add("--out", type=Path, default=Path("benchmark_output"), metavar="DIR",
        help="folder of the results (default: benchmark_output)")  # fmt: skip
    group = parser.add_argument_group("how it runs")
    options.add_batch(group, default=[1], nargs="+", help="images at a time (default 1)")
    options.add_device(group, default="cpu", nargs="+")
    add = group.add_argument
    add("--dtype", nargs="+", default=["float32"], choices=DTYPES, metavar="DTYPE",
        help=f"of {' '.join(DTYPES)}")  # fmt: skip
    add("--autocast", action="store_true", help="float32 weights under autocast to --dtype")
    add("--compile", action="store_true", help="torch.compile all pipelines")
    add("--graphs", action="store_true",
        help="ours by CUDA graphs as well (no effect on a CPU)")  # fmt: skip
    add("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    add("--rounds", type=int, metavar="N", help="timed rounds (default 10)")
    add("--warmup", type=int, metavar="N", help="untimed passes besides the checks (default 1)")
    add = parser.add_argument_group("what is measured").add_argument
    add("--part", choices=("model", "backbone"), default="model", help="with or without the head")
    add("--train", action="store_true",
        help="time training steps (forward, loss, backward, AdamW), not inference")  # fmt: skip
    add("--peer", action=argparse.BooleanOptionalAction, default=True, help="measure the peer too")
    add("--fused-peer", action="store_true",
        help="also the peer with attention that does not materialise its matrices")  # fmt: skip
    add("--compiled-peer", action="store_true",
        help="also the fused peer compiled, by CUDA graphs: the compiled stock")  # fmt: skip
    add("--check", action=argparse.BooleanOptionalAction, default=True,
        help="fail when the outputs of the pipelines differ")  # fmt: skip
    add("--breakdown", action="store_true",
        help="also where the time goes, part by part, beside the device's floor")  # fmt: skip
    add_as_typed(parser)
    args = parser.read(argv, rest="configs")
    args.configs = [find_config(config) for config in args.configs]
    typed = args.as_typed is not None
    rounds, warmup = (TYPED_ROUNDS, TYPED_WARMUP) if typed else (10, 1)
    args.rounds = rounds if args.rounds is None else args.rounds
    args.warmup = warmup if args.warmup is None else args.warmup
    return args


def add_as_typed(parser: argparse.ArgumentParser) -> None:
    """The options that only ``--as-typed`` has."""
    group = parser.add_argument_group(
        "times of the tools themselves",
        "Also: --models, --presets, --dtype, --size (of the Cityscapes images), --rounds (default "
        f"{TYPED_ROUNDS}), --warmup (iterations, default {TYPED_WARMUP}), --out.",
    )
    add = group.add_argument
    add("--as-typed", nargs="*", choices=names.AS_TYPED, metavar="CASE",
        help=f"time the commands of the README, each beside stock; of {' '.join(names.AS_TYPED)} "
        "(default: all but losses)")  # fmt: skip
    add("--launch", nargs="+", default=["auto"], choices=LAUNCHES, metavar="L",
        help=f"of {' '.join(LAUNCHES)}: the tools' switch (default auto: not given)")  # fmt: skip
    add("--gpus", nargs="+", type=int, default=[1], metavar="N",
        help="train in so many processes, through tools/dist_train.sh")  # fmt: skip
    add("--images", type=int, default=240, metavar="N", help="images of each data set (240)")
    add("--iters", type=int, default=80, metavar="N", help="iterations of training (80)")
    add("--folder", type=Path, metavar="FOLDER",
        help="where data, weights and logs are kept (default: a temporary folder)")  # fmt: skip
    add("--python-args", default="", metavar="ARGS", help="options of the tools' interpreter")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="settings that all commands get")  # fmt: skip
    add("--time-limit", type=float, metavar="S", help="seconds for all runs together")


main = command(
    parse_args,
    "mmseg_tome.lab.bench.benchmark:benchmark",
    "benchmark.py",
    "cases finished so far are in the JSON",
)
