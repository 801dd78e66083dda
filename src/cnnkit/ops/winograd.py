"""Winograd's minimal filtering F(m x m, 3 x 3): fewer multiplications for small kernels.

    Winograd, "Arithmetic Complexity of Computations", 1980; Lavin & Gray, "Fast Algorithms for Convolutional
    Neural Networks", CVPR 2016, arXiv:1509.09308.

A product of polynomials with n coefficients is known from its values at n points (Toom & Cook). Its transpose
is the correlation that gives m outputs of k taps from n = m + k - 1 inputs, with n multiplications instead of
m k. With the points a_0 .. a_(n-2) and infinity,

    A^T[j, i] = a_i^j
    G[i, u]   = a_i^u / prod_(l /= i) (a_i - a_l)
    B^T[i, :] = the coefficients of prod_(l /= i) (x - a_l)

and at infinity the highest coefficient alone. On two axes the maps are Kronecker products of these: 16
instead of 36 multiplications a tile and channel for m = 2, and 36 instead of 144 for m = 4.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

from cnnkit.ops import tiled
from cnnkit.ops.algorithm import Algorithm
from cnnkit.ops.shapes import Axis

#: In this order; small ones keep the rounding small.
POINTS = (0, 1, -1, 2, -2)

TAPS = 3


class Winograd(Algorithm):
    """F(m x m, 3 x 3), at stride and dilation 1."""

    def __init__(self, step: int) -> None:
        self.step = step

    def correlate(self, images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        self._require_able(axes)
        return tiled.correlate(images, kernels, axes, groups, _Maps(self.step, len(axes), images))

    def kernels_gradient(self, residual: Tensor, images: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        self._require_able(axes)
        return tiled.kernels_gradient(residual, images, axes, groups, _Maps(self.step, len(axes), images))

    def _require_able(self, axes: Sequence[Axis]) -> None:
        for axis in axes:
            if (axis.kernel, axis.stride, axis.dilation) != (TAPS, 1, 1):
                raise ValueError(
                    f"winograd computes kernels of {TAPS} taps an axis at stride 1 and dilation 1, got "
                    f"{axis.kernel} at stride {axis.stride} and dilation {axis.dilation}; use im2col or fft"
                )


class _Maps:
    """The maps of `tiled.Transform` as matrices over flattened tiles, of the type and place of `like`."""

    def __init__(self, step: int, rank: int, like: Tensor) -> None:
        self.tile, self.step, self.kernel = (step + TAPS - 1,) * rank, (step,) * rank, (TAPS,) * rank
        b, g, a = (like.new_tensor(rows) for rows in matrices(step, TAPS))
        self.b, self.g, self.a = (reduce(torch.kron, [m] * rank) for m in (b, g, a))

    def of_images(self, tiles: Tensor) -> Tensor:
        return _into(self.b, tiles, len(self.tile))

    def of_kernels(self, kernels: Tensor) -> Tensor:
        return _into(self.g, kernels, len(self.tile))

    def of_residuals(self, tiles: Tensor) -> Tensor:
        return _into(self.a.T, tiles, len(self.tile))

    def to_outputs(self, products: Tensor) -> Tensor:
        return _back(self.a, products, self.step)

    def to_kernels(self, products: Tensor) -> Tensor:
        return _back(self.g.T, products, self.kernel)


def _into(matrix: Tensor, tiles: Tensor, rank: int) -> Tensor:
    """(..., *tile) -> (F, ...)"""
    lead = tiles.ndim - rank
    flat = tiles.permute(*range(lead, tiles.ndim), *range(lead)).reshape(matrix.shape[1], -1)
    return (matrix @ flat).view(-1, *tiles.shape[:lead])


def _back(matrix: Tensor, products: Tensor, sizes: Sequence[int]) -> Tensor:
    """(F, ...) -> (..., *sizes)"""
    maps = (matrix @ products.flatten(1)).view(*sizes, *products.shape[1:])
    return maps.permute(*range(len(sizes), maps.ndim), *range(len(sizes)))


def matrices(step: int, taps: int) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """B^T (T, T), G (T, taps) and A^T (step, T), T = step + taps - 1, of the correlation on one axis."""
    count = step + taps - 1
    points = POINTS[: count - 1]
    others = [[b for b in points if b != a] for a in points]
    b = [[*_coefficients(rest), 0.0] for rest in others] + [_coefficients(points)]
    g = [
        [a**u / prod(a - c for c in rest) for u in range(taps)]
        for a, rest in zip(points, others, strict=True)
    ]
    a = [[float(point**j) for point in points] + [float(j == step - 1)] for j in range(step)]
    return b, [*g, [float(u == taps - 1) for u in range(taps)]], a


def _coefficients(roots: Sequence[int]) -> list[float]:
    """Of prod (x - root), the constant first."""
    found = [1.0]
    for root in roots:
        found = [low - root * high for low, high in zip([0.0, *found], [*found, 0.0], strict=True)]
    return found
