"""Fixtures shared by all tests."""

import os
import shutil
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several that share the cores
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure():
    """Keep the key that seals the runs of tests out of the user's home."""
    os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="bigbigan-tests-")


def pytest_unconfigure():
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets beside the repository; where it is absent, tests of it are skipped."""
    if not SHARED.is_dir():
        pytest.skip(f"real data sets are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="module")
def one_thread():
    """For modules of tests so small that threads would only wait for each other, or that compare runs bit by bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
