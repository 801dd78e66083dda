"""Shapes of results in closed form, for the operators that make up most of a network.

PyTorch's own shape functions take up to half a millisecond an operator. A rule here returns the shape of the
one result, which has the type of the first tensor, or None where the case is unusual; then PyTorch is asked.
Tests hold every rule to PyTorch's answer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from cnnkit.inspect.graph import Value

Shape = tuple[int, ...]
Rule = Callable[..., Shape | None]


def conv(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Shape | None:
    """(N, C, *size) with (O, C / groups, *kernel) -> (N, O, *size)

    Raises:
        ValueError: the channels do not fit or the image is smaller than the kernel.
    """
    image, kernel = x.shape, weight.shape
    if not len(image) == len(kernel) == 4 or x.dtype is not weight.dtype:
        return None
    count, channels, height, width = image
    results, read, tall, wide = kernel
    if channels != read * groups:
        raise ValueError(f"it takes {read * groups} channels, not {channels}")
    (down, across), (above, left), (tall_step, wide_step) = stride, padding, dilation
    height = (height + 2 * above - tall_step * (tall - 1) - 1) // down + 1
    width = (width + 2 * left - wide_step * (wide - 1) - 1) // across + 1
    if height < 1 or width < 1:
        raise too_small(image[2:], (tall, wide))
    return count, results, height, width


def too_small(size: Sequence[int], kernel: Sequence[int]) -> ValueError:
    """The error of a map that a window does not fit into."""
    return ValueError(f"a map of {written(size)} is too small for its window of {written(kernel)}")


def written(size: Sequence[int]) -> str:
    """A size as people write it: 3x3."""
    return "x".join(map(str, size))


def linear(x: Value, weight: Value, bias: Value | None = None) -> Shape | None:
    """(*, in_features) with (out_features, in_features) -> (*, out_features)

    Raises:
        ValueError: the features do not fit.
    """
    shape = x.shape
    if len(weight.shape) != 2 or not shape or x.dtype is not weight.dtype:
        return None
    if shape[-1] != weight.shape[1]:
        raise ValueError(f"it takes {weight.shape[1]} features, not {shape[-1]}")
    return *shape[:-1], weight.shape[0]


def pool(
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    *rest: Any,
) -> Shape | None:
    """Average pooling with the floor: (N, C, H, W) -> (N, C, H', W')"""
    if len(x.shape) != 4 or (rest and rest[0]) or not len(kernel) == len(padding) == 2:
        return None
    n, channels, height, width = x.shape
    down, across = stride or kernel
    return checked(
        (
            n,
            channels,
            (height + 2 * padding[0] - kernel[0]) // down + 1,
            (width + 2 * padding[1] - kernel[1]) // across + 1,
        ),
        x,
        kernel,
    )


def checked(shape: Shape, x: Value, kernel: Sequence[int]) -> Shape:
    """The shape, unless nothing is left of the map."""
    if shape[2] < 1 or shape[3] < 1:
        raise too_small(x.shape[2:], kernel)
    return shape


def max_pool(
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> Shape | None:
    """Max pooling without dilation: (N, C, H, W) -> (N, C, H', W')"""
    if tuple(dilation) != (1, 1):
        return None
    return pool(x, kernel, stride, padding, ceil)


def adaptive_pool(x: Value, size: Sequence[int]) -> Shape | None:
    """(N, C, H, W) -> (N, C, *size)"""
    return (*x.shape[:2], *size) if len(x.shape) == 4 and len(size) == 2 else None


def same(x: Value, *rest: Any, **keywords: Any) -> Shape:
    """One floating-point tensor and numbers, shape unchanged."""
    return x.shape


def floats(x: Value, *rest: Any, **keywords: Any) -> Shape | None:
    """As `same`, where integers would become floats."""
    return x.shape if x.dtype.is_floating_point else None


def broadcast(x: Value, y: Any, **keywords: Any) -> Shape | None:
    """Two tensors of one floating-point type, or one and a number, element by element."""
    if not x.dtype.is_floating_point or type(y) is complex:
        return None
    if type(y) is not Value:
        return x.shape
    first, second = x.shape, y.shape
    if x.dtype is not y.dtype:
        return None
    if first == second:
        return first
    if len(first) != len(second) or any(a != b and a != 1 != b for a, b in zip(first, second, strict=True)):
        return None
    return tuple(map(max, first, second))


def dropout(x: Value, p: float, train: bool) -> Shape | None:
    """Dropout in training: shape unchanged. In inference it returns its input, which PyTorch shows best."""
    return x.shape if train else None


def cat(tensors: Sequence[Value], dim: int = 0) -> Shape | None:
    """Concatenation of tensors of one type and equal shapes but for `dim`."""
    first = tensors[0]
    shape, total, dtype = list(first.shape), 0, first.dtype
    dim %= len(shape)
    for tensor in tensors:
        sizes = tensor.shape
        if len(sizes) != len(shape) or tensor.dtype is not dtype:
            return None
        if any(a != b for i, (a, b) in enumerate(zip(sizes, shape, strict=True)) if i != dim):
            return None
        total += sizes[dim]
    shape[dim] = total
    return tuple(shape)


aten = torch.ops.aten

_ONE = "relu relu_ silu silu_ sigmoid sigmoid_ tanh tanh_ gelu hardswish hardswish_ hardsigmoid hardsigmoid_"
_MORE = "relu6 relu6_ hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ clone"
_TWO = "add add_ sub sub_ mul mul_"

#: The operators that are answered here.
RULES: Mapping[Any, Rule] = {
    aten.conv2d.default: conv,
    aten.linear.default: linear,
    aten.batch_norm.default: floats,
    aten.layer_norm.default: floats,
    aten.max_pool2d.default: max_pool,
    aten.avg_pool2d.default: pool,
    aten.adaptive_avg_pool2d.default: adaptive_pool,
    aten.dropout.default: dropout,
    aten.softmax.int: floats,
    aten.cat.default: cat,
    **{getattr(aten, name).default: floats for name in f"{_ONE} {_MORE}".split()},
    **{getattr(aten, name).Tensor: broadcast for name in _TWO.split()},
}
