"""Values that a training's own checkpoint holds come back; nothing else comes with them."""

import argparse
import collections
import datetime
import decimal
import pathlib
import pickle
import types

import numpy as np
import pytest
import torch
from addict import Dict as AddictDict
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleLR

from mmseg_tome.checkpoints import loading
from mmseg_tome.checkpoints.harmless import harmless_only
from mmseg_tome.checkpoints.loading import load_from_local
from mmseg_tome.errors import CheckpointError

VALUES = {
    "no bytes": b"",
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"ab"),
    "frozenset": frozenset([1, (2, 3)]),
    "no frozenset": frozenset(),
    "set": {1, 2},
    "range": range(1, 9, 2),
    "slice": slice(None, 3),
    "complex": 1 + 2j,
    "path": pathlib.Path("a/b"),
    "pure path": pathlib.PurePosixPath("/a"),
    "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.time(1, 2),
    "timedelta": datetime.timedelta(days=1, seconds=2),
    "decimal": decimal.Decimal("0.1"),
    "ordered": collections.OrderedDict(b=1, a=2),
    "counter": collections.Counter("aab"),
    "namespace": argparse.Namespace(a=[1]),
    "simple namespace": types.SimpleNamespace(a=1),
    "type": int,
    "type of numpy": np.float32,
    "dtype": np.dtype("uint8"),
    "dtype, big endian": np.dtype(">i4"),
    "dtype as key": {np.dtype("f4"): np.dtype("f8")},
    "nested": {"a": [(np.dtype("u1"), {"b": frozenset([range(2)])})]},
    "size": torch.Size([1, 2]),
    "large": 2**1000,
}
ARRAYS = {
    **{name: np.arange(-3, 3).astype(name) for name in ("i1", "u2", "i8", "f2", "f8", "c16", "?")},
    "no skeleton": np.array([], np.uint8),
    "no links": np.zeros((0, 2), np.int64),
    "big endian": np.arange(3, dtype=">f4"),
    "texts": np.array([["head", "hand"], ["", "foot"]]),
    "bytes": np.array([b"a", b"bcd"]),
    "times": np.array(["2026-01-01T00", "2026-01-02T00"], "M8[6h]"),
    "time spans": np.array([1, 2], "m8[ms]"),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "no dimensions": np.array(3.5),
    "fields": np.array([(1, 2.5, [1, 2])], [("a", "u1"), ("b", ">f4"), ("c", "i2", (2,))]),
    "objects": np.array([["a", None], [frozenset([1]), np.dtype("f4")]], object),
    "no objects": np.array([], object),
    "not owned": np.arange(6).reshape(2, 3)[:, ::2],
}


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def read_back(request, tmp_path):
    """Save a value in a checkpoint and read that."""

    def run(value):
        content = dict(state_dict={"w": torch.ones(2)}, meta=dict(value=value, again=[value]))
        path = tmp_path / "own.pth"
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        loaded = load_from_local(str(path))
        assert loaded["state_dict"]["w"].tolist() == [1, 1]
        return loaded["meta"]["value"]

    return run


@pytest.mark.parametrize("name", VALUES)
def test_values(read_back, name):
    found = read_back(VALUES[name])
    assert found == VALUES[name]
    assert type(found) is type(VALUES[name])


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(read_back, name):
    found, array = read_back(ARRAYS[name]), ARRAYS[name]
    assert type(found) is np.ndarray
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert repr(found.tolist()) == repr(array.tolist())
    assert found.flags.writeable
    assert found.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("name", [n for n in ARRAYS if "object" not in n and ARRAYS[n].size])
def test_scalars_of_numpy(read_back, name):
    scalar = ARRAYS[name].reshape(-1)[0]
    found = read_back(scalar)
    assert type(found) is type(scalar)
    assert repr(found) == repr(scalar)


@pytest.mark.parametrize("masks", [[True, False], False])
def test_masked_arrays(read_back, masks):
    found = read_back(np.ma.MaskedArray([1.5, 2], masks, fill_value=7))
    assert isinstance(found, np.ma.MaskedArray)
    assert found.filled().tolist() == [7 if masks else 1.5, 2]
    assert found.fill_value == 7


def test_the_masked_value(read_back):
    assert read_back(np.ma.masked) is np.ma.masked


