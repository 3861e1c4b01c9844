"""Safe loading of checkpoints, on both mm stacks and with torch alone.

Unpickling a file runs the code in it, and checkpoints come from untrusted sources. Here one may
hold tensors, plain Python values and what `harmless` lists (`weights_only` semantics); anything
else is refused by name. Code is unpickled only if the user says that the file is trusted.
"""

import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torch.distributed as dist

from mmseg_tome.checkpoints.harmless import harmless_only, settle
from mmseg_tome.checkpoints.wrappers import plain_names, unwrap
from mmseg_tome.config import TRUST_FLAG, TRUST_VARIABLE
from mmseg_tome.errors import CheckpointError, first_line

SAFETENSORS = ".safetensors"


SCHEMES: dict[str, Callable] = {}
"""Readers of checkpoints by what an address begins with, which go before mmengine's."""


def install() -> None:
    """Make mmengine load every checkpoint through this module."""
    from mmengine.runner import CheckpointLoader

    for prefix, loader in _loaders().items():
        CheckpointLoader.register_scheme(prefix, loader, force=True)


def load(name: str, map_location="cpu") -> dict:
    """Read a checkpoint from a file or from an address that mmengine knows.

    Raises:
        CheckpointError: As `load_from_local`, or it cannot be downloaded.
    """
    loaders = _loaders()
    prefix = max(prefix for prefix in loaders if re.match(prefix, name))  # the longest
    return loaders[prefix](name, map_location)


def _loaders() -> dict[str, Callable]:
    """By what addresses begin with: ours, and mmengine's where it is, which unpickle no code."""
    try:
        from mmengine.runner import CheckpointLoader
    except ImportError:
        return SCHEMES
    safe = {
        prefix: loader if loader.__module__ == __name__ else _without_pickled_code(loader)
        for prefix, loader in CheckpointLoader._schemes.items()
    }
    return {**safe, **SCHEMES}


def trusts_checkpoints() -> bool:
    """Whether the user trusts checkpoints to run code."""
    return os.environ.get(TRUST_VARIABLE, "") not in ("", "0")


def load_from_local(filename: str, map_location=None) -> dict:
    """Read a checkpoint file, `.safetensors` or anything `torch.save` wrote.

    Args:
        filename: Path of the file.
        map_location: Where tensors go, as in `torch.load`.

    Returns:
        The checkpoint; for a `.safetensors` file `dict(state_dict=..., meta=...)`; for one of
        another training tool what `unwrap` makes of it.

    Raises:
        CheckpointError: The file is missing, damaged, or wants to run code.
    """
    path = Path(filename).expanduser()
    if path.is_dir():
        raise CheckpointError(
            f"checkpoint {filename} is a folder: tools/convert_checkpoint.py makes a file of one "
            "from Hugging Face"
        )
    if not path.is_file():
        raise CheckpointError(f"checkpoint {filename} does not exist")
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path, map_location)
    if trusts_checkpoints():
        try:
            return unwrap(torch.load(path, map_location=map_location, weights_only=False))
        except Exception as error:  # whatever the file's code runs into
            raise CheckpointError(f"{filename} cannot be loaded: {first_line(error)}") from None
    try:
        with harmless_only():
            try:
                loaded = torch.load(path, map_location=map_location, weights_only=True)
            except pickle.UnpicklingError as error:
                if wanted := _wanted(path, error):
                    raise _refusal(filename, wanted) from None
                # torch's own message advises to load without these restrictions.
                raise CheckpointError(
                    f"{filename} is not a checkpoint that torch.save wrote"
                ) from None
        return unwrap(settle(loaded))
    except CheckpointError:
        raise
    except MemoryError:
        raise CheckpointError(
            f"{filename} is damaged, or too large for this machine's memory"
        ) from None
    except (OSError, RuntimeError, EOFError) as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{filename} is a TorchScript program, not a checkpoint"
            ) from None
        raise CheckpointError(
            f"{filename} is truncated or not a checkpoint: {first_line(error)}"
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
    return load_from_local(str(fetch(filename, model_dir)), map_location)


def fetch(url: str, model_dir: str | None = None) -> Path:
    """Download a checkpoint once (process 0 of a machine does); returns the file.

    Args:
        url: Its address.
        model_dir: Folder that keeps downloads; torch hub's by default.

    Raises:
        CheckpointError: It cannot be downloaded; the message says where to put the file.
    """
    folder = Path(model_dir) if model_dir else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if not path.is_file() and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        _download(url, path)
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
    return path


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The zoo's file names end in the first digits of their hash.
    digits = re.search(r"-([0-9a-f]{8,})\.[^.]+$", path.name)
    try:
        # Writes to a temporary file and moves it in place when complete and verified.
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits and digits.group(1))
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {url} ({first_line(error)}). Download it where there is a network "
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
        raise CheckpointError(f"{path} is not a safetensors file: {first_line(error)}") from None
    if map_location is not None and not callable(map_location):
        state = {name: tensor.to(map_location) for name, tensor in state.items()}
    return dict(state_dict=plain_names(state), meta=dict(meta))


