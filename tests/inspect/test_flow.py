"""Gradients on their way, and the part of a receptive field that is used, against what theory says."""

import math

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.inspect.effective import effective
from cnnkit.inspect.gradients import (
    VARIANTS,
    batch_loss,
    chart,
    flow,
    record,
    stack,
    study,
    with_activation,
    without_norm,
)
from cnnkit.inspect.sight import drawn, sight
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, 3, 12, 12), torch.randint(0, 10, (16,))


@pytest.mark.parametrize(("gain", "factor"), [(2.0, 1.0), (1.0, 0.5), (4.0, 2.0)])
def test_a_relu_halves_the_mean_square_so_that_gain_2_keeps_it(
    batch: tuple[Tensor, Tensor], gain: float, factor: float
) -> None:
    torch.manual_seed(1)
    (found,) = flow(stack(24, gain=gain, width=64), batch_loss(*batch))
    assert found.slope("activation") == pytest.approx(math.log10(factor), abs=0.06)
    assert found.slope("gradient") == pytest.approx(-math.log10(factor), abs=0.06)


def test_a_deep_stack_of_sigmoids_loses_its_gradient_and_a_residual_one_does_not(
    batch: tuple[Tensor, Tensor],
) -> None:
    torch.manual_seed(1)
    (plain,) = flow(stack(20, activation=nn.Sigmoid), batch_loss(*batch), name="plain")
    (residual,) = flow(stack(20, activation=nn.Sigmoid, shortcut=True), batch_loss(*batch))
    # phi' <= 1/4 everywhere: of the mean square at most 2 / 16 gets through a layer.
    assert plain.slope("gradient") > -math.log10(2 / 16)
    assert "plain at initialisation: the gradient vanishes" in plain.warning
    assert residual.warning == ""


def test_shortcuts_without_a_norm_let_the_gradient_explode(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    (found,) = flow(stack(40, shortcut=True), batch_loss(*batch), name="residual")
    assert "the gradient explodes" in found.warning
    assert found.slope("activation") > math.log10(2) - 0.05  # x + relu(conv(x)): at least doubled


def test_batch_norm_brings_the_gradient_through_sigmoids(batch: tuple[Tensor, Tensor]) -> None:
    flows = {one.name: one for one in study(*batch, depth=20)}
    assert set(flows) == set(VARIANTS)
    assert abs(flows["sigmoid, batch norm"].slope("gradient")) < 0.3 < flows["sigmoid"].slope("gradient")
    assert flows["sigmoid"].ratio < 1e-8 < flows["sigmoid, batch norm"].ratio


def test_norms_of_one_layer_by_hand() -> None:
    # y = w x with w = 3, x = 2, loss y^2: dL/dy = 12, dL/dw = 24.
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[0].weight, 3.0)
    (found,) = flow(model, lambda m: m(torch.tensor([[2.0]])).square().sum())
    layer = found.layers[0]
    assert (layer.path, layer.activation, layer.gradient, layer.weight) == (
        "0",
        6.0,
        12.0,
        pytest.approx(8.0),
    )
    assert found.loss == 36.0


def test_after_steps_the_loss_is_lower_and_the_network_itself_untouched(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    model = stack(4)
    before = [p.clone() for p in model.parameters()]
    first, last = flow(model, batch_loss(*batch), steps=(0, 20), rate=0.05)
    assert (first.step, last.step) == (0, 20)
    assert last.loss < first.loss
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(part._forward_hooks for part in model.modules())


def test_activations_are_exchanged_and_norms_left_out_in_a_copy() -> None:
    model = SPECS["resnet18"].build(num_classes=3)
    other = without_norm(with_activation(model, nn.Sigmoid))
    kinds = {type(part) for part in other.modules()}
    assert nn.ReLU not in kinds
    assert nn.BatchNorm2d not in kinds
    assert nn.Sigmoid in kinds
    assert any(isinstance(part, nn.ReLU) for part in model.modules())
    assert other(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_numbers_that_overflow_are_said_where() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for part in model:
        nn.init.constant_(part.weight, 1e30)
    (found,) = flow(model, lambda m: m(torch.ones(1, 1)).sum(), name="huge")
    assert found.warning == "huge at initialisation: numbers overflow at 1"


def test_a_chart_and_a_record_of_all(batch: tuple[Tensor, Tensor]) -> None:
    flows = study(*batch, depth=5)
    axes = chart(flows).axes
    assert [len(axis.lines) for axis in axes] == [len(VARIANTS)] * 3
    assert all(axis.get_yscale() == "log" for axis in axes)
    written = record(flows)
    assert len(written[0]["layers"]) == 6


# -- the effective receptive field -----------------------------------------------------------------


def convolutions(count: int, *, ones: bool) -> nn.Sequential:
    model = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1, bias=False) for i in range(count)))
    for part in model:
        fan = part.weight[0].numel()
        if ones:
            nn.init.constant_(part.weight, 1 / fan)
        else:
            nn.init.normal_(part.weight, std=fan**-0.5)
    return model


