"""Options that commands share: one name for one thing, in every command."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from itertools import takewhile

from mmseg_tome.config import DTYPES, LAUNCHES, TRUST_FLAG, add_cfg_options
from mmseg_tome.config_names import find_config
from mmseg_tome.errors import UserError

WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")
"""How a name ends that is a checkpoint's where inputs may follow."""

CONFIG = ("CONFIG", "config file, or the name of one of ours: see mmseg-tome configs")
CHECKPOINT = ("[CHECKPOINT]", "weights to run; without, those of the config's load_from")


class Parser(argparse.ArgumentParser):
    """A command's parser: a short usage, and positional arguments that are options, too.

    Args:
        doc: Docstring of the command's module: what it does, `Examples:`, and command lines.
        positional: Name and meaning of each positional argument.
        allow_abbrev: As in argparse.
    """

    def __init__(self, doc: str, *positional: tuple[str, str], allow_abbrev: bool = False):
        about, _, examples = doc.partition("\nExamples:\n")
        names = " ".join(name for name, _ in positional)
        super().__init__(
            usage=f"%(prog)s {names} [options]".replace("  ", " "),
            description=about,
            epilog=f"examples:\n{examples}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=allow_abbrev,
        )
        self.known = {name.strip("[]. ").lower(): name for name, _ in positional}
        self.known |= {"inputs": "INPUT", "source": "IN", "output": "OUT"}
        width = max((len(name) for name, _ in positional), default=0)
        self._positionals.description = "\n".join(f"{n:{width}}  {h}" for n, h in positional)
        self.add_argument("words", nargs="*", help=argparse.SUPPRESS)

    def read(
        self, argv: Sequence[str] | None, *names: str, required: Sequence[str] = (), rest: str = ""
    ) -> argparse.Namespace:
        """Read a command line in which options may stand between positional arguments.

        A config is found by its name, and `--preset` becomes one of `--cfg-options`.

        Args:
            argv: The command line; None is the process's.
            names: What positional arguments are, in order, unless options give it.
            required: Of these, what must be given either way.
            rest: What all further ones are, a list; "" allows none.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        args, unknown = self.parse_known_intermixed_args(argv)
        if unknown:  # with what stands after it, which is its value and no positional argument
            after = argv[argv.index(unknown[0]) + 1 :]
            unknown += takewhile(lambda word: not word.startswith("-"), after)
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        words = vars(args).pop("words", None) or []
        kinds = {action.dest: action.type or str for action in self._actions}
        skipped = ["config"] if rest == "inputs" and getattr(args, "model", None) else []
        for name in names:
            later = name == "checkpoint" and rest and not (words and words[0].endswith(WEIGHTS))
            if getattr(args, name) is None and words and not later and name not in skipped:
                setattr(args, name, kinds.get(name, str)(words.pop(0)))
        if rest:
            setattr(args, rest, [*(getattr(args, rest, None) or ()), *words])
        elif words:
            self.error(f"unrecognized arguments: {' '.join(words)}")
        missing = [name for name in required if not getattr(args, name) and name not in skipped]
        if missing:
            shown = ", ".join(self.known[name] for name in missing)
            self.error(f"the following arguments are required: {shown}")
        if isinstance(getattr(args, "config", None), str):
            args.config = find_config(args.config)
        if getattr(args, "preset", None):
            preset = {"model.backbone.tome_cfg": args.preset}
            args.cfg_options = {**preset, **(args.cfg_options or {})}
        return args


def add_model(
    parser: argparse.ArgumentParser, preset: str | None = "none, hq, fast ...", **checkpoint
) -> argparse._ArgumentGroup:
    """`--config`, `--checkpoint` and what changes a config.

    Args:
        parser: Is extended.
        preset: Names that `--preset` takes; None for no such option.
        checkpoint: Of `--checkpoint`, as add_argument takes it, where it is not the usual.
    """
    group = parser.add_argument_group("model")
    group.add_argument("--config", metavar="FILE", help="the same as CONFIG")
    checkpoint = dict(metavar="FILE", help="the same as CHECKPOINT") | checkpoint
    group.add_argument("--checkpoint", **checkpoint)
    if preset:
        text = f"merge by this preset, one of {preset}, instead of as the config says"
        group.add_argument("--preset", metavar="NAME", help=text)
    add_config_arguments(group)
    return group


def add_config_arguments(parser) -> None:
    """The options of every command that reads a config and a checkpoint."""
    add_cfg_options(parser)
    parser.add_argument(
        TRUST_FLAG,
        action="store_true",
        help="let checkpoints run the code they contain: only for files whose author you trust",
    )


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """`--quiet` and `--verbose`."""
    parser = parser.add_argument_group("output").add_mutually_exclusive_group()
    parser.add_argument("--quiet", action="store_true", help="show results alone, no progress")
    parser.add_argument("--verbose", action="store_true", help="show mm's log and warnings")


def also(parser: argparse.ArgumentParser, option: str, *old: str) -> None:
    """Understand earlier spellings of an option, too, without showing them."""
    known = parser._option_string_actions
    known.update(dict.fromkeys(old, known[option]))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What training and testing share, besides the model: as in the mm tools."""
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
    add("--batch-size", type=at_least_1, metavar="N", help="images of a process at a time")
    add_device(group)
    add_launch(group)
    add("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none",
        help="how the processes of a distributed job are started")  # fmt: skip
    # torch's launcher passes this.
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    group = parser.add_argument_group("what is saved and shown")
    add = group.add_argument
    add("--work-dir", metavar="DIR", help="folder of logs, checkpoints and metrics")
    add("--show", action="store_true", help="show predictions in a window")
    add("--show-dir", metavar="DIR", help="folder to save painted predictions to")
    add_show_merging(group)
    text = "show every n-th sample (default: all), merging in every n-th batch (default: 500)"
    add("--interval", type=int, metavar="N", help=text)
    add("--wait-time", type=float, default=2, metavar="S", help="seconds that --show waits")


