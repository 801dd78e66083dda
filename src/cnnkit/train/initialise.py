"""Where the weights of a network start.

    Krizhevsky, Sutskever & Hinton, NIPS 2012, section 5: normal, deviation 0.01.
    Glorot & Bengio, AISTATS 2010 ("Xavier"): variance 2 / (fan-in + fan-out).
    He, Zhang, Ren & Sun, ICCV 2015, arXiv:1502.01852 ("MSRA"): variance 2 / fan-in (Eq. 10) or 2 / fan-out
    (Eq. 14), for layers followed by a ReLU; the first and the last layer keep the factor for simplicity.
    Saxe, McClelland & Ganguli, ICLR 2014, arXiv:1312.6120: orthogonal matrices.
    Mishkin & Matas, ICLR 2016, arXiv:1511.06422 ("LSUV"): orthogonal, then scaled on a batch of images so
    that the output of each layer has variance 1 (Algorithm 1).
    Goyal et al. 2017, arXiv:1706.02677, section 5.1: the last batch norm of a residual branch starts at a
    scale of 0, so that a unit starts as its shortcut.

All but the last set every convolution and dense layer that learns, the one that makes the logits among them,
with biases of 0, and every batch norm at scale 1 and shift 0.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.registry import unknown
from cnnkit.surgery.norms import BATCH_NORMS
from cnnkit.surgery.stochastic_depth import residual_units

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def fans(weight: Tensor, groups: int) -> tuple[int, int]:
    """Inputs of one output, and outputs of one input, of a convolution's or a dense layer's weight.

    PyTorch's own count does not divide the second by the groups.
    """
    field = math.prod(weight.shape[2:])
    return weight.shape[1] * field, weight.shape[0] * field // groups


def _normal(weight: Tensor, groups: int, *, std: float) -> None:
    nn.init.normal_(weight, std=std)


def _xavier(weight: Tensor, groups: int, *, uniform: bool) -> None:
    _draw(weight, 2 / sum(fans(weight, groups)), uniform)


def _he(weight: Tensor, groups: int, *, fan: int, uniform: bool = False) -> None:
    _draw(weight, 2 / fans(weight, groups)[fan], uniform)


def _draw(weight: Tensor, variance: float, uniform: bool) -> None:
    if uniform:
        bound = math.sqrt(3 * variance)
        nn.init.uniform_(weight, -bound, bound)
    else:
        nn.init.normal_(weight, std=math.sqrt(variance))


def _orthogonal(weight: Tensor, groups: int) -> None:
    for part in weight.detach().chunk(groups):  # each group is a map of its own
        nn.init.orthogonal_(part)


#: By name, how a layer's weight is set, given the layer's groups.
SCHEMES: dict[str, Callable[[Tensor, int], None]] = {
    "gaussian": partial(_normal, std=0.01),
    "xavier_uniform": partial(_xavier, uniform=True),
    "xavier_normal": partial(_xavier, uniform=False),
    "he_fan_in": partial(_he, fan=0),
    "he_fan_out": partial(_he, fan=1),
    "he_uniform": partial(_he, fan=0, uniform=True),
    "orthogonal": _orthogonal,
}

#: All that `initialise` takes: those, and what needs images or residual units.
NAMES = (*SCHEMES, "lsuv", "zero_gamma")


@torch.no_grad()
def initialise(network: nn.Module, name: str, images: Tensor | None = None) -> nn.Module:
    """Set a network's weights anew, in place, from torch's random state.

    Args:
        name: one of `NAMES`; `zero_gamma` changes nothing but the scales that it is about.
        images: a normalised batch, for `lsuv`.

    Raises:
        LookupError: there is no such scheme.
        ValueError: the network has nothing that it could be applied to, or `lsuv` got no images.
    """
    if name not in NAMES:
        raise LookupError(unknown(name, list(NAMES), "initialisation"))
    if name == "zero_gamma":
        return zero_gamma(network)
    if name == "lsuv" and images is None:
        raise ValueError("lsuv scales layers on a batch of images and got none")
    scheme = SCHEMES["orthogonal" if name == "lsuv" else name]
    layers = _learning(network)
    if not layers:
        raise ValueError(f"{type(network).__name__} has no convolution and no dense layer to initialise")
    for layer in layers:
        scheme(layer.weight, getattr(layer, "groups", 1))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for norm in network.modules():
        if isinstance(norm, BATCH_NORMS):
            norm.reset_running_stats()
            if norm.affine:
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
    if name == "lsuv" and images is not None:
        _unit_variance(network, images)
    return network


def _learning(network: nn.Module) -> list[Any]:
    """Layers with weights, but for those that are fixed by what they are for, like FCN's bilinear kernels."""
    return [m for m in network.modules() if isinstance(m, WEIGHTED) and m.weight.requires_grad]


def _unit_variance(network: nn.Module, images: Tensor) -> None:
    """Scale each layer's weight by what comes out of it, while one batch goes through the network.

    A layer without bias is linear in its weight, so one division makes the variance 1 without a search.
    """
    done: set[nn.Module] = set()

    def scale(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        deviation = made.std()
        if layer in done or not deviation > 0:
            return made
        done.add(layer)
        layer.get_parameter("weight").div_(deviation)
        return made / deviation

    hooks = [layer.register_forward_hook(scale) for layer in _learning(network)]
    was_training = network.training
    try:
        network.eval()(images)  # no dropout, and batch norms as they start: they do nothing
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def zero_gamma(network: nn.Module) -> nn.Module:
    """The scale 0 for each batch norm that ends a residual branch.

    Raises:
        ValueError: no branch ends in a batch norm, as in pre-activated networks.
    """
    ends = [list(unit.get_submodule("branch").modules())[-1] for unit in residual_units(network)]
    norms = [end for end in ends if isinstance(end, BATCH_NORMS) and end.affine]
    if not norms:
        raise ValueError(f"{type(network).__name__} has no residual branch that ends in a batch norm")
    for norm in norms:
        nn.init.zeros_(norm.weight)
    return network
