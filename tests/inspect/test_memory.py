"""Memory of activations, against what PyTorch keeps and allocates."""

import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cnnkit.inspect.memory import training
from cnnkit.inspect.table import table
from cnnkit.inspect.trace import trace

torchvision = pytest.importorskip("torchvision")

NETS = [
    "resnet18",
    "vgg11_bn",
    "googlenet",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
]


def build(name: str) -> nn.Module:
    extra = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, num_classes=10, **extra).eval()


class Alive(TorchDispatchMode):
    """Adds up the memory that lives, whoever holds it: the second route."""

    def __init__(self, outside: list[Tensor], but: Collection[torch.Size] = ()) -> None:
        super().__init__()
        self.but = but
        self.known = {t.untyped_storage()._cdata for t in outside}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and tensor.shape not in self.but:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, pointer: int, nbytes: int) -> None:
        self.known.discard(pointer)
        self.now -= nbytes


@pytest.mark.parametrize("name", NETS)
def test_the_peak_of_inference_is_what_lives_at_the_worst_moment(name: str) -> None:
    model, images = build(name), torch.zeros(2, 3, 64, 64)
    with torch.no_grad(), Alive([*model.parameters(), *model.buffers(), images]) as alive:
        model(images)
    assert trace(model, images).peak == alive.peak + images.nbytes


def kept_by_autograd(model: Callable[..., Tensor], inputs: Tensor, outside: list[Tensor]) -> int:
    """Bytes of all memory that autograd keeps, parameters and buffers apart."""
    known = {t.untyped_storage()._cdata for t in outside}
    found: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: found.setdefault(t.untyped_storage()._cdata, t), lambda t: t
    ):
        model(inputs)
    return sum(t.untyped_storage().nbytes() for pointer, t in found.items() if pointer not in known)


@pytest.mark.parametrize("name", NETS)
def test_training_keeps_what_autograd_keeps(name: str) -> None:
    model, images = build(name), torch.zeros(2, 3, 64, 64)
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    outside = [*model.parameters(), *model.buffers()]
    assert training(trace(model, images)).kept == kept_by_autograd(model, images, outside)


def overwritten(function: Callable[..., Tensor], x: Tensor) -> Tensor:
    """A function that works in place, on something that may be overwritten."""
    return function(x.sigmoid() * x, inplace=True)


ACTIVATIONS = "relu silu gelu hardswish hardsigmoid relu6 leaky_relu elu softplus mish celu selu sigmoid tanh"
IN_PLACE = "relu6 hardtanh leaky_relu elu celu selu hardswish hardsigmoid silu mish"
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(functional, name) for name in ACTIVATIONS.split()},
    **{name: getattr(torch, name) for name in ("exp", "sqrt", "abs", "neg")},
    "max pooling": lambda x: functional.max_pool2d(x, 2),
    "average pooling": lambda x: functional.avg_pool2d(x, 2),
    "global pooling": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "adaptive pooling": lambda x: functional.adaptive_avg_pool2d(x, 3),
    "softmax": lambda x: x.softmax(1),
    "layer norm": lambda x: functional.layer_norm(x, (8,)),
    "group norm": lambda x: functional.group_norm(x, 2),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "product": lambda x: x * x.sigmoid(),
    "quotient": lambda x: x / x.exp(),
    "number": lambda x: 2 * x + 1,
    "concatenation": lambda x: torch.cat([x, x.relu()], 1),
    "in place": lambda x: functional.silu(x * 2, inplace=True),
    **{f"{name} in place": partial(overwritten, getattr(functional, name)) for name in IN_PLACE.split()},
    "relu in place": lambda x: functional.relu(x.sigmoid() * x, inplace=True),
    "largest": lambda x: x.amax(1),
    "mean": lambda x: x.mean((2, 3)),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
}


class Applied(nn.Module):
    """A function behind a convolution, so that its input has a gradient."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.conv(x))
        return y * y.sigmoid()  # keeps y in any case


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_operator_keeps_what_autograd_keeps(name: str) -> None:
    model, images = Applied(FUNCTIONS[name]).eval(), torch.rand(2, 3, 8, 8)
    assert training(trace(model, images)).kept == kept_by_autograd(model, images, list(model.parameters()))


@pytest.mark.parametrize("name", NETS)
def test_the_peak_of_training_is_near_what_lives_at_the_worst_moment(name: str) -> None:
    model, images = build(name).to("meta"), torch.zeros(4, 3, 224, 224, device="meta")
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    shapes = {s for p in model.parameters() for s in (p.shape, p.shape[::-1])}  # gradients of weights
    with Alive([*model.parameters(), *model.buffers(), images], shapes) as alive:
        model(images).sum().backward()
    assert training(trace(model, images)).peak == pytest.approx(alive.peak + images.nbytes, rel=0.01)


def test_the_table_states_all_three() -> None:
    model, images = build("resnet18"), torch.zeros(2, 3, 64, 64)
    made = table(trace(model, images))
    assert images.nbytes < made.trace.peak < made.training.kept < made.training.peak
    assert made.total.activations > made.trace.peak
