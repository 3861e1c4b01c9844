"""Whatever bytes a checkpoint file has: it loads, or one line names it. None of its code runs.

`PROPERTY_EXAMPLES` sets how many cases each property is tried on.
"""

import builtins
import collections
import datetime
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmseg_tome.checkpoints import loading
from mmseg_tome.errors import CheckpointError

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

settings = hypothesis.settings(max_examples=int(os.environ.get("PROPERTY_EXAMPLES", 150)))
pytestmark = pytest.mark.filterwarnings("ignore")

WATCHED = ("exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "code.")
HARMLESS = ("os.listdir", "os.scandir")
ran: list[str] = []
watching = False


def watch(event: str, arguments) -> None:
    codec = event == "exec" and "encodings" in pathlib.Path(arguments[0].co_filename).parts
    if watching and event.startswith(WATCHED) and event not in HARMLESS and not codec:
        ran.append(f"{event} {arguments}")


@pytest.fixture(scope="module", autouse=True)
def hook():
    """Python tells of each process, folder and piece of code that it makes, from here on."""
    sys.addaudithook(watch)
    load(saved(dict(state_dict={})))  # what torch imports when it is first used
    ran.clear()


def saved(content, zipped=True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def load(content: bytes, ending=".pth"):
    """Read a file of these bytes: what it holds, or the line that refuses it."""
    global watching
    path = pathlib.Path(tempfile.gettempdir()) / f"property_{os.getpid()}{ending}"
    path.write_bytes(content)
    ran.clear()
    watching = True
    try:
        found = loading.load_from_local(str(path))
    except CheckpointError as error:
        found = error
    finally:
        watching = False
        path.unlink()
    assert not ran
    refused = isinstance(found, CheckpointError)
    assert not refused or ("\n" not in str(found) and path.name in str(found))
    return found


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


OWN = dict(
    state_dict=collections.OrderedDict(w=torch.ones(2, 3), b=torch.nn.Parameter(torch.ones(1))),
    message_hub=dict(log_scalars=dict(loss=HistoryBuffer([0.5], [1])), lr=np.float64(0.1)),
    meta=dict(
        palette=np.arange(6, dtype=np.uint8).reshape(2, 3),
        names=np.array(["a", "bc"]),
        objects=np.array([None, "a"], object),
        links=np.array([], np.uint8),
        masked=np.ma.MaskedArray([1.0, 2], [True, False]),
        fields=np.zeros(2, [("a", "u1"), ("b", "M8[s]")]),
        config=ConfigDict(a=dict(b=[range(3), frozenset([1]), slice(2)])),
        time=datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        path=pathlib.Path("a/b"),
    ),
)
FILES = [
    saved(OWN),
    saved(OWN, zipped=False),
    saved(dict(OWN, evil=Call(os.system, "true"))),
    saved(dict(OWN, evil=Call(eval, "1")), zipped=False),
    pickle.dumps(dict(a=1, evil=Call(os.system, "true"))),
]
edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([b"R", b"b", b"\x81", b"."])),
    ),
    min_size=1,
    max_size=5,
)


def edited(content: bytes, changes) -> bytes:
    content = bytearray(content)
    for kind, place, new in changes:
        at = int(place * len(content))
        if kind == "set":
            content[at : at + len(new)] = new
        elif kind == "insert":
            content[at:at] = new
        elif kind == "delete":
            del content[at : at + len(new)]
        elif kind == "cut":
            del content[at:]
        else:
            content[at:at] = content[at : at + 8 * len(new)]
    return bytes(content)


@settings
@hypothesis.given(st.sampled_from(FILES), edits)
def test_changed_files(content, changes):
    load(edited(content, changes))


@settings
@hypothesis.given(st.sampled_from([FILES[0], FILES[2]]), edits)
def test_changed_pickles_in_whole_archives(content, changes):
    """The archive's own checksums would catch what `test_changed_files` changes in the pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry, edited(data, changes) if "data.pkl" in entry.filename else data)
    load(stream.getvalue())


@settings
@hypothesis.given(st.binary(max_size=200), st.sampled_from([".pth", ".safetensors"]))
def test_any_bytes(content, ending):
    assert isinstance(load(content, ending), CheckpointError)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.complex_numbers(allow_nan=False), st.datetimes(), st.dates(), st.timedeltas(),
    st.builds(range, st.integers(-9, 9)), st.frozensets(st.integers()), st.sets(st.text()),
    st.decimals(allow_nan=False),
    st.sampled_from([int, np.float32, torch.float16, torch.Size([1])]),
    st.builds(pathlib.PurePosixPath, st.text("abc./", max_size=5)),
)  # fmt: skip


def containers(parts):
    return st.one_of(
        st.lists(parts, max_size=3),
        st.dictionaries(st.text(max_size=3), parts, max_size=3),
        st.tuples(parts, parts),
    )


values = st.recursive(leaves, containers, max_leaves=12)


@settings
@hypothesis.given(values, st.booleans())
def test_harmless_values_come_back(value, zipped):
    found = load(saved(dict(meta=value), zipped))
    assert not isinstance(found, CheckpointError)
    assert found["meta"] == value


functions = st.sampled_from(
    [os.system, os.mkdir, subprocess.Popen, subprocess.run, eval, exec, compile, open, getattr,
     setattr, globals, __import__, pickle.loads, builtins.print, pathlib.Path.touch, np.load,
     np.fromfile, torch.load, torch.hub.load, bytes, dict.fromkeys, list.append]
)  # fmt: skip
arguments = st.lists(leaves, min_size=1, max_size=2)
calls = st.builds(lambda function, given: Call(function, *given), functions, arguments)
holders = st.recursive(
    calls,
    lambda parts: st.one_of(
        st.lists(parts, min_size=1, max_size=2),
        st.dictionaries(st.text(), parts, min_size=1, max_size=2),
    ),
    max_leaves=4,
)


@settings
@hypothesis.given(holders, values, st.booleans())
def test_a_call_is_refused_wherever_it_is(evil, value, zipped):
    found = load(saved([value, evil], zipped))
    assert isinstance(found, CheckpointError)
    assert "wants to run" in str(found)
