"""Safe loading of checkpoints, on both mm stacks.

A pickle runs whatever code its author put into it, and checkpoints come from strangers. Here a
checkpoint may hold tensors, plain Python values and the few harmless classes that mmengine
itself saves (`weights_only` semantics); anything else is refused by name. Nothing ever falls
back to unpickling code, unless the user says so.
"""

import codecs
import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch.torch_version import TorchVersion

from mmseg_tome.engine.errors import CheckpointError
from mmseg_tome.engine.restricted_pickle import restricted_pickle

TRUST_VARIABLE = "MMSEG_TOME_TRUST_CHECKPOINT"
TRUST_FLAG = "--trust-checkpoint"
SAFETENSORS = ".safetensors"


def install() -> None:
    """Make mmengine load every checkpoint through this module."""
    ours: dict[str, Callable] = {"": load_from_local}
    ours.update(dict.fromkeys(("http://", "https://"), load_from_http))
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        loader = ours.get(prefix) or _without_pickled_code(loader)
        CheckpointLoader.register_scheme(prefix, loader, force=True)


def trusts_checkpoints() -> bool:
    """Whether the user said that checkpoints may run code."""
    return os.environ.get(TRUST_VARIABLE, "") not in ("", "0")


def load_from_local(filename: str, map_location=None) -> dict:
    """Read a checkpoint file, `.safetensors` or anything `torch.save` wrote.

    Args:
        filename: Path of the file.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The checkpoint; for a `.safetensors` file `dict(state_dict=..., meta=...)`.

    Raises:
        CheckpointError: The file is missing, damaged, or wants to run code.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise CheckpointError(f"checkpoint {filename} does not exist")
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path, map_location)
    if trusts_checkpoints():
        return torch.load(path, map_location=map_location, weights_only=False)
    try:
        with _weights_only() as options:
            return torch.load(path, map_location=map_location, **options)
    except pickle.UnpicklingError as error:
        wanted = _refused(error) or ", ".join(_foreign_globals(path))
        if not wanted:
            # torch's own message advises to load without these restrictions.
            raise CheckpointError(f"{filename} is not a checkpoint that torch.save wrote") from None
        raise CheckpointError(
            f"{filename} was not loaded: besides tensors it wants to run {wanted}. A checkpoint "
            "that runs code can do anything on this machine. Only if you trust its author, pass "
            f"{TRUST_FLAG} or set {TRUST_VARIABLE}=1"
        ) from None
    except MemoryError:
        raise
    except (OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{filename} is truncated or not a checkpoint: {_first_line(error)}"
        ) from None
    except Exception:  # in bytes that are no pickle, an unpickler runs into anything
        raise CheckpointError(f"{filename} is damaged, or not a checkpoint") from None


def load_from_http(filename: str, map_location=None, model_dir: str | None = None) -> dict:
    """Download a checkpoint once (process 0 of a machine does), then read it.

    Args:
        filename: Its address.
        map_location: Where tensors go, as in `torch.load`.
        model_dir: Folder that keeps downloads; torch hub's by default.

    Raises:
        CheckpointError: It cannot be downloaded, or as in `load_from_local`.
    """
    folder = Path(model_dir) if model_dir else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(filename).path).name
    if not path.is_file() and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        _download(filename, path)
    if get_dist_info()[1] > 1:
        barrier()
    return load_from_local(str(path), map_location)


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The zoo's file names end in the first digits of their hash.
    digits = re.search(r"-([0-9a-f]{8,})\.[^.]+$", path.name)
    try:
        # Writes to a temporary file and moves it in place when complete and verified.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits and digits.group(1))
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {url} ({_first_line(error)}). Download it where there is a network "
            f"and put it at {path}, or name the file in place of the address"
        ) from None


def _load_safetensors(path: Path, map_location) -> dict:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise CheckpointError(
            f"reading {path} needs safetensors: pip install safetensors"
        ) from None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {_first_line(error)}") from None
    if map_location is not None and not callable(map_location):
        state = {name: tensor.to(map_location) for name, tensor in state.items()}
    return dict(state_dict=state, meta=dict(meta))


@contextmanager
def _weights_only() -> Iterator[dict]:
    """Yield the options with which `torch.load` runs no code of a file's choosing."""
    if TorchVersion(torch.__version__) >= (2, 6):
        with torch.serialization.safe_globals(_harmless_classes()):
            yield dict(weights_only=True)
    else:
        yield dict(weights_only=False, pickle_module=restricted_pickle(_harmless_classes()))


def _harmless_classes() -> list:
    """What mmengine's own checkpoints hold besides tensors: loss histories and numpy values.

    None of these runs code of the file's choosing. Loss histories also ask for `getattr`, with
    which a file reaches every function there is: they get `_history_statistic` in its place.
    """
    rebuild = [np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]]
    renamed = [  # numpy 2 renamed their module, and files hold either name
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in rebuild
        for core in ("core", "_core")
    ]
    scalars = "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 float32 float64"
    dtypes = {type(np.dtype(name)) for name in scalars.split()} | {type(np.dtype("U1"))}
    statistic = [(_history_statistic, f"{module}.getattr") for module in _BUILTINS]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, codecs.encode, *renamed, *statistic]


_BUILTINS = ("builtins", "__builtin__")  # the second in pickles of protocol 2, as torch's are


def _history_statistic(owner: type, name: str) -> Callable:
    """All that a loss history needs of `getattr`: its own methods, by name."""
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL getattr({owner!r}, {name!r})")
    return getattr(owner, name)


def _refused(error: Exception) -> str | None:
    """The global that `weights_only` loading refused, read from torch's message."""
    patterns = (
        r"Unsupported (?:global|class): GLOBAL (\S+)",
        r"Unsupported (?:global|class) (\S+)",
        r"(?:Can only build Tensor|Trying to call reduce for unrecognized function).* (\S+)",
    )
    for pattern in patterns:
        if match := re.search(pattern, str(error)):
            return match.group(1).strip("`'\"")
    return None


def _foreign_globals(path: Path) -> list[str]:
    """Names that a file's pickle looks up outside torch and numpy, found without running it."""
    found: dict[str, None] = {}
    strings: list[str] = []  # a protocol-4 global is named by the last two strings
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = [name for name in archive.namelist() if name.endswith("data.pkl")]
                stream = io.BytesIO(b"".join(archive.read(name) for name in inner))
        else:
            stream = io.BytesIO(path.read_bytes())
        while True:  # old files hold several pickles, one after the other
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    found[str(argument).replace(" ", ".")] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[".".join(strings[-2:])] = None
                elif isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, zipfile.BadZipFile):  # the end of the pickles, or a damaged file
        pass
    known = ("torch", "numpy", "collections")
    return [name for name in found if name.partition(".")[0] not in known]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _without_pickled_code(loader: Callable) -> Callable:
    """Let one of mmengine's other loaders (model zoos, object stores) unpickle no code either."""

    def load_from_elsewhere(filename: str, map_location=None) -> dict:
        if trusts_checkpoints():
            return loader(filename, map_location)
        plain = torch.load
        try:
            with _weights_only() as options:
                torch.load = lambda *args, **kwargs: plain(*args, **{**kwargs, **options})
                return loader(filename, map_location)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{filename} was not loaded: it wants to run {_refused(error)}. Only if you trust "
                f"its author, pass {TRUST_FLAG} or set {TRUST_VARIABLE}=1"
            ) from None
        finally:
            torch.load = plain

    # mmengine prints what follows "load_from_" of a loader's name.
    load_from_elsewhere.__name__ = getattr(loader, "__name__", "load_from_elsewhere")
    return load_from_elsewhere
