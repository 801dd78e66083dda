"""Weights start with the variances that the papers derive."""

import math

import pytest
import torch
from torch import Tensor, nn

from cnnkit.models import create
from cnnkit.surgery.stochastic_depth import stochastic_depth
from cnnkit.train.initialise import NAMES, SCHEMES, initialise
from cnnkit.train.starts import STARTS

#: Per scheme, the variance of a weight from fan-in and fan-out.
VARIANCES = {
    "gaussian": lambda fan_in, fan_out: 1e-4,
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he_fan_in": lambda fan_in, fan_out: 2 / fan_in,
    "he_fan_out": lambda fan_in, fan_out: 2 / fan_out,
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
}


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Conv2d(32, 64, 5), 32 * 25, 64 * 25),
        (nn.Conv2d(64, 128, 3, groups=4), 16 * 9, 32 * 9),
        (nn.Conv2d(4096, 4096, 3, groups=4096), 9, 9),
        (nn.Linear(300, 200), 300, 200),
    ],
)
def test_the_variance_is_that_of_the_formula(name: str, layer: nn.Module, fan_in: int, fan_out: int) -> None:
    """The sample variance of n numbers strays by sqrt(2 / n) of itself; five of those are allowed."""
    torch.manual_seed(0)
    initialise(nn.Sequential(layer), name)
    weight = layer.get_parameter("weight").detach()
    expected = VARIANCES[name](fan_in, fan_out)
    assert float(weight.square().mean()) == pytest.approx(expected, rel=5 * math.sqrt(2 / weight.numel()))
    if "uniform" in name:
        assert float(weight.abs().max()) <= math.sqrt(3 * expected)
    else:
        assert float(weight.abs().max()) > math.sqrt(4 * expected)
    assert bool((layer.get_parameter("bias") == 0).all())


@pytest.mark.parametrize("groups", [1, 2])
def test_orthogonal_kernels_are_orthogonal_and_keep_lengths(groups: int) -> None:
    layer = nn.Conv2d(8, 16, 3, groups=groups)
    initialise(nn.Sequential(layer), "orthogonal")
    for part in layer.weight.detach().chunk(groups):
        rows = part.flatten(1)
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    tall = nn.Linear(10, 40)
    initialise(nn.Sequential(tall), "orthogonal")
    columns = tall.weight.detach()
    torch.testing.assert_close(columns.T @ columns, torch.eye(10), atol=1e-5, rtol=0)


def test_lsuv_gives_the_output_of_every_layer_the_variance_1_on_the_batch() -> None:
    torch.manual_seed(0)
    network, images = create("vgg11", width=0.125, num_classes=10), torch.randn(16, 3, 64, 64)
    before = [b.clone() for b in network.buffers()]
    initialise(network, "lsuv", images)
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
    found: list[float] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda m, x, y: found.append(float(y.detach().std())))
    network.eval()(images)
    assert len(found) == 11
    assert found == pytest.approx([1.0] * 11, abs=0.01)


def test_a_unit_whose_last_scale_is_0_starts_as_its_shortcut() -> None:
    network = create("resnet20_cifar10", width=0.5)
    initialise(initialise(network, "he_fan_out"), "zero_gamma")
    units = [m for m in network.modules() if type(m).__name__ == "Residual"]
    x = torch.rand(2, 8, 16, 16)
    assert torch.equal(units[0].eval()(x), x)
    scales = [float(m.weight.detach().amax()) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert scales.count(0.0) == len(units) == 9
    assert scales.count(1.0) == 10
    initialise(stochastic_depth(create("resnet20_cifar10", width=0.5)), "zero_gamma")


@pytest.mark.parametrize("name", ["preresnet110_cifar10", "vgg11"])
def test_zero_gamma_is_refused_where_it_would_silence_a_branch_for_good_or_has_nothing_to_do(
    name: str,
) -> None:
    """In a pre-activated branch the last norm stands before a ReLU, which passes no gradient at 0."""
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="no residual branch that ends in a batch norm"),
    ):
        initialise(create(name, width=0.25), "zero_gamma")


@pytest.mark.parametrize(
    "name", ["lenet5_relu", "resnet20_cifar10", "squeezenet1_1", "mobilenet_v2", "vgg11_bn"]
)
@pytest.mark.parametrize("scheme", ["gaussian", "xavier_uniform", "he_fan_out", "orthogonal"])
def test_any_network_starts_anew_from_the_seed_and_its_norms_too(name: str, scheme: str) -> None:
    def made(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        network = create(name, **({} if name.startswith("lenet") else {"width": 0.25}))
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data.fill_(3)
        torch.manual_seed(seed)
        return initialise(network, scheme).state_dict()

    one, again, other = made(1), made(1), made(2)
    assert all(torch.equal(one[key], again[key]) for key in one)
    for key, value in one.items():
        if value.ndim > 1:
            assert not torch.equal(value, other[key])
        elif key.endswith("running_mean") or key.endswith("bias"):
            assert not value.any()
        elif not key.endswith("num_batches_tracked"):
            assert bool((value == 1).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(LookupError, match="no initialisation 'xavier'; did you mean xavier_"):
        initialise(nn.Linear(2, 2), "xavier")
    with pytest.raises(ValueError, match="lsuv scales layers on a batch of images and got none"):
        initialise(nn.Linear(2, 2), "lsuv")
    with pytest.raises(ValueError, match="ReLU has no convolution and no dense layer"):
        initialise(nn.ReLU(), "gaussian")


def test_the_parts_of_a_recipe_are_the_schemes() -> None:
    assert tuple(STARTS) == NAMES
    assert set(SCHEMES) < set(STARTS)


@pytest.mark.parametrize("name", ["he_fan_in", "lsuv"])
def test_kernels_that_never_learn_stay_as_they_are(name: str) -> None:
    network = create("fcn8s_vgg16", width=0.03125, num_classes=3)
    fixed = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    assert fixed, "FCN's bilinear kernels are fixed"
    initialise(network, name, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(network.get_parameter(n), p) for n, p in fixed.items())
