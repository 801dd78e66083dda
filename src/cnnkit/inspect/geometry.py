"""Kernel, stride, padding, dilation and groups of an operator, as people write them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cnnkit.inspect.graph import Node


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a window moves over a map.

    Attributes:
        kernel: its size.
        stride: its steps.
        padding: the border before it, `same` worked out.
        dilation: the distance of its taps.
        groups: the groups of channels that are kept apart.
        transposed: whether it spreads instead of gathering.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        found = "x".join(map(str, self.kernel))
        for mark, setting, usual in (
            ("/", self.stride, 1),
            (" p", self.padding, 0),
            (" d", self.dilation, 1),
        ):
            if any(n != usual for n in setting):
                found += mark + ("x".join(map(str, setting)) if len(set(setting)) > 1 else str(setting[0]))
        return found + (f" g{self.groups}" if self.groups > 1 else "")


def each(setting: Any, rank: int) -> tuple[int, ...]:
    """A setting for every axis, where one number or a list of one stands for all."""
    if isinstance(setting, int):
        return (setting,) * rank
    return tuple(setting) * (rank if len(setting) == 1 else 1)


def geometry(node: Node) -> Geometry | None:
    """The window of a convolution or pooling; None for other operators."""
    op, args = node.op, node.args
    if op in ("conv1d", "conv2d", "conv3d"):
        return _convolution(args[1].shape[2:], *args[3:])
    if op in ("convolution", "_convolution"):
        stride, padding, dilation, flip, _, groups = args[3:9]
        found = _convolution(args[1].shape[2:], stride, padding, dilation, groups)
        return Geometry(found.kernel, found.stride, found.padding, found.dilation, groups, flip)
    if op.startswith("conv_transpose"):
        given = [*args[3:], *[1, 0, 0, 1, 1][len(args[3:]) :]]
        stride, padding, groups, dilation = given[0], given[1], given[3], given[4]
        found = _convolution(args[1].shape[2:], stride, padding, dilation, groups)
        return Geometry(found.kernel, found.stride, found.padding, found.dilation, groups, True)
    if op.startswith(("max_pool", "avg_pool")):
        rank = int(op.removesuffix("_with_indices")[-2])
        given = [*args[1:5], *[(), (), 0, 1][len(args[1:5]) :]]
        kernel, stride, padding, dilation = given
        spread = dilation if op.startswith("max") else 1
        return Geometry(
            each(kernel, rank), each(stride or kernel, rank), each(padding, rank), each(spread, rank)
        )
    return None


@lru_cache(4096)
def _convolution(
    kernel: tuple[int, ...], stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Geometry:
    rank = len(kernel)
    spread = each(dilation, rank)
    if isinstance(padding, str):
        same = padding == "same"
        padding = tuple(d * (k - 1) // 2 if same else 0 for d, k in zip(spread, kernel, strict=True))
    return Geometry(tuple(kernel), each(stride, rank), each(padding, rank), spread, groups)
