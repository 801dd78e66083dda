"""Comparisons, worked out by hand."""

import io

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.errors import Misuse
from cnnkit.inspect.compare import Wiring, as_dense, side, sides_text, without_pooling
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example


def counted(name: str) -> Table:
    return table(trace(built(SPECS[name]), *example(SPECS[name])), name=name)


def test_a_convolution_as_a_fully_connected_layer() -> None:
    # LeNet-5's C1: 6 kernels of 5 x 5 on 32 x 32, maps of 28 x 28; the 1998 paper counts 156 and 122,304.
    found = as_dense(counted("lenet5"), "stages.0.0")
    assert (found.input, found.output) == ((1, 32, 32), (6, 28, 28))
    assert found.wirings == (
        Wiring("convolution", 6 * 26, 6 * 25 * 784),
        Wiring("locally connected", 784 * 6 * 26, 784 * 6 * 25),
        Wiring("fully connected", 4704 * 1024 + 4704, 4704 * 1024),
    )


def test_groups_and_transposition_are_minded() -> None:
    grouped = as_dense(table(trace(nn.Conv2d(8, 12, 3, groups=4, bias=False), torch.zeros(1, 8, 9, 9))), "")
    assert [w.params for w in grouped.wirings] == [12 * 2 * 9, 49 * 12 * 2 * 9, 8 * 81 * 12 * 49]
    spread = as_dense(table(trace(nn.ConvTranspose2d(4, 6, 2, 2), torch.zeros(1, 4, 5, 5))), "")
    assert [w.params for w in spread.wirings] == [4 * 6 * 4 + 6, 25 * 4 * 6 * 4 + 600, 100 * 600 + 600]
    assert spread.wirings[0].macs == 25 * 4 * 6 * 4


def test_what_is_no_convolution_is_refused_with_those_that_are() -> None:
    made = counted("lenet5_relu")
    with pytest.raises(
        Misuse, match=r"'head.1' is not a convolution; its convolutions are stages.0.0, stages.1.0"
    ):
        as_dense(made, "head.1")
    with pytest.raises(Misuse, match="'c9' is no layer of the network"):
        as_dense(made, "c9")


def test_lenet_without_its_poolings() -> None:
    model, images = built(SPECS["lenet5_relu"]), torch.zeros(1, 1, 28, 28)
    made = without_pooling(model, images)
    assert made.total.macs == 28**2 * 6 * 25 + 24**2 * 16 * 150 + 16 * 24**2 * 120 + 120 * 84 + 84 * 10
    assert made.total.params == 156 + 2416 + (16 * 24**2 + 1) * 120 + 121 * 84 + 85 * 10
    assert side(made).last[0].most == 9
    assert counted("lenet5_relu").total.params == sum(p.numel() for p in model.parameters())


def test_functional_poolings_go_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(functional.max_pool2d(self.conv.bias.sum() + x, 2))

    made = without_pooling(Net(), torch.zeros(1, 3, 8, 8))
    assert made.total.macs == 64 * 4 * 27


def test_a_network_that_needs_its_poolings_says_so() -> None:
    with pytest.raises(TraceError, match="does not hang together without its poolings"):
        without_pooling(built(SPECS["inception_v3"]), *example(SPECS["inception_v3"]))


def test_networks_side_by_side() -> None:
    sides = [side(counted(name)) for name in ("resnet50", "mobilenet_v2")]
    assert [(s.params, s.macs, s.weighted) for s in sides] == [
        (25_557_032, 4_089_184_256, 50),
        (3_504_872, 300_774_272, 53),
    ]
    assert [s.last[0].most for s in sides] == [427, 491]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(sides_text(sides))
    shown = console.export_text()
    assert "25.6 M" in shown
    assert "0.14x" in shown
