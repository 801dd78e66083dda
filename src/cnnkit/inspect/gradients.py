"""How signals and gradients travel through a network: where they vanish, where they explode.

After Glorot & Bengio, AISTATS 2010, and He, Zhang, Ren & Sun, ICCV 2015, arXiv:1502.01852: with fan-in n and
weights of variance v, a layer multiplies the mean square of its signal by n v E[phi'^2], forwards and
backwards alike; a deep network keeps its gradient only where that is 1. A sigmoid has phi' <= 1/4, a ReLU
halves.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnkit.draw.charts import COLOURS, INK, figure
from cnnkit.inspect.trace import tree

#: Layers whose outputs are looked at.
WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)
#: A gradient that is this many times weaker or stronger at the input than at the output is called lost.
LOST = 1e4


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with weights, in one step.

    Attributes:
        path: the module's name.
        activation: root mean square of what it returns, before the activation function.
        gradient: root mean square of the loss's gradient with respect to that.
        weight: norm of the gradient with respect to its weights, over the norm of the weights.
        convolves: whether it is a convolution.
    """

    path: str
    activation: float
    gradient: float
    weight: float
    convolves: bool


@dataclass(frozen=True, slots=True)
class Flow:
    """A network's layers in order, after some steps.

    Attributes:
        name: what was measured.
        step: steps of gradient descent before it.
        loss: the loss.
        layers: the layers, first to last.
    """

    name: str
    step: int
    loss: float
    layers: tuple[Layer, ...]

    @property
    def body(self) -> tuple[Layer, ...]:
        """The convolutions, or all layers where there are few: behind a pooling the scale is another."""
        found = tuple(layer for layer in self.layers if layer.convolves)
        return found if len(found) > 2 else self.layers

    @property
    def ratio(self) -> float:
        """How much stronger the gradient is at the first layer of the body than at the last."""
        first, last = self.body[0].gradient, self.body[-1].gradient
        if not (math.isfinite(first) and math.isfinite(last)):
            return math.nan
        return first / last if last else math.inf if first else math.nan

    def slope(self, what: Literal["activation", "gradient"]) -> float:
        """Powers of ten by which the mean square changes from layer to layer of the body, fitted."""
        values = torch.tensor([getattr(layer, what) for layer in self.body], dtype=torch.float64)
        logs = 2 * values.clamp(min=1e-300).log10()
        depth = torch.arange(len(logs), dtype=torch.float64)
        centred = depth - depth.mean()
        return float((centred * logs).sum() / (centred**2).sum())

    @property
    def warning(self) -> str:
        """A sentence where the gradient does not arrive, else nothing."""
        when = f"{self.name} " + ("at initialisation" if self.step == 0 else f"after {self.step} steps")
        lost = [layer for layer in self.layers if not math.isfinite(layer.gradient * layer.activation)]
        if lost:
            return f"{when}: numbers overflow at {lost[0].path}"
        if math.isnan(self.ratio):
            return f"{when}: no gradient arrives at any layer"
        if not 1 / LOST <= self.ratio <= LOST:
            weak = self.ratio < 1
            what, how = ("vanishes", "weaker") if weak else ("explodes", "stronger")
            times = 1 / max(self.ratio, 1e-300) if weak else self.ratio
            first, last = self.body[0].path, self.body[-1].path
            return f"{when}: the gradient {what}, {times:.1e} times {how} at {first} than at {last}"
        return ""


Loss = Callable[[nn.Module], Tensor]


def flow(
    model: nn.Module, loss: Loss, *, name: str = "", steps: Sequence[int] = (0,), rate: float = 0.01
) -> list[Flow]:
    """Measure a network at initialisation and after steps of gradient descent. It is left as it was.

    Args:
        model: the network.
        loss: the loss of the network on a batch; it may draw a new batch each time.
        name: of the network.
        steps: when to measure.
        rate: learning rate of the steps.
    """
    model = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(model.parameters(), rate)
    flows = []
    for step in range(max(steps) + 1):
        optimiser.zero_grad()
        with outputs(model) as outs, torch.enable_grad():
            value = loss(model)
        if step in steps:
            for out in outs.values():
                out.retain_grad()
        torch.autograd.backward(value)
        if step in steps:
            layers = tuple(_layer(path, model.get_submodule(path), out) for path, out in outs.items())
            flows.append(Flow(name or type(model).__name__, step, float(value.detach()), layers))
        optimiser.step()
    return flows


