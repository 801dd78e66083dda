"""Correlation tile by tile in a transformed domain, where it is a product of channels at each frequency.

A tile of T = m + k - 1 positions along each axis holds all that m neighbouring outputs read. There are linear
maps B of tiles, G of kernels and A with

    y = A[(G w) . (B x)]        dw = G^T[(A^T r) . (B x)]

the dot being entry by entry, so that, summed over channels (and, for the kernels, over tiles and examples),
each entry f of the transformed tile is one matrix product. `fft` and `winograd` differ only in these maps.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from cnnkit.ops.pieces import pieces
from cnnkit.ops.shapes import Axis
from cnnkit.ops.windows import pad, windows


class Transform(Protocol):
    """The linear maps, for one size of kernel. F is the number of entries of a transformed tile.

    Attributes:
        tile: T on each axis.
        step: m on each axis.
    """

    tile: tuple[int, ...]
    step: tuple[int, ...]

    def of_images(self, tiles: Tensor) -> Tensor:
        """B: (..., *tile) -> (F, ...)"""

    def of_kernels(self, kernels: Tensor) -> Tensor:
        """G: (..., *kernel) -> (F, ...)"""

    def of_residuals(self, tiles: Tensor) -> Tensor:
        """The transpose of A: (..., *step) -> (F, ...)"""

    def to_outputs(self, products: Tensor) -> Tensor:
        """A: (F, ...) -> (..., *step)"""

    def to_kernels(self, products: Tensor) -> Tensor:
        """The transpose of G: (F, ...) -> (..., *kernel)"""


def correlate(
    images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int, transform: Transform
) -> Tensor:
    """(N, C, *spatial), (O, C / groups, *kernel) -> (N, O, *out), at stride and dilation 1"""
    weights = _transformed(kernels, transform)
    entries, outputs = weights.shape[:2]
    weights = weights.reshape(entries * groups, outputs // groups, -1)
    tiles = _tiles(axes, transform)
    whole = images.new_empty(len(images), outputs, *(t.out * t.stride for t in tiles))
    places = windows(whole, _side_by_side(tiles))
    for examples, span, spectra in _spectra(images, outputs, tiles, groups, transform):
        part = places[examples, :, span].transpose(0, 1)
        products = weights.bmm(spectra).view(entries, *part.shape[: 2 + len(axes)])
        part.copy_(transform.to_outputs(products))
    return pad(whole, [(0, a.out - n) for a, n in zip(axes, whole.shape[2:], strict=True)]).contiguous()


def kernels_gradient(
    residual: Tensor, images: Tensor, axes: Sequence[Axis], groups: int, transform: Transform
) -> Tensor:
    """(N, O, *out), (N, C, *spatial) -> (O, C / groups, *kernel), at stride and dilation 1"""
    outputs = residual.shape[1]
    tiles = _tiles(axes, transform)
    overhang = [(0, t.out * t.stride - a.out) for t, a in zip(tiles, axes, strict=True)]
    parts = windows(pad(residual, overhang), _side_by_side(tiles))
    shares = _shares(parts, groups, _spectra(images, outputs, tiles, groups, transform), transform)
    total = next(shares)
    for share in shares:
        total += share
    return transform.to_kernels(total)


def _transformed(kernels: Tensor, transform: Transform) -> Tensor:
    """G w, a few output channels at a time: (O, C / groups, *kernel) -> (F, O, C / groups)"""
    each = kernels.shape[1] * prod(transform.tile)
    parts = [transform.of_kernels(kernels[span]) for span, _ in pieces(len(kernels), 1, each)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _tiles(axes: Sequence[Axis], transform: Transform) -> list[Axis]:
    """The tiles as windows: T long, m apart, the last hanging over the end where m does not divide."""
    return [
        Axis(a.size, tile, step, a.before, a.after + -a.out % step)
        for a, tile, step in zip(axes, transform.tile, transform.step, strict=True)
    ]


def _side_by_side(tiles: Sequence[Axis]) -> list[Axis]:
    """Where the outputs of each tile lie."""
    return [Axis(t.out * t.stride, t.stride, t.stride) for t in tiles]


def _shares(
    parts: Tensor, groups: int, spectra: Iterator[tuple[slice, slice, Tensor]], transform: Transform
) -> Iterator[Tensor]:
    """(A^T r) . (B x) of each piece, summed over its tiles: (F, O, C / groups)"""
    for examples, span, images in spectra:
        residuals = transform.of_residuals(parts[examples, :, span].transpose(0, 1))
        entries, outputs = residuals.shape[:2]
        residuals = residuals.reshape(entries * groups, outputs // groups, -1)
        yield residuals.bmm(images.transpose(1, 2)).view(entries, outputs, -1)


def _spectra(
    images: Tensor, outputs: int, tiles: Sequence[Axis], groups: int, transform: Transform
) -> Iterator[tuple[slice, slice, Tensor]]:
    """B x in pieces: examples, rows of tiles, and the entries (F * G, C / groups, tiles of the piece)."""
    count, channels = images.shape[:2]
    view = windows(pad(images, [(t.before, t.after) for t in tiles]), tiles)
    row = max(channels, outputs) * prod(t.kernel for t in tiles) * prod(t.out for t in tiles[1:])
    for examples, span in pieces(count, tiles[0].out, row):
        spectra = transform.of_images(view[examples, :, span].transpose(0, 1))
        yield examples, span, spectra.reshape(len(spectra) * groups, channels // groups, -1)
