"""Networks made otherwise, to compare what becomes of their gradients.

A network but for its activation, its batch norm or its shortcuts; and stacks of equal layers, in which theory
is exact.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnkit.errors import Misuse
from cnnkit.inspect.gradients import Flow, Loss, batch_loss, flow
from cnnkit.inspect.trace import tree

#: What changes with the activation.
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Hardswish)
NORMS = (nn.modules.batchnorm._BatchNorm,)
Kinds = tuple[type[nn.Module], ...]


def with_activation(model: nn.Module, activation: Callable[[], nn.Module]) -> nn.Module:
    """A copy of the network with another activation in place of its own.

    Raises:
        Misuse: it has none that is a module.
    """
    return exchanged(model, ACTIVATIONS, lambda _: activation(), "activation")


def without_norm(model: nn.Module) -> nn.Module:
    """A copy of the network without batch norm.

    Raises:
        Misuse: it has none.
    """
    return exchanged(model, NORMS, lambda _: nn.Identity(), "batch norm")


def with_norm(model: nn.Module) -> nn.Module:
    """A copy of the network with batch norm behind every convolution.

    Raises:
        Misuse: it has no convolution in the plane.
    """
    return exchanged(
        model, (nn.Conv2d,), lambda c: nn.Sequential(c, nn.BatchNorm2d(c.out_channels)), "convolution"
    )


def exchanged(model: nn.Module, kinds: Kinds, make: Callable[[Any], nn.Module], what: str) -> nn.Module:
    """A copy with something else in place of modules of some kinds.

    Raises:
        Misuse: there is none.
    """
    model, count = copy.deepcopy(model), 0
    for _, part in list(tree(model)):
        for name, child in list(part.named_children()):
            if isinstance(child, kinds):
                setattr(part, name, make(child))
                count += 1
    if not count:
        raise Misuse(f"{type(model).__name__} has no {what} among its modules")
    return model


SUMS = ("add", "add_", "__add__", "__iadd__", "__radd__")
MULTIPLIES = (
    "conv1d",
    "conv2d",
    "conv3d",
    "linear",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)


class Plain(TorchFunctionMode):
    """Where two maps are added that lie behind different numbers of layers, the deeper one passes alone.

    Attributes:
        left_out: how often that was so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depth: dict[int, tuple[Tensor, int]] = {}  # the tensor lives as long as its id is used
        self.left_out = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        maps = [x for x in args if isinstance(x, Tensor) and not isinstance(x, nn.Parameter)]
        depths = [self.depth.get(id(x), (x, 0))[1] for x in maps]
        if name in SUMS and len(maps) == 2 and maps[0].shape == maps[1].shape and depths[0] != depths[1]:
            self.left_out += 1
            return maps[depths[1] > depths[0]]
        out = func(*args, **kwargs)
        if isinstance(out, Tensor):
            lists = [x for arg in args if isinstance(arg, list | tuple) for x in arg if isinstance(x, Tensor)]
            reached = [*depths, *(self.depth.get(id(x), (x, 0))[1] for x in lists)]
            self.depth[id(out)] = out, max(reached, default=0) + (name in MULTIPLIES)
        return out


def without_shortcuts(loss: Loss) -> Loss:
    """The loss of the network without its shortcuts: of each sum only what has passed more layers stays.

    The loss raises Misuse where there is no such sum.
    """

    def plain(model: nn.Module) -> Tensor:
        with Plain() as mode:
            value = loss(model)
        if not mode.left_out:
            raise Misuse(f"{type(model).__name__} adds nothing to what it leads around, so has no shortcuts")
        return value

    return plain


class Unit(nn.Module):
    """A convolution, a norm or none, an activation; with a shortcut over all three or none."""

    def __init__(
        self, width: int, activation: Callable[[], nn.Module], *, norm: bool, shortcut: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False, padding_mode="circular")
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.activation, self.shortcut = activation(), shortcut

    def forward(self, x: Tensor) -> Tensor:
        made = self.activation(self.norm(self.conv(x)))
        return x + made if self.shortcut else made


def stack(
    depth: int,
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    norm: bool = False,
    shortcut: bool = False,
    gain: float = 2.0,
    width: int = 16,
    classes: int = 10,
    channels: int = 3,
) -> nn.Sequential:
    """A network of equal layers, to watch a signal in: its borders are circular, so that the theory is exact.

    Args:
        depth: its convolutions.
        activation: what follows them.
        norm: whether batch norm stands between.
        shortcut: whether each layer adds to what it reads.
        gain: the weights' variance times their fan-in; 2 is He's rule, 1 is Glorot's for equal widths.
        width: channels.
        classes: outputs.
        channels: of the image.
    """
    first = nn.Conv2d(channels, width, 3, padding=1, bias=False, padding_mode="circular")
    units = [Unit(width, activation, norm=norm, shortcut=shortcut) for _ in range(depth - 1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    model = nn.Sequential(first, activation(), *units, *head)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=math.sqrt(gain / math.prod(part.weight.shape[1:])))
    return model


#: What a study of stacks compares.
VARIANTS: dict[str, dict[str, Any]] = {
    "ReLU": {},
    "ReLU, residual": {"shortcut": True},
    "ReLU, batch norm": {"norm": True},
    "ReLU, batch norm, residual": {"norm": True, "shortcut": True},
    "sigmoid": {"activation": nn.Sigmoid},
    "sigmoid, batch norm": {"activation": nn.Sigmoid, "norm": True},
}


def study(
    images: Tensor, labels: Tensor, *, depth: int = 30, steps: Sequence[int] = (0,), seed: int = 0
) -> list[Flow]:
    """Plain against residual, sigmoid against ReLU, with and without batch norm, on one batch."""
    flows = []
    for name, how in VARIANTS.items():
        torch.manual_seed(seed)
        model = stack(depth, channels=images.shape[1], classes=int(labels.max()) + 1, **how)
        flows += flow(model, batch_loss((images, labels)), name=name, steps=steps)
    return flows


Change = Callable[[nn.Module, Loss], tuple[nn.Module, Loss]]
#: What a network can be compared with: itself, but for one thing.
CHANGES: dict[str, Change] = {
    "sigmoid": lambda model, loss: (with_activation(model, nn.Sigmoid), loss),
    "tanh": lambda model, loss: (with_activation(model, nn.Tanh), loss),
    "relu": lambda model, loss: (with_activation(model, nn.ReLU), loss),
    "norm": lambda model, loss: (with_norm(model), loss),
    "no-norm": lambda model, loss: (without_norm(model), loss),
    "no-shortcuts": lambda model, loss: (model, without_shortcuts(loss)),
}
