"""What a checkpoint may hold besides tensors: values, named one by one, none of which runs code.

`torch.load(weights_only=True)` takes tensors and plain Python values. mmengine saves more: loss
histories, the states of schedulers, and the data set's description, in which users write what
Python and numpy have. Each name below stands for a function of ours that makes this value and no
other. Where torch's reader would take a value apart again (it fills plain dicts and lists only),
the function gives a stand-in, which `settle` replaces once the file is read.
"""

import argparse
import collections
import datetime
import decimal
import functools
import os
import pathlib
import pickle
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mmseg_tome.checkpoints import numpy_pickles

METHODS = {
    "HistoryBuffer": ("min", "max", "current", "mean"),
    "OneCycleParamScheduler": ("_annealing_cos", "_annealing_linear"),
}
"""What mmengine's loss histories and schedulers ask `getattr` for, which could reach anything."""


@functools.cache
def _of_mmengine() -> dict[str, type]:
    """These classes; without mmengine, what holds their values."""
    try:
        from mmengine.logging import HistoryBuffer
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
    except ImportError:
        bases = (types.SimpleNamespace,)
        return {name: type(name, bases, dict.fromkeys(has)) for name, has in METHODS.items()}
    return dict(HistoryBuffer=HistoryBuffer, OneCycleParamScheduler=OneCycleParamScheduler)


@contextmanager
def harmless_only() -> Iterator[None]:
    """Let `torch.load(weights_only=True)` make, in this context, what this module lists.

    What the process had allowed before stays allowed, but for names that are on our list.
    """
    before = torch.serialization.get_safe_globals()
    ours = _harmless()
    others = [entry for entry in before if _name(entry) not in ours]
    try:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)
        torch.serialization.add_safe_globals([(make, name) for name, make in ours.items()])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def settle(value):
    """Replace all stand-ins in what was read, in place where that is possible.

    Raises:
        Exception: A stand-in describes something that cannot be.
    """
    return _Settler()(value)


class _Settler:
    def __init__(self):
        self._done: dict[int, tuple] = {}  # by id; what it was is kept, or its id would be reused

    def __call__(self, value):
        if id(value) in self._done:
            return self._done[id(value)][1]
        stand_in = hasattr(type(value), "settled")
        if not stand_in and not isinstance(value, _CONTAINERS):
            return value
        if stand_in:
            result = value.settled(self)
        elif isinstance(value, (tuple, frozenset)):
            result = self._rebuilt(value)
        else:
            self._done[id(value)] = (value, value)  # it may hold itself
            result = value
            self._fill(value)
        self._done[id(value)] = (value, result)
        return result

    def _rebuilt(self, value):
        parts = list(value)
        settled = [self(part) for part in parts]
        if all(new is old for new, old in zip(settled, parts, strict=True)):
            return value
        return type(value)(settled)

    def _fill(self, value) -> None:
        if isinstance(value, dict):
            for key in list(value):
                new, content = self(key), self(value[key])
                if new is not key:
                    del value[key]
                value[new] = content
        elif isinstance(value, list):
            value[:] = [self(part) for part in value]
        elif isinstance(value, set):
            parts = [self(part) for part in value]
            value.clear()
            value.update(parts)
        if hasattr(value, "__dict__"):
            self._fill(vars(value))


_CONTAINERS = (
    *(dict, list, tuple, set, frozenset),
    *(argparse.Namespace, types.SimpleNamespace),
)


class _Type:
    """A class, which a file may name, and call as far as `make` goes."""

    def __init__(self, found: type, make: Callable | None = None):
        self._found, self._make = found, make

    def __call__(self, *args):
        if self._make is None:
            raise _refusal(f"{self._found.__module__}.{self._found.__qualname__}")
        return self._make(*args)

    def settled(self, settle) -> type:
        return self._found


class _History:
    """What a pickle says of a loss history. Its statistics are the class's, not the file's."""

    def __setstate__(self, state: dict) -> None:
        self._state = dict(state)

    def settled(self, settle):
        history = _of_mmengine()["HistoryBuffer"](max_length=int(self._state["max_length"]))
        for name in ("_log_history", "_count_history"):
            values = settle(self._state[name])
            if not isinstance(values, np.ndarray):
                raise TypeError(f"a history of {type(values).__name__}")
            setattr(history, name, values)
        return history


