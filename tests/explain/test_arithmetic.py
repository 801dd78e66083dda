"""One output value and one gradient entry, product by product, against PyTorch and worked out by hand."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.explain.arithmetic import gradient_entry, output_value


def loss(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.tensor([3]))


@pytest.fixture
def network() -> nn.Sequential:
    """Padding, stride, dilation, groups, batch norm, activations in place, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 4, 3, groups=2, stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Flatten(),
        nn.Linear(4 * 6 * 8, 10),
    )


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(1))


def outputs(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What each layer gives, taken before anything can change it in place."""
    found = {}
    network.eval()
    x = image[None]
    for name, part in network.named_children():
        x = part(x.clone())
        found[name] = x.detach()
    return found


@pytest.mark.parametrize(
    ("layer", "at"),
    [("0", (0, 0)), ("0", (11, 11)), ("0", (5, 6)), ("2", (0, 0)), ("2", (5, 7)), ("5", (3, 4)), ("7", ())],
)
@pytest.mark.parametrize("channel", [0, 3])
def test_the_total_is_what_the_layer_gives(
    network: nn.Sequential, image: Tensor, layer: str, at: tuple[int, ...], channel: int
) -> None:
    expected = outputs(network, image)[layer][(0, channel, *at)].item()
    value = output_value(network, layer, image, at=at, channel=channel)
    assert value.given == expected
    assert value.total == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert value.total == pytest.approx(sum(value.sums) + (value.bias or 0.0))
    products = torch.tensor(value.window) * torch.tensor(value.kernel)
    torch.testing.assert_close(torch.tensor(value.products), products)
    weight = network.get_parameter(f"{layer}.weight").detach()
    torch.testing.assert_close(torch.tensor(value.kernel), weight[channel])


@pytest.mark.parametrize(
    ("layer", "entry"), [("0", (4, 1, 0, 4)), ("2", (3, 2, 2, 1)), ("5", (0, 3, 1, 1)), ("7", (3, 17))]
)
def test_the_entry_is_what_autograd_gives(
    network: nn.Sequential, image: Tensor, layer: str, entry: tuple[int, ...]
) -> None:
    network.eval()
    weight = network.get_parameter(f"{layer}.weight")
    (gradient,) = torch.autograd.grad(loss(network(image[None])), weight)
    found = gradient_entry(network, layer, image, loss, entry=entry)
    assert found.given == pytest.approx(gradient[entry].item(), rel=1e-5, abs=1e-9)
    assert found.total == pytest.approx(found.given, rel=1e-4, abs=1e-8)
    products = torch.tensor(found.residual) * torch.tensor(found.read)
    torch.testing.assert_close(torch.tensor(found.products), products)


def by_hand() -> tuple[nn.Sequential, Tensor]:
    """Image 1..9, kernel [[1, -1], [2, 0]], bias 10, stride 1, one zero before each axis and after."""
    model = nn.Sequential(nn.Conv2d(1, 1, 2, padding=1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]]))
        model[0].bias.fill_(10.0)
    return model, torch.arange(1.0, 10).view(1, 3, 3)


def test_a_value_worked_out_by_hand() -> None:
    """At (1, 2) of the output the window is [[2, 3], [5, 6]]: 2 - 3 + 10 + 0 = 9, and 19 with the bias."""
    model, image = by_hand()
    value = output_value(model, "0", image, at=(1, 2))
    assert value.corner == [0, 1]
    assert value.window == [[[2.0, 3.0], [5.0, 6.0]]]
    assert value.products == [[[2.0, -3.0], [10.0, 0.0]]]
    assert (value.sums, value.bias, value.total, value.given) == ([9.0], 10.0, 19.0, 19.0)
    assert output_value(model, "0", image, at=(0, 0)).corner == [-1, -1]


def test_a_gradient_worked_out_by_hand() -> None:
    """The loss is the sum of the outputs, so the residual is 1 everywhere, and each tap has read all 45."""
    model, image = by_hand()
    found = gradient_entry(model, "0", image, torch.sum, entry=(0, 0, 1, 0))
    assert found.residual == [[1.0] * 4] * 4
    assert found.read == [[0.0, 1, 2, 3], [0.0, 4, 5, 6], [0.0, 7, 8, 9], [0.0] * 4]
    assert (found.total, found.given) == (45.0, 45.0)


def test_the_text_shows_every_number_of_a_small_computation() -> None:
    model, image = by_hand()
    lines = output_value(model, "0", image, at=(1, 2)).text().splitlines()
    assert lines[0] == "0 (Conv2d), output channel 0 at (1, 2)"
    assert [line.split() for line in lines[2:7]] == [
        ["input", "channel", "0,", "window", "from", "(0,", "1)"],
        ["window", "kernel", "products"],
        ["2", "3", "1", "-1", "2", "-3"],
        ["5", "6", "2", "0", "10", "0"],
        ["sum", "9"],
    ]
    assert [line.split() for line in lines[-4:]] == [
        ["bias", "10"],
        ["total", "19"],
        ["the", "layer", "gave", "19"],
        ["apart", "by", "0"],
    ]


def test_of_many_channels_the_text_shows_the_weightiest_and_sums_the_rest(
    network: nn.Sequential, image: Tensor
) -> None:
    value = output_value(network, "5", image, at=(2, 2), channel=1)
    text = value.text(most=1)
    heaviest = max(range(4), key=lambda c: abs(value.sums[c]))
    assert text.count("window from") == 1
    assert f"input channel {heaviest}, window" in text
    (rest,) = [line.split() for line in text.splitlines() if "other channels" in line]
    assert rest[:3] == ["3", "other", "channels"]
    assert float(rest[3]) == pytest.approx(sum(value.sums) - value.sums[heaviest], rel=1e-4)


def test_of_many_positions_the_text_shows_the_weightiest_and_sums_the_rest(
    network: nn.Sequential, image: Tensor
) -> None:
    found = gradient_entry(network, "0", image, loss, entry=(1, 1, 2, 2))
    lines = [line.split() for line in found.text(most=2).splitlines()]
    products = torch.tensor(found.products)
    place = products.abs().argmax().item()
    assert lines[3][:2] == [f"({place // 12},", f"{place % 12})"]
    assert float(lines[3][4]) == pytest.approx(products.flatten()[place].item(), rel=1e-3)
    assert lines[5][:2] == ["142", "others"]


@pytest.mark.parametrize(
    "explain",
    [
        lambda m, x: output_value(m, "2", x, at=(1, 1)),
        lambda m, x: gradient_entry(m, "0", x, loss, entry=(0, 0, 0, 0)),
    ],
)
def test_the_record_is_ready_for_json(
    network: nn.Sequential, image: Tensor, explain: Callable[[nn.Module, Tensor], Any]
) -> None:
    record = explain(network, image)
    assert json.loads(json.dumps(asdict(record))) == asdict(record)


def test_a_signal_and_a_volume_are_explained_too() -> None:
    for model, image, at in (
        (nn.Sequential(nn.Conv1d(2, 3, 4, stride=3)), torch.randn(2, 17), (2,)),
        (nn.Sequential(nn.Conv3d(1, 2, 2, padding=1)), torch.randn(1, 3, 4, 5), (0, 2, 5)),
    ):
        value = output_value(model, "0", image, at=at, channel=1)
        assert value.total == pytest.approx(value.given, rel=1e-4, abs=1e-6)
        assert "total" in value.text()


class Overwriting(nn.Module):
    """Spoils what its convolution has read, as a residual sum in place does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        images.zero_()
        return maps


def test_what_is_overwritten_later_is_explained_as_it_was_read(image: Tensor) -> None:
    value = output_value(Overwriting(), "conv", image.double(), at=(3, 3), channel=2)
    assert value.total == pytest.approx(value.given, rel=1e-12)


def test_the_network_is_left_as_it_was(network: nn.Sequential, image: Tensor) -> None:
    network.train()
    network[4].eval()
    network[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradient_entry(network, "0", image, loss, entry=(0, 0, 0, 0))
    output_value(network, "2", image, at=(0, 0))
    with pytest.raises(ValueError, match="at must lie in"):
        output_value(network, "2", image, at=(99, 0))
    assert [part.training for part in network] == [True] * 4 + [False] + [True] * 3
    assert not network[0].weight.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert not any(part._forward_hooks for part in network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_explained_is_refused(network: nn.Sequential, image: Tensor) -> None:
    with pytest.raises(LookupError, match="no convolution or linear layer '1'; there are 0, 2, 5, 7"):
        output_value(network, "1", image, at=(0, 0))
    with pytest.raises(ValueError, match=r"at must lie in \(0..5, 0..7\), got \(6, 0\)"):
        output_value(network, "2", image, at=(6, 0))
    with pytest.raises(ValueError, match=r"at must lie in \(0..5, 0..7\), got \(1\)"):
        output_value(network, "2", image, at=(1,))
    with pytest.raises(ValueError, match=r"at must lie in \(0..5, 0..7\), and none is given"):
        output_value(network, "2", image, at=())
    with pytest.raises(ValueError, match=r"channel must lie in \(0..3\), got \(4\)"):
        output_value(network, "2", image, at=(0, 0), channel=4)
    with pytest.raises(ValueError, match=r"entry must lie in \(0..3, 0..2, 0..2, 0..2\), got \(0, 3, 0, 0\)"):
        gradient_entry(network, "2", image, loss, entry=(0, 3, 0, 0))
    conv = nn.Conv2d(2, 2, 3, padding=1)
    with pytest.raises(
        ValueError, match="layer '0' must run once for an image to be explained, it ran 2 times"
    ):
        output_value(nn.Sequential(conv, conv), "0", image, at=(0, 0))
    mirrored = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="padding_mode must be zeros to be explained, got 'reflect'"):
        output_value(mirrored, "0", image, at=(0, 0))
    with pytest.raises(ValueError, match=r"a Linear that reads \(1, 2, 12, 12\) is not explained"):
        output_value(nn.Sequential(nn.Linear(12, 3)), "0", image, at=())
