"""Modules that are one operator, so that the dispatcher need not be asked which."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.inspect import shapes
from cnnkit.inspect.graph import Value

#: The operator, the shape of its result, its arguments with values in place of tensors, and those values.
Single = tuple[Any, shapes.Shape, tuple[Any, ...], tuple[Value, ...]]
#: Given the module, its input, the value of that and how to find the value of another tensor; None where the
#: module is unusual.
Shortcut = Callable[[nn.Module, Tensor, Value, Callable[[Any], Any]], Single | None]

aten = torch.ops.aten
CONVOLUTION, NORM, LINEAR = aten.conv2d.default, aten.batch_norm.default, aten.linear.default
BINS = aten.adaptive_avg_pool2d.default
NAMES = ("weight", "bias")


def conv2d(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
    """A convolution with numbers for its padding and zeros in it."""
    own = module.__dict__
    weight, bias = map(own["_parameters"].get, NAMES)
    if weight is None or own["padding_mode"] != "zeros" or type(own["padding"]) is str:
        return None
    settings = own["stride"], own["padding"], own["dilation"], own["groups"]
    shape = shapes.conv(x, weight, bias, *settings)
    if shape is None:
        return None
    kernel, shift = value(weight), value(bias)
    inputs = (seen, kernel) if shift is None else (seen, kernel, shift)
    return CONVOLUTION, shape, (seen, kernel, shift, *settings), inputs


def batch_norm(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
    """Batch norm in evaluation mode; its statistics are small constants."""
    own, shape = module.__dict__, seen.shape
    if len(shape) != 4 or not seen.dtype.is_floating_point:
        return None
    weight, bias = map(value, map(own["_parameters"].get, NAMES))
    inputs = (seen,) if weight is None else (seen, weight, bias)
    without = own["_buffers"]["running_mean"] is None
    return NORM, shape, (seen, weight, bias, None, None, without, 0.0, own["eps"], True), inputs


def linear(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
    """A fully connected layer."""
    weight, bias = map(module._parameters.get, NAMES)
    shape = None if weight is None else shapes.linear(x, weight, bias)
    if shape is None:
        return None
    matrix, shift = value(weight), value(bias)
    return LINEAR, shape, (seen, matrix, shift), (seen, matrix) if shift is None else (seen, matrix, shift)


def activation(name: str) -> Shortcut:
    """An activation that may work in place."""
    fresh, written = getattr(aten, name).default, getattr(aten, f"{name}_").default

    def activate(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
        if not seen.dtype.is_floating_point:
            return None
        return written if module.__dict__.get("inplace") else fresh, seen.shape, (seen,), (seen,)

    return activate


def pooling(func: Any, rule: shapes.Rule, *settings: str) -> Shortcut:
    """Pooling with a window, its settings numbers or pairs; the last is a switch."""

    def pool(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
        own = module.__dict__
        given = (*[pair(own[name]) for name in settings], own["ceil_mode"])
        shape = None if own.get("return_indices") else rule(x, *given)
        return None if shape is None else (func, shape, (seen, *given), (seen,))

    return pool


def pair(setting: Any) -> tuple[int, ...]:
    """One number for both axes, or one each."""
    return (setting, setting) if isinstance(setting, int) else tuple(setting)


def adaptive(module: nn.Module, x: Tensor, seen: Value, value: Callable[[Any], Any]) -> Single | None:
    """Pooling to a size that does not depend on the image's."""
    size = pair(module.__dict__["output_size"])
    shape = None if None in size else shapes.adaptive_pool(x, size)
    return None if shape is None else (BINS, shape, (seen, size), (seen,))


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