@pytest.mark.parametrize(
    "value",
    [
        ConfigDict(x=1, y=dict(z=[dict(u=2)])),
        AddictDict(x=1, y=dict(z=[dict(u=2)])),
        collections.defaultdict(list, x=1, y=dict(z=[dict(u=2)])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_dicts_are_plain_ones(read_back, value):
    found = read_back(value)
    assert found == dict(x=1, y=dict(z=[dict(u=2)]))
    assert type(found) in (dict, collections.OrderedDict)
    assert type(found["y"]["z"][0]) in (dict, collections.OrderedDict)


def test_a_deque_is_a_list(read_back):
    assert read_back(collections.deque([1, 2], maxlen=2)) == [1, 2]


def test_what_is_shared_stays_shared(read_back):
    array = np.arange(3)
    one, two = read_back([(array, 1), [array]])
    assert one[0] is two[0]


def test_what_holds_itself(read_back):
    value = dict(dtype=np.dtype("u1"))
    value["self"] = [value]
    found = read_back(value)
    assert found["self"][0] is found
    assert found["dtype"] == np.uint8


def test_loss_histories(read_back):
    history = HistoryBuffer([0.5, 0.25], [1, 3], max_length=10)
    history.statistics("mean")
    found = read_back(dict(loss=history))["loss"]
    assert type(found) is HistoryBuffer
    assert [values.tolist() for values in found.data] == [[0.5, 0.25], [1, 3]]
    assert found.max_length == 10
    found.update(1.0)
    assert found.statistics("max", 3) == 1.0


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_a_one_cycle_schedule_goes_on(read_back, strategy):
    def schedule():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
        return OneCycleLR(optimizer, eta_max=1.0, total_steps=9, anneal_strategy=strategy)

    first, second = schedule(), schedule()
    for _ in range(4):
        first.step()
    second.load_state_dict(read_back(first.state_dict()))
    second._global_step = first._global_step
    second.optimizer.param_groups[0].update(first.optimizer.param_groups[0])
    for scheduler in (first, second):
        scheduler.step()
    assert second.get_last_value() == first.get_last_value()


class Call:
    """Unpickling this calls a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    "call",
    [
        (bytes, 10),
        (getattr, HistoryBuffer, "__init__"),
        (getattr, torch.Tensor, "numpy"),
        (str, 1),
        (int, "1"),
        (dict,),
        (np.ndarray, (3,)),
        (np.float32, 1.0),
        (eval, "1"),
        (print, "run"),
        (pickle.loads, b"."),
    ],
    ids=lambda call: f"{call[0].__name__}-{len(call)}",
)
def test_calls_are_refused_by_name(read_back, call):
    with pytest.raises(CheckpointError, match=rf"wants to run \S*{call[0].__name__}") as caught:
        read_back(Call(*call))
    assert "\n" not in str(caught.value)
    assert loading.TRUST_FLAG in str(caught.value)


class Build:
    """Unpickling this makes an object and gives it a state."""

    def __init__(self, make, state):
        self.make, self.state = make, state

    def __reduce__(self):
        return (*self.make, self.state)


def made_by_numpy(array):
    return array.__reduce__()[:2]


@pytest.mark.parametrize(
    ("dtype_state", "array_state"),
    [
        # an array of objects that says it is one of bytes, which would be taken for addresses
        ((3, "|", None, None, None, -1, -1, 0), (1, (1,), None, False, b"A" * 8)),
        ((3, "|", None, None, None, -1, -1, 63), (1, (1,), None, False, b"A" * 8)),
        ((3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0), (1, (1,), None, False, b"A")),
    ],
)
def test_no_bytes_become_addresses(read_back, dtype_state, array_state):
    dtype = Build((np.dtype, ("O8", False, True)), dtype_state)
    state = (*array_state[:2], dtype, *array_state[3:])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_back(Build(made_by_numpy(np.zeros(0)), state))


@pytest.mark.parametrize("itemsize", [-4, 2**40])
def test_sizes_that_cannot_be(read_back, itemsize):
    dtype = Build((np.dtype, ("U0", False, True)), (3, "<", None, None, None, itemsize, 4, 8))
    state = (1, (3,), dtype, False, b"A" * 8)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_back(Build(made_by_numpy(np.zeros(0)), state))


def test_what_the_process_allowed_stays_allowed():
    torch.serialization.add_safe_globals([Call, (bytes, "builtins.bytes")])
    try:
        before = set(torch.serialization.get_safe_globals())
        with harmless_only():
            within = torch.serialization.get_safe_globals()
            assert Call in within
            assert (bytes, "builtins.bytes") not in within
        assert set(torch.serialization.get_safe_globals()) == before
    finally:
        torch.serialization.clear_safe_globals()


def test_a_program_of_torchscript_is_named(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "program.pt"))
    with pytest.raises(CheckpointError, match="TorchScript program, not a checkpoint"):
        load_from_local(str(tmp_path / "program.pt"))


def test_a_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder: .*convert_checkpoint\.py"):
        load_from_local(str(tmp_path))


def test_a_trusted_file_that_is_damaged_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(loading.TRUST_VARIABLE, "1")
    (tmp_path / "a.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be loaded"):
        load_from_local(str(tmp_path / "a.pth"))
