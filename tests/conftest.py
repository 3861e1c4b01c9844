"""Fixtures shared by all tests."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # Property tests try the same cases on every run, however long a case takes.
    settings.register_profile(
        "repeatable",
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("repeatable")

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and golden outputs that lie beside the checkout but are not part of it."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside this checkout: real images and golden outputs are absent")
    return SHARED


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other cost far more than they gain on models this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
