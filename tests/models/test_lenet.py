"""LeNet: connections, sub-sampling and outputs as the papers have them."""

import pytest
import torch
from torch import nn

from cnnkit.models import create
from cnnkit.models.classify.lenet5 import C3_READS, ScaledTanh, Subsampling, TableConv, codes
from cnnkit.models.classify.lenet1989 import WIRING


def test_c3_has_the_60_connections_of_table_1() -> None:
    """Six maps read three contiguous, six four contiguous, three four split, one all: 18 + 24 + 12 + 6."""
    assert [len(maps) for maps in C3_READS] == [3] * 6 + [4] * 9 + [6]
    assert sum(map(len, C3_READS)) == 60
    assert len(set(C3_READS)) == 16
    read_by = [sum(i in maps for maps in C3_READS) for i in range(6)]
    assert read_by == [10] * 6  # every S2 map is read equally often


def test_a_c3_map_depends_on_the_maps_it_reads_alone() -> None:
    conv = TableConv(6, C3_READS).double()
    x = torch.randn(1, 6, 14, 14, dtype=torch.float64, requires_grad=True)
    for output, maps in enumerate(C3_READS):
        (grad,) = torch.autograd.grad(conv(x)[0, output].sum(), x)
        assert {i for i in range(6) if grad[0, i].abs().sum() > 0} == set(maps)


def test_c3_equals_sixteen_small_convolutions() -> None:
    conv = TableConv(6, C3_READS).double()
    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    kernels = iter(conv.kernels)
    for output, maps in enumerate(C3_READS):
        weight = torch.stack([next(kernels) for _ in maps])[None]
        expected = nn.functional.conv2d(x[:, maps], weight, conv.bias[output : output + 1])
        torch.testing.assert_close(conv(x)[:, output : output + 1], expected)


def test_subsampling_adds_scales_shifts_and_squashes() -> None:
    layer = Subsampling(1)
    nn.init.constant_(layer.coefficient, 0.5)
    nn.init.constant_(layer.bias, 0.25)
    made = layer(torch.tensor([[[[1.0, 2.0], [3.0, -4.0]]]]))
    assert made.item() == pytest.approx(1.7159 * torch.tanh(torch.tensor(2 / 3 * (2 * 0.5 + 0.25))).item())


def test_the_squashing_function_maps_one_to_one() -> None:
    made = ScaledTanh()(torch.tensor([1.0, -1.0, 0.0]))
    torch.testing.assert_close(made, torch.tensor([1.0, -1.0, 0.0]), atol=1e-4, rtol=0)


def test_the_output_is_minus_the_distance_to_the_codes() -> None:
    model = create("lenet5")
    f6 = codes(10)[[3, 8]] * 0.9
    logits = model.head[-1](f6)
    assert logits.argmax(dim=1).tolist() == [3, 8]
    assert logits[0, 3].item() == pytest.approx(-84 * 0.1**2, rel=1e-4)
    assert sum(p.numel() for p in model.head[-1].parameters()) == 0


def test_codes_are_seven_by_twelve_and_all_different() -> None:
    for count in (2, 10, 37):
        made = codes(count)
        assert made.shape == (count, 84)
        assert set(made.unique().tolist()) == {-1.0, 1.0}
        assert len(made.unique(dim=0)) == count


def test_the_1989_net_reads_eight_of_twelve_maps_each_equally_often() -> None:
    assert all(len(maps) == 8 for maps in WIRING)
    assert {sum(i in maps for maps in WIRING) for i in range(12)} == {2}


def test_the_1989_net_sees_background_beyond_the_border() -> None:
    model = create("lenet1989").eval()
    blank = model(torch.full((1, 1, 16, 16), -1.0))
    maps = model.features(torch.full((1, 1, 16, 16), -1.0))[0]
    assert blank.shape == (1, 10)
    # with a border of background, a blank image looks the same everywhere
    assert maps.std(dim=(2, 3)).max() < 1e-6


def test_biases_of_the_1989_net_are_of_units() -> None:
    shapes = [tuple(p.shape) for name, p in create("lenet1989").named_parameters() if "bias" in name]
    assert shapes == [(12, 8, 8), (12, 4, 4), (30,), (10,)]
