"""Networks that train in no time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnnkit import registry
from cnnkit.models import create
from cnnkit.train import resolve
from cnnkit.weights.artefact import Card, save
from cnnkit.weights.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network for five classes."""
    torch.manual_seed(5)
    card = Card(
        model="resnet20_cifar10",
        task="classify",
        classes=list("abcde"),
        preprocessing=Preprocessing((16, 16), mean=(0.2, 0.3, 0.4), std=(0.3, 0.3, 0.3)),
        arguments={"num_classes": 5, "in_channels": 3, "width": 0.25},
    )
    path = tmp_path_factory.mktemp("source") / "letters.safetensors"
    save(path, create(card.model, **card.arguments).state_dict(), card)
    return path


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tiny convolutional network with batch norm, registered for a test."""

    class Tiny(nn.Sequential):
        def __init__(self, *, num_classes: int = 10, in_channels: int = 3, memory: int = 0) -> None:
            self.memory = memory
            super().__init__(
                nn.Conv2d(in_channels, 4, 3, stride=2),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(16, num_classes),
            )

        def forward(self, x: Tensor) -> Tensor:
            if self.memory and x.device.type != "meta":
                torch.empty(self.memory)
            return super().forward(x)

    registry.register(
        Tiny,
        task="classify",
        canon="classification/lenet",
        variants={"tiny": {}, "greedy": {"memory": 10**15}},
    )
    entry = resolve.canon.entry
    known = entry("classification/lenet", "lenet5_relu")
    monkeypatch.setattr(
        resolve.canon, "entry", lambda f, n: known if n in {"tiny", "greedy"} else entry(f, n)
    )
    yield "tiny"
    for name in ("tiny", "greedy"):
        del registry._specs[name]
