"""Any network on the arithmetic of `ops`: `use(model, convolution="im2col")`."""

import copy
from typing import get_args

from torch import nn

from cnnkit.ops.convolution import AlgorithmName
from cnnkit.surgery.derived import MODULES

_OURS = {ours: kind for kind, ours in MODULES.items()}


def use(model: nn.Module, *, convolution: AlgorithmName = "im2col") -> nn.Module:
    """The model with its modules computing by `ops`, forward and, with the derived gradients, backward.

    Convolutions and transposed convolutions (1-D and 2-D), linear layers, max and average pooling and their
    adaptive forms, max unpooling, batch norm, local response norm, dropout, softmax, the activations ReLU,
    ReLU6, sigmoid, tanh and SiLU, and the cross-entropy loss are replaced; a subclass of one of these is not,
    for its `forward` may do anything. Everything else, and what a `forward` computes by calling functions
    itself, stays PyTorch's. Gradients of gradients are not defined.

    The new model has the same structure and names, and shares its parameters and buffers with the old one,
    which is not changed: they are one set of weights in two arithmetics, and to train one is to train both.
    Deep-copy the model first to part them.

    Args:
        convolution: the algorithm. Winograd's compute 3 x 3 kernels at stride and dilation 1; the other
            convolutions of the network then use im2col.

    Raises:
        ValueError: no such algorithm, a convolution that pads with other than zeros, or nothing to replace.
    """
    if convolution not in get_args(AlgorithmName):
        raise ValueError(
            f"convolution must be one of {', '.join(get_args(AlgorithmName))}, got {convolution!r}"
        )
    shared = [*model.parameters(), *model.buffers()]
    changed = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    count = 0
    for name, module in changed.named_modules():
        kind = _OURS.get(type(module), type(module))
        if kind not in MODULES:
            continue
        if getattr(module, "padding_mode", "zeros") != "zeros":
            raise ValueError(
                f"{name} pads with {module.padding_mode!r}; the correlation of `ops` pads with zeros"
            )
        module.__class__ = MODULES[kind]
        if hasattr(module, "padding_mode"):
            module.algorithm = convolution
        count += 1
    if not count:
        raise ValueError(f"{type(model).__name__} has no module whose arithmetic could be replaced")
    return changed
