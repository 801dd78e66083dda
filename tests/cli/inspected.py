"""What the tests of `cnnkit inspect` share: a person's own file, and a command."""

import pytest

from cnnkit.cli import main

NET = """
import torch
from torch import nn

print("this file runs")

class Question(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv, self.words, self.out = nn.Conv2d(3, width, 3), nn.Embedding(50, 4), nn.Linear(width + 4, 5)

    def forward(self, images, question):
        seen = self.conv(images).mean((2, 3))
        return self.out(torch.cat([seen, self.words(question).mean(1)], 1))

class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)

    def forward(self, x):
        return self.small(x) if x.sum() > 0 else self.large(x)

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)

    def forward(self, images):
        return self.conv(torch.stack(images))

def counts_with_numbers():
    rates = [r.item() for r in torch.linspace(0, 1, 3)]
    return nn.Sequential(*(nn.Dropout(r) for r in rates), nn.Linear(4, 5))

def number():
    return 3

def fails():
    return 1 / 0

def needs(width):
    return nn.Linear(width, width)

ready = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
WIDTH = 5
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main(["inspect", *(str(a) for a in arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(left.value.code or 0), captured.out, captured.err
