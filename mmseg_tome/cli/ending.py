"""How every command ends: user errors are said in one line, a bug keeps its traceback."""

from __future__ import annotations

import difflib
import errno
import gc
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import FrameType

from mmseg_tome.errors import MMStackError, UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Full disks and missing rights."""

UNEXPECTED = re.compile(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)$")
UNREGISTERED = re.compile(r"(\S+) is not in the (\S+) registry")


def run(
    work: Callable[[], int | None], tool: str | None = None, when_interrupted: str | None = None
) -> int:
    """Do a command's work; user errors and interruptions end in one line.

    Args:
        work: Reads the command line, imports what it needs, returns the exit code; None is 0.
        tool: Begins the line.
        when_interrupted: What an interrupted user should know; None lets the interruption pass.

    Returns:
        The exit code of `work`, `EXIT_USER_ERROR` or `EXIT_INTERRUPTED`.
    """
    for message in ("Fail to import ``MultiScaleDeformable", "pkg_resources is deprecated"):
        warnings.filterwarnings("ignore", message=message)
    logging.raiseExceptions = False  # a log that a full disk does not take, in a traceback a line
    name = f"{tool}: " if tool else ""
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := explain(error)) is None:
            raise
        print(f"{name}error: {message}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if when_interrupted is None:
            raise
        print(f"{name}interrupted; {when_interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        _end_processes()


def command(
    parse: Callable[[Sequence[str] | None], object],
    work: str | Callable[[object], int | None],
    tool: str | None = None,
    when_interrupted: str | None = None,
) -> Callable[[Sequence[str] | None], int]:
    """The `main(argv)` of a command: read its line, then do its work, which ends as in `run`.

    Args:
        parse: Reads the line.
        work: Is given what was read: a function, or "module:function", which is imported then.
        tool: As in `run`.
        when_interrupted: As in `run`.
    """

    def read_and_do(argv: Sequence[str] | None) -> int | None:
        args = parse(argv)
        module, _, function = work.partition(":") if isinstance(work, str) else ("", "", "")
        return (getattr(import_module(module), function) if module else work)(args)

    def main(argv: Sequence[str] | None = None) -> int:
        return run(lambda: read_and_do(argv), tool, when_interrupted)

    return main


def _end_processes() -> None:
    """End torch's process group: gloo's threads abort a process that ends while they are alive."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_initialized():
        gc.collect()  # the model holds them, too
        dist.destroy_process_group()


def ignore_developer_warnings() -> None:
    """Silence what mm tells developers of losses and data sets whenever a model is built."""
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mm(seg|pose|engine)\.")


def explain(error: BaseException) -> str | None:
    """What a command says instead of a traceback.

    Args:
        error: What ended it.

    Returns:
        One line, or None for what is no mistake of the user's.
    """
    if isinstance(error, UserError):
        return _one_line(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mmseg_tome"):
        return _no_stack(error) or str(error)
    if isinstance(error, OSError) and error.errno in MENDABLE:
        place = f" {error.filename}" if error.filename else ""
        return f"cannot read or write{place}: {error.strerror}"
    if "mmengine" not in sys.modules:
        return None
    from mmseg_tome.datasets.checks import explain_empty

    if isinstance(error, ValueError) and (empty := explain_empty(error)):
        return str(empty)
    if isinstance(error, (TypeError, KeyError)):
        return _misspelt(error)
    return None


def _no_stack(error: ModuleNotFoundError) -> str | None:
    """What to install, if what is missing is the mm stack."""
    if (error.name or "").partition(".")[0] not in ("mmengine", "mmcv", "mmseg"):
        return None
    try:
        import mmseg_tome.compat  # noqa: F401  (says so itself)
    except MMStackError as missing:
        return _one_line(missing)
    except ImportError:
        pass
    return None


def _one_line(error: Exception) -> str:
    # mmengine prefixes the class that it was building, once per level.
    text = re.sub(r"^(class `\w+` in \S+: )+", "", str(error))
    return " ".join(text.split("\n"))


def _misspelt(error: Exception) -> str | None:
    """A key or class of the config that is not there, if that is what `error` is about."""
    built = [_built(frame) for frame in _building(error)]
    if not built:
        return None
    text = str(error.args[0] if error.args else error)
    if match := UNREGISTERED.search(text):
        name, registry = match[1].strip("'\"`"), built[-1][2]
        return f"config: there is no class {name} among {match[2]}{_meant(name, _known(registry))}"
    kind, arguments, _ = built[-1]
    if kind is None:
        return None
    if (match := UNEXPECTED.search(text)) and match[2] in arguments:
        known = _parameters(kind)
        return f"config: {kind.__name__} takes no {match[2]}{_meant(match[2], known)}"
    if (match := MISSING.search(text)) and _is_init_of(kind, text):
        return f"config: {kind.__name__} needs {match[1]}"
    return None


def _building(error: BaseException) -> Iterator[FrameType]:
    """The calls in which mmengine builds something from a config, the innermost last."""
    chain = []
    while error is not None:  # mmengine wraps errors of what it builds
        chain.append(error)
        error = error.__context__
    for each in chain:
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_code.co_name == "build_from_cfg" and "registry" in frame.f_locals:
                yield frame


def _built(frame: FrameType) -> tuple[type | None, dict, object]:
    """Class, arguments and registry of such a call."""
    found = frame.f_locals
    return found.get("obj_cls"), found.get("args") or {}, found["registry"]


def _is_init_of(kind: type, text: str) -> bool:
    names = {base.__name__ for base in getattr(kind, "__mro__", (kind,))}
    return bool(match := re.search(r"(\w+)(?:\.__init__)?\(\) missing", text)) and (
        match[1] in names or match[1] == "__init__"
    )


def _parameters(kind: type) -> set[str]:
    """What a class takes, also by the `**kwargs` that it hands on."""
    known: set[str] = set()
    for base in getattr(kind, "__mro__", (kind,)):
        init = base.__dict__.get("__init__") if isinstance(base, type) else base
        if inspect.isfunction(init):
            known |= set(inspect.signature(init).parameters)
    return known - {"self", "args", "kwargs"}


def _known(registry) -> set[str]:
    """Names of a registry's classes, those of ours with their scope."""
    from mmengine.registry import Registry

    from mmseg_tome import registry as ours

    known: set[str] = set()
    while registry is not None:
        known |= set(registry.module_dict)
        registry = registry.parent
    for each in vars(ours).values():
        if isinstance(each, Registry):
            known |= {f"mmseg_tome.{name}" for name in each.module_dict}
    return known


def _meant(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), 1, 0.7)
    return f"; is it {close[0]}?" if close else ""
