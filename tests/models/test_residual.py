"""What the residual networks and their kin say of themselves, checked in numbers."""

import pytest
import torch
from torch import nn

from cnnkit.layers import Residual
from cnnkit.models import create
from cnnkit.models.classify.densenet import DenseLayer
from cnnkit.models.classify.highway import Highway
from cnnkit.models.classify.resnet import option_a
from cnnkit.verify.checks import randomise


def test_a_unit_adds_to_the_sum_of_all_before_it() -> None:
    """x_L = x_l + sum of F(x_i), Eq. 4 of Identity Mappings: in each stage after the unit that shapes it."""
    draw = torch.Generator().manual_seed(0)
    network = create("preresnet110_cifar10", width=0.25).double().eval()
    randomise(network, draw)
    x = network.stem(torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=draw))
    for stage in network.stages:
        start, units = stage[0](x), stage[1:]
        made = [start]
        for unit in units:
            assert isinstance(unit.shortcut, nn.Identity)
            unit.branch.register_forward_hook(lambda _m, _i, out, made=made: made.append(out))
        x = units(start)
        assert len(made) == 18
        torch.testing.assert_close(x, sum(made), rtol=1e-12, atol=1e-12)


def test_the_gradient_reaches_a_unit_without_passing_through_any_branch() -> None:
    """dx_L/dx_l = 1 + d/dx_l sum of F (Eq. 5): with every branch at zero it is the identity."""
    network = create("preresnet110_cifar10", width=0.25).eval()
    stage = network.stages[0][1:]
    for parameter in stage.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    weights = torch.randn(1, 4, 8, 8)
    (gradient,) = torch.autograd.grad((stage(x) * weights).sum(), x)
    assert torch.equal(gradient, weights)


def test_zero_padding_takes_every_second_pixel_and_appends_empty_maps() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = torch.tensor([[[[0.0, 2.0], [6.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(option_a(1, 2, 2)(x), expected)
    assert isinstance(option_a(2, 2, 1), nn.Identity)


@pytest.mark.parametrize(
    ("name", "strides"), [("resnet50", [(1, 1), (2, 2)]), ("resnet50_v1", [(2, 2), (1, 1)])]
)
def test_the_original_halves_in_the_first_1x1_and_the_later_form_in_the_3x3(
    name: str, strides: list[tuple[int, int]]
) -> None:
    first, second, _ = create(name, width=0.25).stages[1][0][0].branch
    assert [first[0].stride, second[0].stride] == strides


def test_a_plain_network_has_no_shortcut_and_the_parameters_of_the_residual_one() -> None:
    plain, residual = create("plain20_cifar10"), create("resnet20_cifar10")
    assert not any(isinstance(module, Residual) for module in plain.modules())
    assert [p.shape for p in plain.parameters()] == [p.shape for p in residual.parameters()]


@pytest.mark.parametrize(("bias", "carried"), [(-1e9, True), (1e9, False)])
def test_a_highway_gate_chooses_between_the_input_and_what_is_made_of_it(bias: float, carried: bool) -> None:
    layer = Highway(3)
    nn.init.constant_(layer.gate.get_parameter("0.bias"), bias)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(x), x if carried else layer.block(x))


def test_a_new_highway_network_carries_most_of_its_input_through() -> None:
    gates = [m.gate[0].bias for m in create("highway19_cifar10").modules() if isinstance(m, Highway)]
    assert len(gates) == 14
    assert all(torch.equal(bias, torch.full_like(bias, -2.0)) for bias in gates)


def test_a_dense_layer_keeps_what_it_read_in_front_of_what_it_adds() -> None:
    x = torch.randn(1, 2, 3, 3)
    y = DenseLayer(nn.Conv2d(2, 5, 3, padding=1))(x)
    assert y.shape == (1, 7, 3, 3)
    assert torch.equal(y[:, :2], x)


def test_dropout_is_an_argument_where_the_paper_has_it() -> None:
    for name in ("wrn_16_4_cifar10", "densenet_40_12_cifar10"):
        rates = {m.p for m in create(name, dropout=0.3).modules() if isinstance(m, nn.Dropout)}
        assert rates == {0.3}


def test_a_depth_that_no_wide_resnet_has_is_refused() -> None:
    with pytest.raises(ValueError, match="such as 16, 28 or 40, got 20"):
        create("wrn_16_4_cifar10", depth=20)