def add_device(parser, default: str | None = None, **several) -> None:
    """`--device`."""
    shown = default or "cuda if there"
    text = f"cpu, cuda or cuda:N (default: {shown})"
    default = [default] if several else default
    parser.add_argument("--device", default=default, metavar="DEVICE", help=text, **several)


def add_batch(parser, help: str, **options) -> None:
    """`--batch-size` of the commands whose attribute is `batch`."""
    parser.add_argument("--batch-size", dest="batch", type=int, metavar="N", help=help, **options)
    also(parser, "--batch-size", "--batch")


def add_presets(parser, default: list[str], help: str = "to compare") -> None:
    """`--presets`, several of them."""
    text = f"{help} (default: {' '.join(default)})"
    parser.add_argument("--presets", nargs="+", default=default, metavar="NAME", help=text)
    also(parser, "--presets", "--preset")


def see_only(device: str | None) -> None:
    """Let torch, before it is imported, see that device alone: mm takes the first that it sees.

    Raises:
        UserError: It is no device's name.
    """
    if device is None or device == "cuda":
        return
    match = re.fullmatch(r"cpu|cuda:(\d+)", device)
    if match is None:
        raise UserError(f"unknown device {device!r}; use cpu, cuda or cuda:N")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if match[1] is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif seen is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = match[1]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen.split(",")[int(match[1]) :][:1])


def add_launch(parser, default: str | None = None) -> None:
    """`--launch`; without a default it is up to the config, which our hooks take for `auto`."""
    parser.add_argument(
        "--launch",
        choices=LAUNCHES,
        default=default,
        help="how a GPU is given its work: by CUDA graphs, kernel by kernel (eager), or by graphs "
        "wherever that is safe (default: auto)",
    )


def add_dtype(parser, default: str | None = None) -> None:
    """`--dtype`: of the weights and of all that is computed, where nothing is trained."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=default,
        help="data type to compute in; half precision is that of the weights, not autocast "
        f"(default: {default or 'as the config says, float32 in ours'})",
    )


def add_show_merging(parser) -> None:
    """`--show-merging`."""
    text = "save pictures of which tokens merge"
    parser.add_argument("--show-merging", action="store_true", help=text)


def at_least_1(text: str) -> int:
    """A number of things, for `type`."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, for `type`."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return float(text)
