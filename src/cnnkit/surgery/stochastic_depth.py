"""Stochastic depth. Huang, Sun, Liu, Sedra & Weinberger, ECCV 2016, arXiv:1603.09382.

In each mini-batch of training the branch f of residual unit l of L is left out with probability 1 - p_l, so
that its shortcut stands alone; in evaluation every branch counts with its probability (Eqs. 2, 4 and 5):

    training    f(x) or 0,        evaluation    p_l f(x),        p_l = 1 - l / L (1 - p_L).

This is the paper's form. What other libraries call drop path divides by p_l in training instead, and draws
for each image.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.layers import Residual
from cnnkit.surgery.rehearsal import shadow_of, usual_image


class Survival(nn.Module):
    """A branch that survives a mini-batch with probability p. One that does not is not computed at all.

    Shape: that of the branch, or a single zero in its place, to be added to a shortcut.
    """

    def __init__(self, branch: nn.Module, p: float) -> None:
        super().__init__()
        self.branch, self.p = branch, p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.p * self.branch(x)
        survives = torch.rand((), device="cpu").item() < self.p
        return self.branch(x) if survives else x.new_zeros(())

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}"


class Nothing(nn.Module):
    """What a branch that is left out adds."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def residual_units(network: nn.Module) -> list[nn.Module]:
    """The modules whose output is defined, and of the same shape, when their `branch` adds nothing.

    `cnnkit.layers.Residual` is one by definition; others that have a `branch` are tried without memory or
    arithmetic, since a branch can also be stacked beside what it reads, as in ShuffleNet.
    """
    having = {n: m for n, m in network.named_modules() if isinstance(getattr(m, "branch", None), nn.Module)}
    having = {name: module for name, module in having.items() if not isinstance(module, Survival)}
    if all(isinstance(module, Residual) for module in having.values()):
        return list(having.values())
    shadow = shadow_of(network)
    seen: dict[nn.Module, tuple[Any, Any]] = {}
    for name in having:
        shadow.get_submodule(name).register_forward_hook(lambda m, x, y: seen.update({m: (x[0], y)}))
    with torch.no_grad(), torch.device("meta"):
        shadow(torch.empty(2, *usual_image(network)))
        return [m for name, m in having.items() if _adds(shadow.get_submodule(name), seen)]


def _adds(unit: Any, seen: dict[nn.Module, tuple[Any, Any]]) -> bool:
    if unit not in seen:
        return False
    x, y = seen[unit]
    unit.branch = Nothing()
    try:
        return unit(x).shape == y.shape
    except RuntimeError:  # what is stacked must have maps
        return False


def stochastic_depth(network: nn.Module, survival: float = 0.5) -> nn.Module:
    """Let every residual unit of the network survive with a probability that decays linearly, in place.

    Args:
        network: any network with residual units whose branch is a module of that name.
        survival: p_L, the probability of the last unit.

    Raises:
        ValueError: there is no residual unit, one has stochastic depth already, or the probability is none.
    """
    if not 0 < survival <= 1:
        raise ValueError(f"survival must be above 0 and at most 1, got {survival}")
    if any(isinstance(module, Survival) for module in network.modules()):
        raise ValueError(f"{type(network).__name__} has stochastic depth already")
    units: list[Any] = list(residual_units(network))
    if not units:
        raise ValueError(f"{type(network).__name__} has no residual unit whose branch could be left out")
    for i, unit in enumerate(units, start=1):
        unit.branch = Survival(unit.branch, 1 - i / len(units) * (1 - survival))
    return network
