"""Moving data without calculating: zeros around and between positions, windows as views, rotated kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnkit.ops.shapes import Axis


def pad(images: Tensor, pairs: Sequence[tuple[int, int]], fill: float = 0.0) -> Tensor:
    """Put `fill` before and after each spatial axis; a negative number cuts that many positions off instead.

    Shape: (N, C, *spatial) -> (N, C, *padded)
    """
    sizes = images.shape[2:]
    if all(p <= 0 and q <= 0 for p, q in pairs):
        return _cut(images, [(-p, n + p + q) for n, (p, q) in zip(sizes, pairs, strict=True)])
    padded = [p + n + q for n, (p, q) in zip(sizes, pairs, strict=True)]
    out = images.new_full((*images.shape[:2], *padded), fill)
    kept, places = [], []
    for n, (p, q) in zip(sizes, pairs, strict=True):
        length = max(0, n + min(0, p) + min(0, q))  # nothing, where one side is cut further than the image
        kept.append((min(n, max(0, -p)), length))
        places.append((min(n + p + q, max(0, p)), length))
    _cut(out, places).copy_(_cut(images, kept))
    return out


def _cut(images: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """The view of `length` positions from `start` on, for a (start, length) of each axis."""
    for axis, (start, length) in enumerate(spans, 2):
        images = images.narrow(axis, start, length)
    return images


def windows(padded: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Every window of an image that has its padding already, as a view: nothing is copied.

    Shape: (N, C, *padded) -> (N, C, *out, *kernel)
    """
    strides = padded.stride()[2:]
    return padded.as_strided(
        (*padded.shape[:2], *(a.out for a in axes), *(a.kernel for a in axes)),
        (
            *padded.stride()[:2],
            *(a.stride * step for a, step in zip(axes, strides, strict=True)),
            *(a.dilation * step for a, step in zip(axes, strides, strict=True)),
        ),
        padded.storage_offset(),
    )


def examples_innermost(images: Tensor) -> Tensor:
    """The same images with their examples side by side in memory. Shape: (N, C, *spatial) -> the same"""
    return images.movedim(0, -1).contiguous().movedim(-1, 0)


def interleave(images: Tensor, strides: Sequence[int]) -> Tensor:
    """Put s - 1 zeros between neighbours: n positions become s (n - 1) + 1.

    Shape: (N, C, *spatial) -> (N, C, *interleaved)
    """
    if all(s == 1 for s in strides):
        return images
    sizes = [s * (n - 1) + 1 for n, s in zip(images.shape[2:], strides, strict=True)]
    out = images.new_zeros((*images.shape[:2], *sizes))
    out[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = images
    return out


def rotate(kernels: Tensor) -> Tensor:
    """Turn every kernel by 180 degrees. Shape: (O, C, *kernel) -> (O, C, *kernel)"""
    return torch.flip(kernels, tuple(range(2, kernels.ndim)))
