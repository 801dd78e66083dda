"""Modules that are one operator, so that the dispatcher need not be asked which."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.inspect import shapes
from cnnkit.inspect.graph import Value

#: The operator, the shape of its result, its arguments with values in place of tensors, and those values.
Single = tuple[Any, shapes.Shape, tuple[Any, ...], tuple[Value, ...]]
#: How to find the value of a tensor.
Find = Callable[[Tensor | None], Value | None]
#: Given the module, its input and how to find its parameters; None where the module is unusual.
Shortcut = Callable[[nn.Module, Value, Find], Single | None]

aten = torch.ops.aten
CONVOLUTION, NORM, LINEAR = aten.conv2d.default, aten.batch_norm.default, aten.linear.default
BINS = aten.adaptive_avg_pool2d.default


def conv2d(module: nn.Module, x: Value, value: Find) -> Single | None:
    """A convolution with numbers for its padding and zeros in it."""
    own = module.__dict__
    held, padding = own["_parameters"], own["padding"]
    weight, bias = value(held.get("weight")), value(held.get("bias"))
    if weight is None or own["padding_mode"] != "zeros" or type(padding) is str:
        return None
    args: tuple[Any, ...] = x, weight, bias, own["stride"], padding, own["dilation"], own["groups"]
    shape = shapes.conv(*args)
    return None if shape is None else (CONVOLUTION, shape, args, args[: 2 + (bias is not None)])


def batch_norm(module: nn.Module, x: Value, value: Find) -> Single | None:
    """Batch norm in evaluation mode; its statistics are small constants."""
    own, shape = module.__dict__, x.shape
    if len(shape) != 4 or not x.dtype.is_floating_point:
        return None
    held = own["_parameters"]
    weight, bias = value(held.get("weight")), value(held.get("bias"))
    without = own["_buffers"]["running_mean"] is None
    args: tuple[Any, ...] = x, weight, bias, None, None, without, 0.0, own["eps"], True
    return NORM, shape, args, args[: 1 + (weight is not None) + (bias is not None)]


def linear(module: nn.Module, x: Value, value: Find) -> Single | None:
    """A fully connected layer."""
    held = module._parameters
    weight, bias = value(held.get("weight")), value(held.get("bias"))
    shape = None if weight is None else shapes.linear(x, weight)
    args: tuple[Any, ...] = x, weight, bias
    return None if shape is None else (LINEAR, shape, args, args[: 2 + (bias is not None)])


def activation(name: str) -> Shortcut:
    """An activation that may work in place."""
    fresh, written = getattr(aten, name).default, getattr(aten, f"{name}_").default

    def activate(module: nn.Module, x: Value, value: Find) -> Single | None:
        if not x.dtype.is_floating_point:
            return None
        args = (x,)
        return written if module.__dict__.get("inplace") else fresh, x.shape, args, args

    return activate


def pooling(func: Any, rule: shapes.Rule, *settings: str) -> Shortcut:
    """Pooling with a window, its settings numbers or pairs; the last is a switch."""

    def pool(module: nn.Module, x: Value, value: Find) -> Single | None:
        own = module.__dict__
        given = (*[pair(own[name]) for name in settings], own["ceil_mode"])
        shape = None if own.get("return_indices") else rule(x, *given)
        return None if shape is None else (func, shape, (x, *given), (x,))

    return pool


def pair(setting: Any) -> tuple[int, ...]:
    """One number for both axes, or one each."""
    return (setting, setting) if isinstance(setting, int) else tuple(setting)


def adaptive(module: nn.Module, x: Value, value: Find) -> Single | None:
    """Pooling to a size that does not depend on the image's."""
    size = pair(module.__dict__["output_size"])
    shape = None if None in size else shapes.adaptive_pool(x, size)
    return None if shape is None else (BINS, shape, (x, size), (x,))


WINDOW = ("kernel_size", "stride", "padding")

#: What is answered here. Of their subclasses nothing is known.
SHORTCUTS: Mapping[type[nn.Module], Shortcut] = {
    nn.Conv2d: conv2d,
    nn.BatchNorm2d: batch_norm,
    nn.Linear: linear,
    nn.MaxPool2d: pooling(aten.max_pool2d.default, shapes.max_pool, *WINDOW, "dilation"),
    nn.AvgPool2d: pooling(aten.avg_pool2d.default, shapes.pool, *WINDOW),
    nn.AdaptiveAvgPool2d: adaptive,
    nn.ReLU: activation("relu"),
    nn.SiLU: activation("silu"),
    nn.Hardswish: activation("hardswish"),
    nn.Hardsigmoid: activation("hardsigmoid"),
    nn.Sigmoid: activation("sigmoid"),
    nn.Tanh: activation("tanh"),
}
