"""How signals and gradients travel through a network: where they vanish, where they explode.

After Glorot & Bengio, AISTATS 2010, and He, Zhang, Ren & Sun, ICCV 2015, arXiv:1502.01852: with fan-in n and
weights of variance v, a layer multiplies the mean square of its signal by n v E[phi'^2], forwards and
backwards alike; a deep network keeps its gradient only where that is 1. A sigmoid has phi' <= 1/4, a ReLU
halves.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.inspect.trace import tree

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
        start: what the network is before any step, in words.
    """

    name: str
    step: int
    loss: float
    layers: tuple[Layer, ...]
    start: str = "at initialisation"

    @property
    def moment(self) -> str:
        """When, in words."""
        return self.start if self.step == 0 else f"after {self.step} step{'s' * (self.step > 1)}"

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
        when = f"{self.name} {self.moment}"
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
    model: nn.Module,
    loss: Loss,
    *,
    name: str = "",
    steps: Sequence[int] = (0,),
    rate: float = 0.01,
    start: str = "at initialisation",
    told: Callable[[int], None] = lambda step: None,
) -> list[Flow]:
    """Measure a network at initialisation and after steps of gradient descent. It is left as it was.

    Args:
        model: the network.
        loss: the loss of the network on a batch; it may draw a new batch each time.
        name: of the network.
        steps: when to measure.
        rate: learning rate of the steps.
        start: what it is before any step, in words.
        told: is called with each step before it begins.

    Raises:
        Misuse: nothing in the network learns by gradients.
    """
    name = name or type(model).__name__
    model = copy.deepcopy(model).train()
    if not any(map(weights, model.modules())):
        raise Misuse(f"{name} has no layer whose weights learn by gradients")
    optimiser = torch.optim.SGD(model.parameters(), rate)
    flows = []
    for step in range(max(steps) + 1):
        told(step)
        optimiser.zero_grad()
        with probes(model) as met, torch.enable_grad():
            value = loss(model)
        torch.autograd.backward(value)
        if step in steps:
            layers = [layer(path, model.get_submodule(path), probe) for path, probe in met.items()]
            there = tuple(found for found in layers if found is not None)
            flows.append(Flow(name, step, float(value.detach()), there, start))
        optimiser.step()
    return flows


def weights(module: nn.Module) -> list[nn.Parameter]:
    """What a layer multiplies with and learns; nothing for a norm and for what holds other modules."""
    own = module._parameters.values() if not module._modules else ()
    return [p for p in own if p is not None and p.requires_grad and p.ndim > 1]


@dataclass(slots=True)
class Probe:
    """What a layer returned, and the gradient that arrived there; None where none was sent."""

    activation: float
    gradient: float | None = None

    def arrive(self, gradient: Tensor) -> None:
        """Keep the gradient's root mean square."""
        self.gradient = rms(gradient)


def layer(path: str, module: nn.Module, probe: Probe) -> Layer | None:
    """A layer's figures; None where the loss does not depend on it, as on an auxiliary head."""
    if probe.gradient is None:
        return None
    own = weights(module)
    length = norm([p.detach() for p in own])
    pull = norm([p.grad for p in own if p.grad is not None]) / max(length, 1e-30)
    return Layer(path, probe.activation, probe.gradient, pull, max(p.ndim for p in own) > 2)


def norm(tensors: Sequence[Tensor]) -> float:
    """The length of all of them together."""
    return math.hypot(*(float(x.double().norm()) for x in tensors))


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.detach().double().square().mean().sqrt())


@contextmanager
def probes(model: nn.Module) -> Iterator[dict[str, Probe]]:
    """A probe at the first call of each layer with weights, in order."""
    met: dict[str, Probe] = {}
    hooks = []
    try:
        for path, part in tree(model):
            if weights(part):
                hooks.append(part.register_forward_hook(prober(path, met)))
        yield met
    finally:
        for hook in hooks:
            hook.remove()


def prober(path: str, met: dict[str, Probe]) -> Callable[..., None]:
    """A hook that probes what a module returns at its first call, before anything overwrites it."""

    def put(module: nn.Module, inputs: Any, out: Any) -> None:
        if path not in met and isinstance(out, Tensor) and out.is_floating_point():
            met[path] = Probe(rms(out))
            if out.requires_grad:
                out.register_hook(met[path].arrive)  # type: ignore[no-untyped-call]

    return put


def batch_loss(*batches: tuple[Tensor, Tensor]) -> Loss:
    """Cross-entropy of a classifier on images and labels, batch after batch, and from the first again.

    The loss raises Misuse where the network gives no row of logits an image.
    """
    turns = itertools.cycle(batches)

    def loss(model: nn.Module) -> Tensor:
        images, labels = next(turns)
        out = model(images)
        logits = out if isinstance(out, Tensor) or not isinstance(out, tuple) else out[0]
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(labels):
            kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise Misuse(f"gradients are those of a classifier's loss, but {len(labels)} images give {kind}")
        if int(labels.max()) >= logits.shape[1]:
            raise Misuse(f"the data have {int(labels.max()) + 1} classes, the network {logits.shape[1]}")
        return nn.functional.cross_entropy(logits, labels)

    return loss