def _refusal(filename: str, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{filename} was not loaded: besides tensors it wants to run {wanted}. A checkpoint "
        "that runs code can do anything on this machine. Only if you trust its author, pass "
        f"{TRUST_FLAG} or set {TRUST_VARIABLE}=1"
    )


def _wanted(path: Path, error: Exception) -> str:
    """What a file that was not loaded names beside harmless values; to be called as it was read."""
    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file of torch before 1.6, of another protocol, or damaged
        wanted = []
    return ", ".join(sorted(wanted)) or _refused(error) or ", ".join(_globals_of_protocol_4(path))


REFUSED = re.compile(
    r"unsupported (?:global: )?GLOBAL (\S+)"
    r"|(?:Can only build Tensor|Trying to call reduce for unrecognized function).* (\S+)",
    re.IGNORECASE,
)
"""How torch names what it refused."""


def _refused(error: Exception) -> str | None:
    """The global that `weights_only` loading refused, read from torch's message."""
    match = REFUSED.search(str(error))
    return (match[1] or match[2]).strip("`'\"") if match else None


def _globals_of_protocol_4(path: Path) -> list[str]:
    """What a pickle names that torch does not even look through: torch saves by protocol 2."""
    found: dict[str, None] = {}
    strings: list[str] = []  # a global is named by the last two strings
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = [name for name in archive.namelist() if name.endswith("data.pkl")]
                stream = io.BytesIO(b"".join(archive.read(name) for name in inner))
        else:
            stream = io.BytesIO(path.read_bytes())
        while True:  # old files hold several pickles, one after the other
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STACK_GLOBAL":
                    found[".".join(strings[-2:])] = None
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # the end of the pickles, or a damaged file
        pass
    return [name for name in found if name.partition(".")[0] not in ("torch", "collections")]


def _without_pickled_code(loader: Callable) -> Callable:
    """Wrap one of mmengine's other loaders (model zoos, object stores): it unpickles no code."""

    safely = dict(weights_only=True)

    def load_from_elsewhere(filename: str, map_location=None) -> dict:
        if trusts_checkpoints():
            return loader(filename, map_location)
        plain = torch.load
        try:
            with harmless_only():
                torch.load = lambda *args, **kwargs: plain(*args, **{**kwargs, **safely})
                return settle(loader(filename, map_location))
        except pickle.UnpicklingError as error:
            raise _refusal(filename, _refused(error) or "code") from None
        finally:
            torch.load = plain

    # mmengine prints what follows "load_from_" of a loader's name.
    load_from_elsewhere.__name__ = getattr(loader, "__name__", "load_from_elsewhere")
    return load_from_elsewhere


SCHEMES.update({"": load_from_local, "http://": load_from_http, "https://": load_from_http})
