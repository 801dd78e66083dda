"""Settings of the test run."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors: threads cost more than they give, ten times so on a busy CPU


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data that CNNKIT_REALDATA names; its tests are skipped where there is none."""
    folder = os.environ.get("CNNKIT_REALDATA")
    if not folder:
        pytest.skip("CNNKIT_REALDATA names no folder of real data")
    return Path(folder)
