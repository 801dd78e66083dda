"""Networks on the arithmetic of `ops` do what they do on PyTorch's: values, gradients, statistics, masks."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tests.ops.agreement import assert_equal
from tests.ops.test_elementary import DEFINED_HERE, Called
from torch import Tensor, nn

import cnnkit
from cnnkit.layers import ResponseNorm
from cnnkit.surgery import use

MAPS, LINE, VOLUME = (2, 4, 9, 8), (2, 4, 11), (2, 4, 5, 6, 5)

#: A module of every kind that is replaced, with the shape of its input.
KINDS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), LINE),
    (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), MAPS),
    (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4), MAPS),
    (lambda: nn.Conv2d(4, 3, 5, padding="valid"), MAPS),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1), LINE),
    (lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=2, padding=(1, 0), groups=2, bias=False), MAPS),
    (lambda: nn.ConvTranspose2d(4, 2, 3, dilation=2), MAPS),
    (lambda: nn.Linear(8, 5), MAPS),
    (lambda: nn.Linear(8, 5, bias=False), (3, 8)),
    (lambda: nn.MaxPool1d(3, 2), LINE),
    (lambda: nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), MAPS),
    (lambda: nn.MaxPool2d((2, 3), 1, dilation=(2, 1)), MAPS),
    (lambda: nn.MaxPool3d(2), VOLUME),
    (lambda: nn.AvgPool1d(2), LINE),
    (lambda: nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), MAPS),
    (lambda: nn.AvgPool2d(2, divisor_override=1), MAPS),
    (lambda: nn.AvgPool3d(2, 1), VOLUME),
    (lambda: nn.AdaptiveAvgPool1d(3), LINE),
    (lambda: nn.AdaptiveAvgPool2d((None, 3)), MAPS),
    (lambda: nn.AdaptiveAvgPool2d(1), MAPS),
    (lambda: nn.AdaptiveAvgPool3d(2), VOLUME),
    (lambda: nn.AdaptiveMaxPool1d(4), LINE),
    (lambda: nn.AdaptiveMaxPool2d((4, 3)), MAPS),
    (lambda: nn.AdaptiveMaxPool3d(2), VOLUME),
    (lambda: nn.BatchNorm1d(4), LINE),
    (lambda: nn.BatchNorm1d(8, affine=False), (5, 8)),
    (lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=None), MAPS),
    (lambda: nn.BatchNorm2d(4, track_running_stats=False), MAPS),
    (lambda: nn.BatchNorm3d(4), VOLUME),
    (lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2), MAPS),
    (lambda: nn.LocalResponseNorm(3, alpha=0.5), MAPS),
    (lambda: ResponseNorm(alpha=0.5, k=1.0), MAPS),
    (nn.Dropout, MAPS),
    (lambda: nn.Dropout2d(0.3), MAPS),
    (nn.ReLU, MAPS),
    (lambda: nn.ReLU(inplace=False), (7,)),
    (nn.ReLU6, MAPS),
    (nn.Sigmoid, MAPS),
    (nn.Tanh, MAPS),
    (nn.SiLU, MAPS),
    (lambda: nn.Softmax(dim=1), MAPS),
    (lambda: nn.LogSoftmax(dim=-1), MAPS),
]


def made(factory: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = factory().double()
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.5)
    return module


def run(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The value, the gradients of the input and of all parameters, and the buffers after it."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    y = module(x)
    residual = torch.randn(y.shape, generator=torch.Generator().manual_seed(4), dtype=y.dtype)
    leaves = [x, *module.parameters()]
    return [y.detach(), *torch.autograd.grad(y, leaves, residual), *(b.double() for b in module.buffers())]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("factory", "shape"), KINDS)
def test_every_kind_of_module_computes_what_pytorchs_does(
    factory: Callable[[], nn.Module], shape: tuple[int, ...], training: bool
) -> None:
    theirs = made(factory).train(training)
    ours = use(copy.deepcopy(theirs))
    assert type(ours) is not type(theirs)
    assert isinstance(ours, type(theirs))
    x = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, expected in zip(run(ours, x), run(theirs, x), strict=True):
        # x on two values a channel cancels to nothing in batch norm, hence the absolute term
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("factory", "shape"), [pair for pair in KINDS if pair[0] not in (nn.Dropout,) and len(pair[1]) < 5]
)
def test_gradients_are_the_derivatives(factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    module = use(made(factory)).eval()
    small = (2, shape[1], *(min(n, 5) for n in shape[2:])) if len(shape) > 2 else shape
    if isinstance(module, nn.Linear):
        small = (2, 8)
    x = torch.randn(small, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [x.requires_grad_(), *module.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: module(x), leaves)


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft", "winograd", "winograd4"])
def test_every_algorithm_of_convolution_trains_a_network_alike(algorithm: Any) -> None:
    """3 x 3 and others: Winograd's leave the others to im2col."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 5, stride=2, groups=2),
            nn.Tanh(),
            nn.ConvTranspose2d(6, 2, 3),
        )

    theirs = made(build)
    ours = use(copy.deepcopy(theirs), convolution=algorithm)
    x = torch.randn(2, 3, 12, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for found, expected in zip(run(ours, x), run(theirs, x), strict=True):
        assert_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("mobilenet_v2", 64), ("squeezenet1_0", 63), ("densenet121", 64)]
)
def test_torchvisions_networks_take_a_training_step_alike(name: str, size: int) -> None:
    """In-place sums, ReLU6, depthwise and ceil-mode layers, concatenations: loss, gradients, statistics."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=5).double()
    ours = use(copy.deepcopy(theirs))
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([1, 4])
    losses = []
    for network, criterion in ((ours, use(nn.CrossEntropyLoss())), (theirs, nn.CrossEntropyLoss())):
        torch.manual_seed(2)
        loss = criterion(network(x), labels)
        loss.backward()
        losses.append(loss.detach())
    assert_equal(*losses, 1e-12)
    scale = max(float(p.grad.abs().max()) for p in theirs.parameters() if p.grad is not None)
    for (key, ours_), theirs_ in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (ours_.grad - theirs_.grad).abs().max() <= 1e-9 * scale, key
    for (key, ours_), theirs_ in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-10, atol=1e-12, msg=key)


def test_no_operator_of_pytorch_is_left_that_ops_defines_forward_or_backward() -> None:
    forbidden = (*DEFINED_HERE, "softmax", "nll", "relu", "threshold", "addmm")
    network = torchvision.models.alexnet(num_classes=3)
    network.features.append(nn.LocalResponseNorm(5)).append(nn.BatchNorm2d(256))
    x, labels = torch.rand(2, 3, 64, 64), torch.tensor([0, 2])
    calls = []
    for change in (use, lambda module: module):
        with Called() as called:
            change(nn.CrossEntropyLoss())(change(network)(x), labels).backward()
        calls.append({name for name in called.names if any(part in name for part in forbidden)})
    assert calls[0] == set()
    assert {"aten::convolution", "aten::convolution_backward", "aten::addmm"} <= calls[1]


def test_unpooling_with_switches_computes_what_pytorchs_does() -> None:
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    results = []
    for down, up in ((pool, unpool), (use(pool), use(unpool))):
        leaf = x.clone().requires_grad_()
        values, switches = down(leaf)
        back = up(values.square(), switches)
        back.mul(x).sum().backward()
        results.append((back.detach(), leaf.grad, up(values, switches, output_size=(7, 9)).detach()))
    for found, expected in zip(*reversed(results), strict=True):
        assert_equal(found, expected)


def test_the_weights_are_shared_and_the_original_is_not_changed() -> None:
    original = torchvision.models.resnet18(num_classes=3)
    kinds = [type(m) for m in original.modules()]
    state = {k: v.clone() for k, v in original.state_dict().items()}
    changed = use(original)
    assert [type(m) for m in original.modules()] == kinds
    for key, value in original.state_dict().items():
        assert torch.equal(value, state[key])
    for ours, theirs in zip(changed.parameters(), original.parameters(), strict=True):
        assert ours is theirs
    for ours, theirs in zip(changed.buffers(), original.buffers(), strict=True):
        assert ours is theirs
    assert list(changed.state_dict()) == list(original.state_dict())


def test_a_module_that_is_used_twice_stays_one_module() -> None:
    relu = nn.ReLU()
    changed = use(nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu))
    assert changed[1] is changed[3]


def test_a_second_use_changes_the_algorithm() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 5), nn.ReLU())
    again = use(use(network, convolution="fft"), convolution="winograd")
    assert again[0].algorithm == "winograd"
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(again(x), network(x))


def test_a_subclass_is_left_alone_for_its_forward_may_do_anything() -> None:
    class Negative(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    changed = use(nn.Sequential(Negative(), nn.ReLU()))
    assert type(changed[0]) is Negative
    assert changed(torch.tensor([1.0, -1.0])).tolist() == [0, 0]


def test_a_copy_and_a_move_to_another_type_work_as_ever() -> None:
    network = use(cnnkit.create("lenet5_relu"))
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(copy.deepcopy(network).double()(x.double()).float(), network(x))


def test_what_was_overwritten_between_forward_and_backward_is_noticed() -> None:
    network = use(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()))
    y = network(torch.rand(2, 3))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: use(nn.Identity()), r"Identity has no module whose arithmetic"),
        (lambda: use(nn.ReLU(), convolution="gemm"), r"convolution must be one of direct.*got 'gemm'"),
        (
            lambda: use(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))),
            r"0 pads with 'reflect'",
        ),
        (
            lambda: use(nn.MaxPool2d(2))(torch.zeros(3, 4, 4)),
            r"MaxPool2d takes \(N, C, \*spatial\) of 4 axes, got \(3, 4, 4\)",
        ),
        (lambda: use(nn.Softmax())(torch.zeros(2, 2)), r"Softmax must say its dim"),
        (
            lambda: use(nn.CrossEntropyLoss(label_smoothing=0.1))(torch.zeros(2, 2), torch.tensor([0, 1])),
            r"neither probabilities nor label_smoothing",
        ),
        (lambda: use(nn.LocalResponseNorm(4))(torch.zeros(1, 4, 2, 2)), r"size must be odd.*got 4"),
    ],
)
def test_what_cannot_be_replaced_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.realdata
def test_lenet_trained_on_this_arithmetic_follows_pytorchs_run_step_by_step(realdata: Path) -> None:
    """200 steps of momentum SGD on MNIST in float64, batches of 16: the losses stay equal to 1e-9."""
    data = torchvision.datasets.MNIST(realdata)
    images, labels = data.data[:3200].reshape(200, 16, 1, 28, 28), data.targets[:3200].reshape(200, 16)
    torch.manual_seed(0)
    theirs = cnnkit.create("lenet5_relu").double()
    ours = use(copy.deepcopy(theirs))
    runs = []
    for network, criterion in ((ours, use(nn.CrossEntropyLoss())), (theirs, nn.CrossEntropyLoss())):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9)
        losses = []
        for batch, target in zip(images, labels, strict=True):
            optimiser.zero_grad()
            loss = criterion(network((batch.double() / 255 - 0.1307) / 0.3081), target)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        runs.append(torch.tensor(losses, dtype=torch.float64))
    assert (runs[0] - runs[1]).abs().max() < 1e-9
    assert runs[0][-20:].mean() < 0.7 < runs[0][:5].mean()  # it did learn