@pytest.mark.parametrize("depth", [4, 9, 16])
def test_equal_weights_give_a_gaussian_of_known_width(depth: int) -> None:
    found = effective([convolutions(depth, ones=True)], (3, 61, 61), layer=str(depth - 1))
    assert found.std == pytest.approx((math.sqrt(depth * (3**2 - 1) / 12),) * 2, rel=1e-3)
    assert [(s.most, s.jump, s.centre) for s in found.theory] == [(2 * depth + 1, 1, 0)] * 2
    assert found.fit > 0.99
    assert not found.cut


def test_the_share_that_is_used_shrinks_with_depth() -> None:
    torch.manual_seed(0)
    shares = []
    for depth in (4, 16):
        models = [convolutions(depth, ones=False) for _ in range(20)]
        found = effective(models, (3, 61, 61), layer=str(depth - 1))
        # The square of a random gradient spreads as boxes do; its magnitude is wider by the root of 2.
        assert found.std[0] == pytest.approx(math.sqrt(2 * depth * 8 / 12), rel=0.15)
        shares.append(found.side / found.theory[0].most)
    assert shares[1] < 0.75 * shares[0]


def test_signs_cancel_where_they_are_kept() -> None:
    torch.manual_seed(0)
    models = [convolutions(9, ones=False) for _ in range(10)]
    loud = effective(models, (3, 41, 41), layer="8")
    quiet = effective(models, (3, 41, 41), layer="8", signed=True)
    assert quiet.side < loud.side


def test_a_field_that_does_not_fit_is_said() -> None:
    assert effective([convolutions(9, ones=True)], (3, 15, 15), layer="8").cut


def test_layers_without_a_place_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(Misuse, match="'2' has no map of units"):
        effective([model], (3, 8, 8), layer="2")
    with pytest.raises(Misuse, match="'9' is no layer that is called; there are 0, 1, 2"):
        effective([model], (3, 8, 8), layer="9")


# -- one unit's box --------------------------------------------------------------------------------


def test_the_box_of_a_unit_respects_the_border() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
    traced = trace(model, torch.zeros(1, 3, 16, 24))
    # Pooled pixel i sees [2 i - 1, 2 i + 2]; the last convolution i - 1 to i + 1 of those.
    assert sight(traced, "2", (3, 5)).box == ((3, 10), (7, 14))
    assert sight(traced, "2", (0, 11)).box == ((0, 4), (19, 23))


def test_what_is_not_seen_is_dimmed() -> None:
    traced = trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 16, 16))
    found = sight(traced, "", (4, 6))
    picture = drawn(Image.new("RGB", (16, 16), (0, 0, 0)), found)
    zoom = picture.width // 16
    colour = {
        (y, x): picture.getpixel((zoom * x + zoom // 2, zoom * y + zoom // 2))
        for y in range(16)
        for x in range(16)
    }
    assert {place for place, rgb in colour.items() if rgb == (0, 0, 0)} == {
        (y, x) for y in range(4, 7) for x in range(6, 9)
    }


def test_units_that_are_not_there_are_refused() -> None:
    traced = trace(built(SPECS["lenet5"]), *example(SPECS["lenet5"]))
    with pytest.raises(Misuse, match=r"'stages.0.0' has a map of 28x28, so no unit \(28, 0\)"):
        sight(traced, "stages.0.0", (28, 0))
    with pytest.raises(Misuse, match="'conv1' is no layer that is called"):
        sight(traced, "conv1", (0, 0))