def _layer(path: str, module: nn.Module, out: Tensor) -> Layer:
    weight: Any = module.weight
    gradient = out.grad if out.grad is not None else torch.zeros_like(out)
    norm = 0.0 if weight.grad is None else float(weight.grad.norm() / weight.detach().norm().clamp(min=1e-30))
    return Layer(path, _rms(out), _rms(gradient), norm, not isinstance(module, nn.Linear))


def _rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@contextmanager
def outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What each layer with weights returned at its first call, in order."""
    outs: dict[str, Tensor] = {}
    hooks = []
    try:
        for path, part in tree(model):
            if isinstance(part, WEIGHTED):
                hooks.append(part.register_forward_hook(keeper(path, outs)))
        yield outs
    finally:
        for hook in hooks:
            hook.remove()


def keeper(path: str, outs: dict[str, Tensor]) -> Callable[..., None]:
    """A hook that keeps what a module returns at its first call."""

    def keep(module: nn.Module, inputs: Any, out: Tensor) -> None:
        outs.setdefault(path, out)

    return keep


def batch_loss(images: Tensor, labels: Tensor) -> Loss:
    """Cross-entropy of a classifier on one batch."""

    def loss(model: nn.Module) -> Tensor:
        out = model(images)
        return nn.functional.cross_entropy(out if isinstance(out, Tensor) else out[0], labels)

    return loss


# -- the same network, made otherwise --------------------------------------------------------------


def with_activation(model: nn.Module, activation: Callable[[], nn.Module]) -> nn.Module:
    """A copy of the network whose ReLUs are something else."""
    return _exchanged(model, nn.ReLU, lambda _: activation())


def without_norm(model: nn.Module) -> nn.Module:
    """A copy of the network without batch norm."""
    return _exchanged(model, nn.modules.batchnorm._BatchNorm, lambda _: nn.Identity())


def _exchanged(model: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = copy.deepcopy(model)
    for _, part in list(tree(model)):
        for name, child in part.named_children():
            if isinstance(child, kind):
                setattr(part, name, make(child))
    return make(model) if isinstance(model, kind) else model


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
        flows += flow(model, batch_loss(images, labels), name=name, steps=steps)
    return flows


def chart(flows: Sequence[Flow]) -> Figure:
    """Activations and gradients against depth, on a logarithmic axis."""
    made, axes = figure(11, 3.8, 3)
    for axis, what in zip(axes, ("activation", "gradient", "weight"), strict=True):
        for i, one in enumerate(flows):
            values = [max(getattr(layer, what), 1e-38) for layer in one.layers]
            label = one.name + (f", step {one.step}" if one.step else "")
            axis.plot(
                range(1, len(values) + 1), values, color=COLOURS[i % len(COLOURS)], label=label, linewidth=1.6
            )
        axis.set_yscale("log")
        axis.set_xlabel("layer with weights", fontsize=9, color=INK)
        axis.set_title(TITLES[what], fontsize=10, color=INK, loc="left")
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return made


TITLES = {
    "activation": "activation (root mean square)",
    "gradient": "gradient of the loss by it",
    "weight": "gradient of the weights / weights",
}


def record(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """Everything, ready for JSON."""
    return [
        {
            "name": one.name,
            "step": one.step,
            "loss": one.loss,
            "ratio": one.ratio,
            "warning": one.warning,
            "layers": [
                {"layer": x.path, "activation": x.activation, "gradient": x.gradient, "weight": x.weight}
                for x in one.layers
            ],
        }
        for one in flows
    ]
