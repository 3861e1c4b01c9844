"""The command line: `mmseg-tome COMMAND ...`, the same as `python tools/COMMAND.py ...`.

A module a command, which reads the command line and only then imports what does the work.
"""

from __future__ import annotations

import difflib
import multiprocessing
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "demo": "Train and test on rendered streets or persons: minutes on a CPU.",
    "configs": "List our configs: their names work in every command, from any folder.",
    "train": "Train a segmentation or pose model.",
    "test": "Test one on its data set.",
    "infer": "Run one on images, folders of images and videos.",
    "export": "Write one to a file that runs without this package: ONNX, .pt2, .pte or a web page.",
    "convert": "Convert a SegFormer checkpoint of another code base, or to Hugging Face.",
    "sweep": "Trained checkpoints under many merging settings: accuracy and speed.",
    "tune": "Search the merging that costs least for a speed-up, on your images and device.",
    "benchmark": "Latency, memory, FLOPs and tokens kept, beside the peer pipeline.",
    "benchmark-export": "Time exported networks in every runtime, beside torch and stock.",
    "benchmark-huggingface": "Time a Hugging Face SegFormer with and without merging.",
    "reproduce": "Measure a table of the paper again.",
    "visualize": "Draw what merges in images, and what that changes.",
    "explore": "See in a browser what merges in your images, and what that changes.",
    "check-kernels": "Check and time the Triton kernels against their torch twins.",
    "convert-camvid": "Convert the public CamVid release to the layout that configs read.",
}
"""What each command does; `a-b` is the module `a_b` here."""

if multiprocessing.parent_process() is not None:
    # A worker that was spawned imports its script anew: classes of the mm packages come next.
    from mmseg_tome import compat  # noqa: F401


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that comes first; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    name, rest = (argv[0], argv[1:]) if argv else ("", [])
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"; is it {close[0]}?" if close else ""
        what = f"there is no command {name!r}{hint}" if name else "which command?"
        print(f"{usage()}\n\nerror: {what}", file=sys.stderr)
        return 2
    sys.argv = [f"mmseg-tome {name}", *rest]  # the name that its help shows
    return import_module(f"mmseg_tome.cli.{name.replace('-', '_')}").main(rest)


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:{max(map(len, COMMANDS))}}  {what}" for name, what in COMMANDS.items()]
    start = (
        "usage: mmseg-tome COMMAND ...\n\nmmseg-tome COMMAND --help lists a command's options.\n"
    )
    return "\n".join([start, *lines])
