"""Counts of whole networks of others, against PyTorch's counter and the papers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace

torchvision = pytest.importorskip("torchvision")


def counted(module: nn.Module, *inputs: Any) -> Table:
    return table(trace(module, *inputs))


NETS = """
resnet50 vgg16_bn googlenet densenet121 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x1_0 vit_b_16 swin_t
"""


@pytest.mark.parametrize("name", NETS.split())
def test_whole_networks_agree_with_pytorch(name: str) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **extra).eval()
        images = torch.zeros(2, 3, 224, 224)
    if name == "swin_t":  # its windows' indices are numbers, which PyTorch's counter needs
        model = torchvision.models.swin_t().eval()
        images = torch.zeros(1, 3, 64, 64)
    made = counted(model, images)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert made.total.flops == counter.get_total_flops()
    assert made.total.params == sum(p.numel() for p in model.parameters())
    assert made.uncounted == {}


def test_vit_by_hand() -> None:
    with torch.device("meta"):
        model = torchvision.models.vit_b_16()
        made = counted(model, torch.zeros(1, 3, 224, 224))
    tokens, width = 197, 768
    layer = (
        tokens * width * 3 * width
        + 2 * tokens**2 * width
        + tokens * width**2
        + 2 * tokens * width * 4 * width
    )
    assert made.total.macs == 196 * width * 3 * 256 + 12 * layer + width * 1000 == 17_563_828_224
    assert made.total.params == 86_567_656


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "efficientnet_b0", "vit_b_16"])
@pytest.mark.parametrize("depth", [0, 1, 2, None])
def test_totals_are_the_sum_of_the_rows_at_every_depth(name: str, depth: int | None) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **extra)
        traced = trace(model, torch.zeros(1, 3, 224, 224))
    made, full = table(traced, depth=depth), table(traced)
    for what in ("params", "trainable", "macs", "flops", "other", "activations", "moved"):
        assert getattr(made.total, what) == sum(getattr(row, what) for row in made.rows)
        assert getattr(made.total, what) == getattr(full.total, what)
    assert all(depth is None or row.level <= depth + 1 for row in made.rows)


@pytest.mark.parametrize("words", [1, 7])
def test_a_recurrent_layer_is_one_layer_however_long_the_text(words: int) -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(50, 8), nn.LSTM(8, 16, 2, batch_first=True)
            self.cell, self.out = nn.GRUCell(16, 16), nn.Linear(16, 50)

        def forward(self, text: Tensor) -> Tensor:
            state = None
            for word in self.body(self.embed(text))[0].unbind(1):
                state = self.cell(word, state)
            return self.out(state)

    made = table(trace(Language(), torch.zeros(1, words, dtype=torch.int64)))
    assert (made.weighted, made.weighted_all) == (4, 3 + words)
    assert [row.note for row in made.rows if row.path == "body"] == [""]
    assert [row.note for row in made.rows if row.path == "cell"] == ["", *["shared"] * (words - 1)]


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *((f"resnet{n}", n) for n in (18, 34, 50, 101, 152)),
        *((f"vgg{n}", n) for n in (11, 13, 16, 19)),
        *((f"densenet{n}", n) for n in (121, 161, 169, 201)),
        ("googlenet", 22),
        ("alexnet", 8),
    ],
)
def test_layers_are_counted_as_the_papers_count_them(name: str, layers: int) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **extra)
        assert counted(model, torch.zeros(1, 3, 224, 224)).weighted == layers
