"""Gradients on their way, against what theory says; networks but for one thing."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit import data
from cnnkit.errors import Misuse
from cnnkit.inspect.descent import descended
from cnnkit.inspect.flows import chart, record, text
from cnnkit.inspect.gradients import batch_loss, flow
from cnnkit.inspect.inputs import Form
from cnnkit.inspect.otherwise import (
    CHANGES,
    VARIANTS,
    stack,
    study,
    with_activation,
    with_norm,
    without_norm,
    without_shortcuts,
)
from cnnkit.inspect.subject import Subject, subject

from .networks import SPECS


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(16, 3, 12, 12), torch.randint(0, 10, (16,))


@pytest.mark.parametrize(("gain", "factor"), [(2.0, 1.0), (1.0, 0.5), (4.0, 2.0)])
def test_a_relu_halves_the_mean_square_so_that_gain_2_keeps_it(
    batch: tuple[Tensor, Tensor], gain: float, factor: float
) -> None:
    torch.manual_seed(1)
    (found,) = flow(stack(24, gain=gain, width=64), batch_loss(batch))
    assert found.slope("activation") == pytest.approx(math.log10(factor), abs=0.06)
    assert found.slope("gradient") == pytest.approx(-math.log10(factor), abs=0.06)


def test_a_deep_stack_of_sigmoids_loses_its_gradient_and_a_residual_one_does_not(
    batch: tuple[Tensor, Tensor],
) -> None:
    torch.manual_seed(1)
    (plain,) = flow(stack(20, activation=nn.Sigmoid), batch_loss(batch), name="plain")
    (residual,) = flow(stack(20, activation=nn.Sigmoid, shortcut=True), batch_loss(batch))
    # phi' <= 1/4 everywhere: of the mean square at most 2 / 16 gets through a layer.
    assert plain.slope("gradient") > -math.log10(2 / 16)
    assert "plain at initialisation: the gradient vanishes" in plain.warning
    assert residual.warning == ""


def test_shortcuts_without_a_norm_let_the_gradient_explode(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    (found,) = flow(stack(40, shortcut=True), batch_loss(batch), name="residual")
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
    first, last = flow(model, batch_loss(batch), steps=(0, 20), rate=0.05)
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


def printed(what: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_one_network_is_told_layer_by_layer_and_several_line_by_line(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(1)
    flows = flow(stack(3), batch_loss(batch), name="plain", steps=(0, 4))
    alone = printed(text(flows))
    assert [line.split()[0] for line in alone.splitlines() if "e-0" in line] == ["0", "2.conv", "3.conv", "6"]
    assert "after 4 steps" in alone
    both = printed(text([*flows, *flow(stack(3, norm=True), batch_loss(batch), name="norm")]))
    assert [line.split()[0] for line in both.splitlines() if "e-0" in line] == ["plain", "plain", "norm"]


def test_what_an_operator_overwrites_later_is_measured_before() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).mul_(0))

    torch.manual_seed(0)
    model, x = Overwriting(), torch.tensor([[3.0, 4.0]])
    (found,) = flow(model, lambda m: m(x).sum())
    by_hand = (x @ model.first.weight.detach().T).square().mean().sqrt()
    assert found.layers[0].activation == pytest.approx(float(by_hand))
    assert found.layers[0].gradient == 0.0


def test_layers_of_other_kinds_and_shapes_count_by_their_weights() -> None:
    (found,) = flow(SPECS["lenet5"].build(), batch_loss((torch.randn(4, 1, 32, 32), torch.arange(4))))
    assert [layer.path for layer in found.layers] == ["stages.0.0", "stages.1.0", "head.0", "head.3"]
    assert [layer.convolves for layer in found.layers] == [True, True, True, False]


def test_layers_that_the_loss_does_not_depend_on_are_left_out() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.head = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stem(x)
            return self.head(x), self.side(x)

    (found,) = flow(Two(), batch_loss((torch.randn(2, 4), torch.arange(2))))
    assert [layer.path for layer in found.layers] == ["stem", "head"]


# -- networks but for one thing --------------------------------------------------------------------


class Residual(nn.Module):
    """x + f(x), twice, the second time in place, and a sum of two branches of equal depth."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        deeper = self.b(x)
        deeper += x
        return self.c(deeper) + self.d(deeper)


def test_without_shortcuts_only_the_deeper_of_two_maps_passes() -> None:
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(2, 3)
    plain = without_shortcuts(lambda m: m(x).sum())(model).detach()
    b = model.b(model.a(x))
    assert torch.allclose(plain, (model.c(b) + model.d(b)).sum().detach())
    assert not torch.allclose(plain, model(x).sum().detach())


