"""Which implementation runs, and what is said where the wanted one cannot."""

import os
import subprocess
import sys

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.ops import backend


@pytest.fixture(autouse=True)
def restore():
    before = backend._requested, backend._interpreted
    yield
    backend._requested, backend._interpreted = before
    backend._device_problem.cache_clear()


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_without_a_wish_a_cpu_uses_torch():
    ops.set_backend("auto")
    assert not ops.use_triton(torch.ones(1))
    assert ops.segment_order(torch.zeros(1, 3, dtype=torch.int64), 1) is None


def test_an_unknown_backend_is_named():
    with pytest.raises(ops.BackendError, match="unknown backend 'cuda'; allowed: auto, torch, tri"):
        ops.set_backend("cuda")


def test_triton_that_is_not_there_is_an_error_only_where_asked_for(monkeypatch):
    monkeypatch.setattr(backend, "HAVE_TRITON", False)
    ops.set_backend("torch")
    with pytest.raises(ops.BackendError, match="asked for, but Triton is not installed"):
        ops.set_backend("triton")
    assert ops.get_backend() == "torch"


def test_triton_that_cannot_be_imported(monkeypatch):
    def fail(name):
        raise OSError("no libstdc++")

    monkeypatch.setattr(backend, "HAVE_TRITON", True)
    monkeypatch.setattr(backend.importlib, "import_module", fail)
    with pytest.raises(ops.BackendError, match="cannot be imported: OSError: no libstdc"):
        ops.set_backend("triton")
    with pytest.warns(UserWarning, match="runs without its Triton kernels: .* no libstdc"):
        assert backend._device_problem(0)


def test_an_old_gpu_uses_torch_and_says_so(monkeypatch):
    monkeypatch.setattr(backend, "_import_problem", lambda: None)
    monkeypatch.setattr(backend, "HAVE_TRITON", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    with pytest.warns(UserWarning, match="Tesla T4 is older than compute capability 8.0"):
        assert backend._device_problem(0)


def test_triton_on_a_cpu_without_its_interpreter(monkeypatch):
    monkeypatch.setattr(backend, "_requested", "triton")
    monkeypatch.setattr(backend, "_interpreted", False)
    with pytest.raises(ops.BackendError, match=r"a tensor is on cpu: .* TRITON_INTERPRET=1"):
        ops.match(torch.ones(1, 3, 2), torch.tensor([0]), torch.tensor([1]))


@pytest.mark.usefixtures("kernels")
def test_float64_always_uses_torch(device):
    x = torch.ones(1, 1, device=device)
    assert ops.use_triton(x)
    assert not ops.use_triton(x, x.double())


def test_the_package_imports_no_triton_and_reads_the_environment_variable():
    code = (
        "import sys, mmseg_tome.merging; from mmseg_tome import ops;"
        "print(ops.get_backend(), 'triton' in sys.modules)"
    )
    assert run_python(code, MMSEG_TOME_BACKEND="torch").stdout.strip() == "torch False"
    assert "unknown backend 'fast'" in run_python(code, MMSEG_TOME_BACKEND="fast").stderr


def test_a_map_that_does_not_fit_is_refused(device):
    slot = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"slot map \(2, 4\) does not fit \(3, 4, 1\)"):
        ops.segment_mean(torch.ones(3, 4, 1), slot, 1)
    with pytest.raises(ValueError, match=r"does not fit \(2, 5, 1\)"):
        ops.gather_segments_add(torch.ones(2, 1, 1), slot, torch.ones(2, 5, 1))
