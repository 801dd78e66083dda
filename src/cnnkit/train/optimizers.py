"""Step rules: how a gradient becomes a change of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cnnkit.parts import Part, named, setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

#: Groups of parameters as torch's optimisers take them.
Groups = Iterable[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Sgd(Part):
    """Stochastic gradient descent with momentum (Polyak 1964), looking ahead as Nesterov (Sutskever 2013)."""

    name: ClassVar[str] = "sgd"
    lr: float = setting(0.1, "Highest learning rate.", gt=0)
    momentum: float = setting(0.9, "Share of the last step that is kept.", ge=0, lt=1)
    nesterov: bool = setting(True, "Whether the gradient counts after the momentum.")
    weight_decay: float = setting(0.0005, "Share of a weight that is added to its gradient (L2).", ge=0)
    decay_all: bool = setting(False, "Whether biases and norms decay too, as in the papers before 2017.")

    def build(self, groups: Groups, *, fused: bool) -> Optimizer:
        """The optimiser of these groups."""
        from torch.optim import SGD

        nesterov = self.nesterov and self.momentum > 0
        return SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=nesterov, fused=fused)


@dataclass(frozen=True, kw_only=True)
class Adamw(Part):
    """Adam with the decay of weights apart from the gradient (Loshchilov & Hutter 2019, 1711.05101)."""

    name: ClassVar[str] = "adamw"
    lr: float = setting(0.003, "Highest learning rate.", gt=0)
    beta1: float = setting(0.9, "Memory of the mean gradient.", ge=0, lt=1)
    beta2: float = setting(0.999, "Memory of the mean squared gradient.", ge=0, lt=1)
    eps: float = setting(1e-8, "Added to the root of the mean square.", gt=0)
    weight_decay: float = setting(0.05, "Share of a weight that is taken off, times the learning rate.", ge=0)
    decay_all: bool = setting(False, "Whether biases and norms decay too.")

    def build(self, groups: Groups, *, fused: bool) -> Optimizer:
        """The optimiser of these groups."""
        from torch.optim import AdamW

        return AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=fused)


@dataclass(frozen=True, kw_only=True)
class RmsProp(Part):
    """RMSprop as TensorFlow has it: epsilon inside the root, mean squares that start at 1.

    MobileNet and EfficientNet were trained with it; torch's adds epsilon outside the root.
    """

    name: ClassVar[str] = "rmsprop"
    lr: float = setting(0.016, "Highest learning rate.", gt=0)
    alpha: float = setting(0.9, "Memory of the mean squared gradient.", ge=0, lt=1)
    momentum: float = setting(0.9, "Share of the last step that is kept.", ge=0, lt=1)
    eps: float = setting(0.001, "Added to the mean square before the root.", gt=0)
    weight_decay: float = setting(1e-5, "Share of a weight that is added to its gradient (L2).", ge=0)
    decay_all: bool = setting(False, "Whether biases and norms decay too.")

    def build(self, groups: Groups, *, fused: bool) -> Optimizer:
        """The optimiser of these groups; there is no fused form."""
        from cnnkit.train.rmsprop import RMSpropTensorFlow

        return RMSpropTensorFlow(groups, lr=self.lr, alpha=self.alpha, momentum=self.momentum, eps=self.eps)


StepRule = Sgd | Adamw | RmsProp
OPTIMIZERS: dict[str, type[StepRule]] = named(Sgd, Adamw, RmsProp)