def _method(owner=None, name=None, *default) -> Callable:
    """`getattr`, of the few names that are needed."""
    known = _of_mmengine()
    owner = known["HistoryBuffer"] if owner is _History else getattr(owner, "_found", owner)
    kind = owner if isinstance(owner, type) else type(owner)
    if kind not in known.values() or name not in METHODS[kind.__name__]:
        raise _refusal(f"getattr({owner},{name})")
    return getattr(owner, name)


def _empty_bytes(*content) -> bytes:
    """`bytes`, without arguments only: others come as texts, which torch's reader decodes."""
    if content:
        raise _refusal("bytes, called with arguments")
    return b""


class _Range:
    """A range, which nothing can walk through before the file is read."""

    def __init__(self, *bounds: int):
        self._range = range(*bounds)

    def settled(self, settle) -> range:
        return self._range


def _dict(content: dict) -> dict:
    return dict(_checked(content, dict))


def _default_dict(factory=None) -> dict:
    """A plain dict: torch's reader fills no other."""
    return {}


def _deque(content=(), length=None) -> list:
    return list(_checked(content, (list, tuple)))


def _frozenset(content=()) -> frozenset:
    return frozenset(_checked(content, (list, tuple)))


def _checked(value, kind):
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in the place of another type")
    return value


def _path(name: str) -> Callable:
    """Paths of the other system become pure ones, which cannot be opened."""
    foreign = "WindowsPath" if os.name == "posix" else "PosixPath"
    kind = getattr(pathlib, f"Pure{name}" if name == foreign else name)

    def make(*parts: str):
        return kind(*(_checked(part, str) for part in parts))

    return make


def _refusal(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"Unsupported global: GLOBAL {name}")


@functools.cache
def _harmless() -> dict[str, Callable]:
    """The functions and stand-ins by the names that pickles have for them."""
    found: dict[str, Callable] = {
        # mmengine's own; a config's dicts come back as plain ones
        "mmengine.logging.history_buffer.HistoryBuffer": _History,
        "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler": _Type(
            _of_mmengine()["OneCycleParamScheduler"]
        ),
        "builtins.getattr": _method,
        "mmengine.config.config.ConfigDict": _dict,
        # what mmcv 1 and addict make is filled as an OrderedDict is
        "mmcv.utils.config.ConfigDict": collections.OrderedDict,
        "addict.addict.Dict": collections.OrderedDict,
        # Python's
        "builtins.bytes": _Type(bytes, _empty_bytes),
        "builtins.frozenset": _Type(frozenset, _frozenset),
        "builtins.range": _Type(range, _Range),
        "builtins.slice": _Type(slice, slice),
        "collections.defaultdict": _default_dict,
        "collections.deque": _deque,
        "argparse.Namespace": argparse.Namespace,
        "types.SimpleNamespace": types.SimpleNamespace,
        "decimal.Decimal": decimal.Decimal,
        # numpy's
        "numpy.dtype": numpy_pickles.DType,
        "numpy.ma.core._mareconstruct": numpy_pickles.reconstruct_masked,
        "numpy.ma.core.MaskedConstant": lambda: np.ma.masked,
    }
    for kind in (bool, int, float, str, list, tuple, dict, object):
        found[f"builtins.{kind.__name__}"] = _Type(kind)
    for name in ("date", "time", "datetime", "timedelta", "timezone"):
        found[f"datetime.{name}"] = getattr(datetime, name)
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
        for module in ("pathlib", "pathlib._local"):  # the second in Python 3.13
            found[f"{module}.{name}"] = _path(name)
    for core in ("core", "_core"):  # numpy 2 renamed it, and files hold either name
        found[f"numpy.{core}.multiarray._reconstruct"] = numpy_pickles.reconstruct
        found[f"numpy.{core}.multiarray.scalar"] = numpy_pickles.scalar
    for name in ("ndarray", "memmap"):
        found[f"numpy.{name}"] = _Type(np.ndarray)
    for module in ("numpy.ma", "numpy.ma.core"):
        found[f"{module}.MaskedArray"] = _Type(np.ma.MaskedArray)
    for kind in set(np.sctypeDict.values()):
        found[f"numpy.{kind.__name__}"] = _Type(kind)
    for stand_in in (numpy_pickles.Array, numpy_pickles.MaskedArray):
        found[_full_name(stand_in)] = stand_in  # torch fills listed ones only
    found["numpy.bool_"] = _Type(np.bool_)  # its name before numpy 2
    return found


def _name(entry) -> str:
    return entry[1] if isinstance(entry, tuple) else _full_name(entry)


def _full_name(found) -> str:
    return f"{found.__module__}.{found.__qualname__}"
