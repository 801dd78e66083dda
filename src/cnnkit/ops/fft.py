"""Correlation through the discrete Fourier transform, whose theorem makes of it a product at each frequency.

    y = F^-1[conj(F w) . F x]        dw = F^-1[conj(F r) . F x]

    Mathieu, Henaff & LeCun, "Fast Training of Convolutional Networks through FFTs", ICLR 2014,
    arXiv:1312.5851; Oppenheim & Schafer, "Discrete-Time Signal Processing", on overlap-save.

The transform goes round: position T is position 0. Of a tile of T positions the first m = T - e + 1 outputs
do not reach round its end, so the image is cut into tiles that overlap by e - 1, and those m are kept. Real
images need the frequencies of half a plane only.

A dilated kernel is one with zeros between its taps. A stride of s is the sum over s phases, each at stride 1,

    y[i] = sum_r sum_v w[s v + r] x[s (i + v) + r],

the phases being more channels; nothing is computed that would be thrown away.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from cnnkit.ops import tiled
from cnnkit.ops.algorithm import Algorithm
from cnnkit.ops.shapes import Axis
from cnnkit.ops.windows import interleave, pad

#: What transforming one number of an image, an output and a kernel costs, in additions or multiplications of
#: a matrix product: fitted to the times of 41 pairs of layer and tile on one processor.
IMAGE, OUTPUT, KERNEL = 40, 250, 360


class Fft(Algorithm):
    """Overlap-save with tiles of the size that costs least."""

    def correlate(self, images: Tensor, kernels: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        phases, single = _phases(images, axes)
        spread = interleave(kernels, [a.dilation for a in axes])
        taps = _split(pad(spread, [(0, -a.extent % a.stride) for a in axes]), [a.stride for a in axes])
        frequencies = Frequencies(single, _tile(single, len(images), taps.shape[0], taps.shape[1], groups))
        return tiled.correlate(phases, taps, single, groups, frequencies)

    def kernels_gradient(self, residual: Tensor, images: Tensor, axes: Sequence[Axis], groups: int) -> Tensor:
        phases, single = _phases(images, axes)
        size = _tile(single, len(images), residual.shape[1], phases.shape[1] // groups, groups)
        taps = tiled.kernels_gradient(residual, phases, single, groups, Frequencies(single, size))
        spread = _join(taps, [a.stride for a in axes])
        for i, axis in enumerate(axes, 2):
            spread = spread[(slice(None),) * i + (slice(0, axis.extent, axis.dilation),)]
        return spread


class Frequencies:
    """The maps of `tiled.Transform`: the transform of real tiles, conjugated where it is the kernel's.

    Axis by axis: transforms over several axes at once are up to six times slower for tiles this small.
    """

    def __init__(self, axes: Sequence[Axis], tile: tuple[int, ...]) -> None:
        self.tile = tile
        self.kernel = tuple(a.kernel for a in axes)
        self.step = tuple(t - k + 1 for t, k in zip(tile, self.kernel, strict=True))
        self.half = (*tile[:-1], tile[-1] // 2 + 1)

    def of_images(self, tiles: Tensor) -> Tensor:
        spectra = torch.fft.rfft(tiles, self.tile[-1])
        for axis, size in enumerate(self.tile[:-1], -len(self.tile)):
            spectra = torch.fft.fft(spectra, size, axis)
        return spectra.flatten(-len(self.tile)).movedim(-1, 0).contiguous()

    def of_kernels(self, kernels: Tensor) -> Tensor:
        return self.of_images(kernels).conj_physical_()

    def of_residuals(self, tiles: Tensor) -> Tensor:
        return self.of_images(tiles).conj_physical_()

    def to_outputs(self, products: Tensor) -> Tensor:
        return self._back(products, self.step)

    def to_kernels(self, products: Tensor) -> Tensor:
        return self._back(products, self.kernel)

    def _back(self, products: Tensor, sizes: tuple[int, ...]) -> Tensor:
        last = len(self.tile) - 1
        spectra = products.view(*self.half, *products.shape[1:])
        for axis in range(last):
            spectra = torch.fft.ifft(spectra, dim=axis).narrow(axis, 0, sizes[axis])
        tiles = torch.fft.irfft(spectra.movedim(last, -1), self.tile[-1])[..., : sizes[-1]]
        return tiles.permute(*range(last, tiles.ndim - 1), *range(last), -1)


def _phases(images: Tensor, axes: Sequence[Axis]) -> tuple[Tensor, list[Axis]]:
    """The padded image's phases as channels, and how the kernel's phases slide over them at stride 1."""
    kernels = [-(-a.extent // a.stride) for a in axes]
    single = [Axis(a.out + k - 1, k) for a, k in zip(axes, kernels, strict=True)]
    after = [a.stride * one.size - a.before - a.size for a, one in zip(axes, single, strict=True)]
    padded = pad(images, [(a.before, q) for a, q in zip(axes, after, strict=True)])
    return _split(padded, [a.stride for a in axes]), single


def _split(images: Tensor, strides: Sequence[int]) -> Tensor:
    """(N, C, *sizes) -> (N, C * s * s, *(sizes / s)), the phases of a channel side by side"""
    count, channels, *sizes = images.shape
    pairs = [n for size, s in zip(sizes, strides, strict=True) for n in (size // s, s)]
    rank = len(sizes)
    order = (0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2))
    split = images.reshape(count, channels, *pairs).permute(order)
    return split.reshape(count, -1, *(size // s for size, s in zip(sizes, strides, strict=True)))


def _join(phases: Tensor, strides: Sequence[int]) -> Tensor:
    """The way back from `_split`."""
    count, channels, *sizes = phases.shape
    rank = len(sizes)
    split = phases.reshape(count, channels // prod(strides), *strides, *sizes)
    order = (0, 1, *(i for axis in range(rank) for i in (2 + rank + axis, 2 + axis)))
    return split.permute(order).reshape(
        count, -1, *(size * s for size, s in zip(sizes, strides, strict=True))
    )


def _tile(axes: Sequence[Axis], count: int, outputs: int, inputs: int, groups: int) -> tuple[int, ...]:
    """The tile that costs least: large ones overlap less, but every kernel is transformed at their size."""
    whole = max(a.padded for a in axes)
    sizes = [2**i * odd for i in range(1, whole.bit_length() + 1) for odd in (3, 4)]
    tiles = [tuple(min(s, a.padded + a.padded % 2) for a in axes) for s in sizes]
    able = [t for t in tiles if all(size >= a.kernel for size, a in zip(t, axes, strict=True))]
    return min(able, key=lambda tile: _cost(tile, axes, count, outputs, inputs, groups))


def _cost(
    tile: tuple[int, ...], axes: Sequence[Axis], count: int, outputs: int, inputs: int, groups: int
) -> int:
    tiles = count * prod(-(-a.out // (t - a.kernel + 1)) for a, t in zip(axes, tile, strict=True))
    frequencies = prod(tile[:-1]) * (tile[-1] // 2 + 1)
    products = 8 * frequencies * outputs * inputs * tiles  # a complex one is four and four
    transforms = IMAGE * tiles * inputs * groups + OUTPUT * tiles * outputs + KERNEL * outputs * inputs
    return products + prod(tile) * transforms
