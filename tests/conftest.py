"""Settings and small data sets of the test run."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

torch.set_num_threads(1)  # small tensors: threads cost more than they give, ten times so on a busy CPU

#: Makes an image folder from {"train/red": 3, ...}.
MakeFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data that CNNKIT_REALDATA names; its tests are skipped where there is none."""
    folder = os.environ.get("CNNKIT_REALDATA")
    if not folder:
        pytest.skip("CNNKIT_REALDATA names no folder of real data")
    return Path(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def silent() -> Console:
    """A console that shows nothing."""
    return Console(quiet=True)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write small noisy pictures, a colour a class, and return their root."""

    def make(counts: dict[str, int], size: int = 40, name: str = "photos") -> Path:
        root = tmp_path / name
        random = np.random.default_rng(0)
        for place, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            hue = {"green": 1, "blue": 2}.get(Path(folder).name, place % 3)
            for i in range(count):
                pixels = random.integers(0, 80, (size, size, 3), dtype=np.uint8)
                pixels[..., hue] += 150
                pixels[0, 0] = (place, i, 7)  # no two pictures are the same
                Image.fromarray(pixels).save(root / folder / f"{i}.png")
        return root

    return make
