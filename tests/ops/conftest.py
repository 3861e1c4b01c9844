"""Kernels run on the GPU where there is one, elsewhere in Triton's interpreter."""

import importlib
import os
import sys

import pytest
import torch

from mmseg_tome import ops
from mmseg_tome.ops import backend

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Triton decides for good when it is first imported: here, before any test runs, as other tests
# import it through torch.compile.
if DEVICE.type == "cpu" and "triton" not in sys.modules and backend.HAVE_TRITON:
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("triton")


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    return DEVICE


@pytest.fixture
def kernels():
    """Ask for the Triton kernels; skip, with the reason, where they cannot run."""
    before = ops.get_backend()
    try:
        ops.set_backend("triton")
        ops.use_triton(torch.empty(1, device=DEVICE))
    except ops.BackendError as error:
        ops.set_backend(before)
        pytest.skip(str(error))
    yield
    ops.set_backend(before)


@pytest.fixture(scope="module", autouse=True)
def kernels_on_one_thread(one_thread):
    """Every test of this folder."""
