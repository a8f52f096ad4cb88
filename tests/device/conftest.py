"""Tests of a real GPU: `make gpu`. BIGBIGAN_TEST_DEVICE=cpu runs them on the CPU, to rehearse."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that training takes by itself; without a GPU the tests are skipped, unless they are a rehearsal."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if os.environ.get("BIGBIGAN_TEST_DEVICE") != "cpu":
        pytest.skip("there is no GPU")
    return torch.device("cpu")