@pytest.mark.parametrize("name", ["resnet18", "resnet20_cifar10"])
def test_a_residual_network_without_shortcuts_is_its_branches_in_a_row(name: str) -> None:
    torch.manual_seed(0)
    model = SPECS[name].build(num_classes=4)
    loss = batch_loss((torch.randn(2, 3, 32, 32), torch.arange(2)))
    (full,), (plain,) = flow(model, loss), flow(model, without_shortcuts(loss))
    lost = {layer.path for layer in full.layers} - {layer.path for layer in plain.layers}
    assert all("shortcut" in path for path in lost)
    assert plain.loss != full.loss


def test_batch_norm_is_put_behind_each_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3)), nn.Linear(6, 6))
    other = with_norm(model)
    assert [part.num_features for part in other.modules() if isinstance(part, nn.BatchNorm2d)] == [4, 5]
    assert other(torch.ones(2, 3, 10, 10)).shape == (2, 5, 6, 6)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())


@pytest.mark.parametrize(
    ("change", "name", "sentence"),
    [
        ("no-norm", "lenet5_relu", "LeNet5ReLU has no batch norm among its modules"),
        ("sigmoid", "lenet5", "LeNet5 has no activation among its modules"),
        (
            "no-shortcuts",
            "lenet5_relu",
            "LeNet5ReLU adds nothing to what it leads around, so has no shortcuts",
        ),
    ],
)
def test_what_is_not_there_cannot_be_changed(change: str, name: str, sentence: str) -> None:
    loss = batch_loss((torch.zeros(2, 1, 28, 28), torch.arange(2)))
    with pytest.raises(Misuse, match=sentence):
        flow(*CHANGES[change](SPECS[name].build(num_classes=10), loss))


# -- the question ----------------------------------------------------------------------------------


def quiet(words: str) -> None:
    pass


def test_networks_are_compared_on_data_from_the_same_weights() -> None:
    one = subject("lenet5_relu")
    digits = data.open("digits").split()
    answer = descended([one], [("sigmoid",)], digits, steps=3, batch=16, told=quiet)
    assert [(row["name"], row["step"]) for row in answer.record] == [
        *(("lenet5_relu", 0), ("lenet5_relu", 3)),
        *(("lenet5_relu, sigmoid", 0), ("lenet5_relu, sigmoid", 3)),
    ]
    first, other = answer.record[0]["layers"][0], answer.record[2]["layers"][0]
    assert first["activation"] == other["activation"]
    assert first["gradient"] > other["gradient"]
    again = descended([one], [("sigmoid",)], digits, steps=3, batch=16, told=quiet)
    assert again.record == answer.record


def test_a_sigmoid_network_without_norm_and_shortcuts_warns() -> None:
    one = subject("resnet34").called_with((Form((3, 32, 32)),))
    changes = [("sigmoid", "no-norm", "no-shortcuts")]
    answer = descended([one], changes, None, steps=0, batch=4, told=quiet)
    assert len(answer.warnings) == 1
    assert (
        "resnet34, sigmoid, no-norm, no-shortcuts at initialisation: the gradient vanishes"
        in answer.warnings[0]
    )


def test_a_trained_network_is_not_said_to_be_at_initialisation() -> None:
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 3))
    one = Subject("kept", lambda: fixed, (Form((1, 8, 8)),), is_trained=True)
    answer = descended([one], [], None, steps=1, batch=4, told=quiet)
    shown = printed(answer.parts[0])
    assert "as trained" in shown
    assert "initialisation" not in shown


def test_without_a_network_stacks_are_compared() -> None:
    answer = descended([], [], None, steps=0, batch=4, told=quiet)
    assert [row["name"] for row in answer.record] == list(VARIANTS)
    assert {len(row["layers"]) for row in answer.record} == {31}


def built(make: Callable[[], nn.Module], *forms: Form) -> Subject:
    return Subject("net", make, forms)


@pytest.mark.parametrize(
    ("make", "forms", "sentence"),
    [
        (lambda: nn.Conv2d(3, 4, 3), (Form((3, 8, 8)),), r"but 4 images give \(4, 4, 6, 6\)"),
        (lambda: nn.Linear(4, 2), (Form((4,)),), "net reads something else"),
        (lambda: nn.Flatten(), (Form((3, 8, 8)),), "net has no layer whose weights learn"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(
    make: Callable[[], nn.Module], forms: tuple[Form, ...], sentence: str
) -> None:
    with pytest.raises(Misuse, match=sentence):
        descended([built(make, *forms)], [], None, steps=0, batch=4, told=quiet)


def test_data_with_more_classes_or_other_channels_are_refused(tmp_path: Path) -> None:
    digits = data.open("digits").split()
    few = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), Form((1, 8, 8)))
    with pytest.raises(Misuse, match="the data have 10 classes, the network 3"):
        descended([few], [], digits, steps=0, batch=64, told=quiet)
    many = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(320, 10)), Form((5, 8, 8)))
    with pytest.raises(Misuse, match="pictures have 1 or 3 channels, and the network reads 5"):
        descended([many], [], digits, steps=0, batch=64, told=quiet)
