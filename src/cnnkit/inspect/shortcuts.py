"""Modules that are one operator, so that the dispatcher need not be asked which."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: The operator, its tensors after the first argument and its settings; None where the module is unusual.
Single = tuple[Any, tuple[Tensor | None, ...], tuple[Any, ...]] | None

aten = torch.ops.aten
CONVOLUTION, NORM, SIGMOID = aten.conv2d.default, aten.batch_norm.default, aten.sigmoid.default


def conv2d(module: Any, x: Tensor) -> Single:
    """A convolution with numbers for its padding and zeros in it."""
    if module.padding_mode != "zeros" or type(module.padding) is str:
        return None
    held = module._parameters
    settings = (module.stride, module.padding, module.dilation, module.groups)
    return CONVOLUTION, (held["weight"], held["bias"]), settings


def batch_norm(module: Any, x: Tensor) -> Single:
    """Batch norm in evaluation mode."""
    if x.ndim != 4:  # which it refuses
        return None
    held, stored = module._parameters, module._buffers["running_mean"] is not None
    settings = (None, None, not stored, 0.0, module.eps, True)  # statistics are small constants
    return NORM, (held["weight"], held["bias"]), settings


def activation(name: str) -> Callable[[Any, Tensor], Single]:
    """An activation that may work in place."""
    fresh, written = getattr(aten, name).default, getattr(aten, f"{name}_").default
    return lambda module, x: (written if module.inplace else fresh, (), ())


Shortcut = Callable[[Any, Tensor], Single]

SHORTCUTS: Mapping[type[nn.Module], Shortcut] = {
    nn.Conv2d: conv2d,
    nn.BatchNorm2d: batch_norm,
    nn.ReLU: activation("relu"),
    nn.SiLU: activation("silu"),
    nn.Sigmoid: lambda module, x: (SIGMOID, (), ()),
}
