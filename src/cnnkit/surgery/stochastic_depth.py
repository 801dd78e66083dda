"""Stochastic depth. Huang, Sun, Liu, Sedra & Weinberger, ECCV 2016, arXiv:1603.09382.

In each mini-batch of training the branch f of residual unit l of L is left out with probability 1 - p_l, so
that its shortcut stands alone; in evaluation every branch counts with its probability (Eqs. 2, 4 and 5):

    training    f(x) or 0,        evaluation    p_l f(x),        p_l = 1 - l / L (1 - p_L).

This is the paper's form. What other libraries call drop path divides by p_l in training instead, and draws
for each image.
"""

import torch
from torch import Tensor, nn

from cnnkit.layers import Residual


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
        survives = torch.rand(()).item() < self.p
        return self.branch(x) if survives else x.new_zeros(())

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}"


def stochastic_depth(network: nn.Module, survival: float = 0.5) -> nn.Module:
    """Let every residual unit of the network survive with a probability that decays linearly, in place.

    Args:
        network: any network whose units are `cnnkit.layers.Residual`.
        survival: p_L, the probability of the last unit.

    Raises:
        ValueError: there is no residual unit, one has stochastic depth already, or the probability is none.
    """
    if not 0 < survival <= 1:
        raise ValueError(f"survival must be above 0 and at most 1, got {survival}")
    units = [module for module in network.modules() if isinstance(module, Residual)]
    if not units:
        raise ValueError(f"{type(network).__name__} has no residual unit whose branch could be left out")
    if any(isinstance(unit.branch, Survival) for unit in units):
        raise ValueError(f"{type(network).__name__} has stochastic depth already")
    for i, unit in enumerate(units, start=1):
        unit.branch = Survival(unit.branch, 1 - i / len(units) * (1 - survival))
    return network
