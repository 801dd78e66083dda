"""What is particular to AlexNet and ZFNet: the response norm, the towers, the sizes of the maps."""

import pytest
import torch
from torch import nn

from cnnkit.layers import ResponseNorm
from cnnkit.models import create


@torch.no_grad()
def test_the_response_norm_is_the_equation_of_the_paper() -> None:
    """b_i = a_i / (2 + 1e-4 * sum of a_j^2 for j = i - 2 .. i + 2)^0.75, computed for each map by itself."""
    a = 50 * torch.randn(2, 7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = ResponseNorm()(a)
    for i in range(7):
        squares = sum(a[:, j] ** 2 for j in range(max(0, i - 2), min(7, i + 3)))
        torch.testing.assert_close(b[:, i], a[:, i] / (2 + 1e-4 * squares) ** 0.75)


def reached_by(network: nn.Module, layer: int, output: int) -> set[str]:
    """Which half of the maps before a convolution an output map of it reads."""
    convolution = [m for m in network.modules() if isinstance(m, nn.Conv2d)][layer]
    x = torch.randn(1, convolution.in_channels, 5, 5, requires_grad=True)
    convolution(x)[0, output].sum().backward()
    assert x.grad is not None
    lower, upper = x.grad.abs().sum((0, 2, 3)).chunk(2)
    return {name for name, half in (("lower", lower), ("upper", upper)) if half.sum() > 0}


def test_only_the_third_convolution_reads_both_towers() -> None:
    network = create("alexnet_two_tower", width=0.25)
    for layer in (1, 3, 4):
        assert reached_by(network, layer, 0) == {"lower"}
        assert reached_by(network, layer, -1) == {"upper"}
    assert reached_by(network, 2, 0) == reached_by(network, 2, -1) == {"lower", "upper"}


@pytest.mark.parametrize(
    ("name", "side", "sizes"),
    [
        ("alexnet_two_tower", 227, [55, 27, 13]),
        ("alexnet", 224, [55, 27, 13]),
        ("zfnet", 224, [110, 26, 13]),
    ],
)
def test_maps_have_the_sizes_printed_in_the_papers(name: str, side: int, sizes: list[int]) -> None:
    with torch.device("meta"):
        network = create(name)
        images = torch.empty(1, 3, side, side)
    maps = network.features(images)
    assert [x.shape[-1] for x in maps] == sizes
    assert network.head[0](maps[-1]).shape[-1] == 6


def test_biases_are_one_where_units_shall_start_active() -> None:
    network = create("alexnet_two_tower", width=0.25)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    starts = [m.bias.unique().tolist() for m in layers if m.bias is not None]
    assert starts == [[0], [1], [0], [1], [1], [1], [1], [0]]
