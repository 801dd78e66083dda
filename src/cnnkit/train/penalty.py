"""Penalties on weights as terms of the loss: l1 |w|_1 + l2 / 2 |w|_2^2, over all weights that learn.

Biases and norms are left out, as from the decay of the optimiser. The gradient of the second term is l2 w, so
with plain SGD it is what a weight decay of l2 does, and with an adaptive step rule it is not (Loshchilov &
Hutter 2019, arXiv:1711.05101). The first drives weights towards 0 without ever setting one to it; for that
there is pruning.
"""

from torch import Tensor, nn


def penalty(network: nn.Module, l1: float, l2: float) -> Tensor | float:
    """The value of both terms; 0 where there is nothing to punish."""
    total: Tensor | float = 0.0
    for weight in network.parameters():
        if not weight.requires_grad or weight.ndim < 2:
            continue
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 / 2 * weight.square().sum()
    return total
