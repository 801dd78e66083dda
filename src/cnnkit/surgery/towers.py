"""AlexNet's two towers on two devices, one process each: the model parallelism of 2012.

Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.2: each GPU has half of every layer's maps or units, and
"the GPUs communicate only in certain layers". The second, fourth and fifth convolution read their own tower;
the third and the linear layers read both, and the logits are put together at the end. A process computes its
tower from the same images as the other, and both have the same logits and so the same loss.

Departure: as in Caffe's network, of which the grouped one is a copy, the response norms read two maps across
the border, so these cross as well; the paper does not say what its norms read there.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from cnnkit.layers import ResponseNorm

#: Maps on either side that a response norm reads: its window is of five.
REACH = 2


class _Joined(torch.autograd.Function):
    """Both towers' channels side by side. What each made of them is added up in the gradient of either."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rank: int) -> Tensor:
        ctx.rank, ctx.channels = rank, mine.shape[1]
        return torch.cat(_both(mine), dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        return total.narrow(1, ctx.rank * ctx.channels, ctx.channels), None


def _both(mine: Tensor) -> list[Tensor]:
    mine = mine.contiguous()
    found = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(found, mine)
    return found


class Join(nn.Module):
    """Activations that cross, for a layer that reads both towers. Shape: (N, C, ...) -> (N, 2C, ...)"""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, mine: Tensor) -> Tensor:
        return _Joined.apply(mine, self.rank)


class Logits(Join):
    """The logits of both towers. Both processes compute the same loss of them, so its gradient is not added
    up.
    """

    def forward(self, mine: Tensor) -> Tensor:
        found = _both(mine.detach())
        found[self.rank] = mine
        return torch.cat(found, dim=1)


class BorderNorm(nn.Module):
    """A response norm over one tower's maps and the nearest two of the other. Shape: (N, C, H, W), kept"""

    def __init__(self, norm: nn.Module, rank: int) -> None:
        super().__init__()
        self.norm, self.join, self.rank = norm, Join(rank), rank

    def forward(self, mine: Tensor) -> Tensor:
        if self.rank == 0:
            theirs = self.join(mine[:, -REACH:])[:, REACH:]
            return self.norm(torch.cat([mine, theirs], dim=1))[:, :-REACH]
        theirs = self.join(mine[:, :REACH])[:, :REACH]
        return self.norm(torch.cat([theirs, mine], dim=1))[:, REACH:]


def tower(network: nn.Module, rank: int) -> nn.Sequential:
    """One tower of a network with two, to be run in one of two processes of a default process group.

    Args:
        network: with `stages` and a `head` in turn, such as `alexnet_two_tower`; it is left as it is.
        rank: of the process, 0 or 1.

    Raises:
        ValueError: a layer cannot be halved.
    """
    made = nn.Sequential()
    alone = False  # whether this process knows its own half of the maps only
    for layer in _layers(network):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if alone and getattr(layer, "groups", 1) == 1:
                made.append(Join(rank))
            made.append(_half(layer, rank))
            alone = True
        elif isinstance(layer, ResponseNorm):
            made.append(BorderNorm(copy.deepcopy(layer), rank))
        else:
            made.append(copy.deepcopy(layer))
    return made.append(Logits(rank))


def put_together(network: nn.Module, half: nn.Module) -> None:
    """Give the whole network the weights of both towers; both processes call it with their own."""
    layers = [m for m in half.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer, part in zip(_weighted(network), layers, strict=True):
        for name, parameter in part.named_parameters():
            both = torch.cat(_both(parameter.detach()))
            layer.get_parameter(name).data.copy_(both)


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """All layers in turn, those that consist of others taken apart."""
    parts = [*network.get_submodule("stages").children(), network.get_submodule("head")]
    return (m for part in parts for m in part.modules() if not isinstance(m, nn.Sequential))


def _weighted(network: nn.Module) -> list[nn.Module]:
    return [m for m in _layers(network) if isinstance(m, nn.Conv2d | nn.Linear)]


def _half(layer: nn.Conv2d | nn.Linear, rank: int) -> nn.Module:
    """The layer with the first or the second half of its outputs."""
    groups, out = getattr(layer, "groups", 1), layer.weight.shape[0]
    if groups > 2 or out % 2:
        raise ValueError(f"{layer} has no two halves")
    half = copy.deepcopy(layer)
    half.weight = nn.Parameter(layer.weight.detach().chunk(2)[rank].clone())
    if layer.bias is not None:
        half.bias = nn.Parameter(layer.bias.detach().chunk(2)[rank].clone())
    if isinstance(half, nn.Conv2d):
        half.out_channels, half.groups = out // 2, 1
        half.in_channels //= groups
    else:
        half.out_features = out // 2
    return half
