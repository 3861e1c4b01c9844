"""Options that commands share."""

from __future__ import annotations

import argparse

from mmseg_tome.config import DTYPES, LAUNCHES, TRUST_FLAG, add_cfg_options


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that training and testing have in common."""
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder of logs, checkpoints and metrics")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="folder to save painted predictions to")
    add_show_merging(parser)
    parser.add_argument(
        "--interval",
        type=int,
        help="show every n-th sample (default: all), merging in every n-th batch (default: 500)",
    )
    parser.add_argument("--wait-time", type=float, default=2, help="seconds that --show waits")
    add_launch(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes of a distributed job are started",
    )
    # torch's launcher passes this.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every tool that reads a config and a checkpoint."""
    add_cfg_options(parser)
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        help="let checkpoints run the code they contain: only for files whose author you trust",
    )


def add_launch(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--launch`; without a default it is up to the config, which our hooks take for `auto`."""
    parser.add_argument(
        "--launch",
        choices=LAUNCHES,
        default=default,
        help="how a GPU is given its work: by CUDA graphs, kernel by kernel (eager), or by graphs "
        "wherever that is safe (default: auto)",
    )


def add_dtype(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """`--dtype`: of the weights and of all that is computed, where nothing is trained."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=default,
        help="data type to compute in; half precision is that of the weights, not autocast "
        f"(default: {default or 'as the config says, float32 in ours'})",
    )


def add_show_merging(parser: argparse.ArgumentParser) -> None:
    """`--show-merging`."""
    parser.add_argument(
        "--show-merging", action="store_true", help="save pictures of which tokens merge"
    )
