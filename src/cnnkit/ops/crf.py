"""A fully connected conditional random field over pixels, by mean-field inference.

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011,
arXiv:1210.5644. Each pixel has a label; each pair of pixels that look alike and lie close pays for having
different ones:

    E(x) = sum_i -logit_i(x_i) + sum_{i<j} [x_i != x_j] sum_m w_m k_m(f_i, f_j),
    k_m(f_i, f_j) = exp(-|f_i - f_j|^2 / 2).

Mean field (Algorithm 1) makes the pixels independent and lets each hear what all others believe, again and
again:

    Q_i(l) ∝ exp(logit_i(l) + sum_m w_m sum_j k_m(f_i, f_j) Q_j(l) / sum_j k_m(f_i, f_j)).

A pixel hears itself too, and what it hears is divided by the response to ones, as in the authors' code. The
sums over j are Gaussian filters: of positions they come apart into rows and columns and are exact; of
positions and colours they are the full matrix for small images and a permutohedral lattice for others.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape
from cnnkit.ops.permutohedral import Lattice

#: (N, C, H, W) -> (N, C, H, W): a weighted mean of all pixels for each pixel.
Filter = Callable[[Tensor], Tensor]

#: Images of at most so many pixels are filtered by the full matrix.
SMALL = 2500


class Kernel(NamedTuple):
    """w k(f_i, f_j).

    Attributes:
        weight: w.
        spatial: standard deviation of positions, in pixels.
        colour: standard deviation of colours, in grey levels; None where colours do not matter.
    """

    weight: float
    spatial: float
    colour: float | None = None


#: The defaults of the authors' tool.
KERNELS = (Kernel(3.0, 3.0), Kernel(10.0, 60.0, 20.0))


def mean_field(logits: Tensor, message: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
    """The logits of Q after so many rounds of hearing what the others believe.

    Args:
        message: what is added to the logits, from probabilities (N, C, H, W).

    Shape: (N, C, H, W) -> (N, C, H, W)
    """
    heard = logits
    for _ in range(iterations):
        heard = logits + message(heard.softmax(1))
    return heard


def dense_crf(
    logits: Tensor, images: Tensor, kernels: Sequence[Kernel] = KERNELS, *, iterations: int = 10
) -> Tensor:
    """Scores made to follow the edges of the images.

    Args:
        logits: of each class, (N, C, H, W).
        images: grey levels from 0 to 255, (N, any channels, H, W).

    Shape: logits of Q, (N, C, H, W)

    Raises:
        ValueError: tensors are not of floating point, or sizes differ.
    """
    filters = [gaussian_filter(images, kernel) for kernel in kernels]
    require_float(logits=logits)
    require_shape("images", images, (logits.shape[0], images.shape[1], *logits.shape[2:]))

    def message(believed: Tensor) -> Tensor:
        told = [kernel.weight * filter_(believed) for kernel, filter_ in zip(kernels, filters, strict=True)]
        return torch.stack(told).sum(0)

    return mean_field(logits, message, iterations)


def gaussian_filter(images: Tensor, kernel: Kernel) -> Filter:
    """sum_j k(f_i, f_j) v_j / sum_j k(f_i, f_j); the kernel's weight is the caller's.

    The filter is linear in v and passes gradients to it, none to the images.

    Raises:
        ValueError: images are not of floating point.
    """
    require_float(images=images)
    if kernel.colour is None:
        return spatial_filter(images, kernel.spatial)
    described = features(images, kernel.spatial, kernel.colour)
    return exact_filter(described) if described.shape[1] <= SMALL else lattice_filter(described)


@torch.no_grad()
def features(images: Tensor, spatial: float, colour: float) -> Tensor:
    """f: positions and colours in units of their deviations. Shape: (N, C, H, W) -> (N, H W, 2 + C)"""
    count, channels, height, width = images.shape
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    rows = torch.arange(height, device=images.device, dtype=images.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=images.device, dtype=images.dtype)[None, :].expand(height, width)
    places = torch.stack([columns, rows]).flatten(1).expand(count, 2, -1) / spatial
    colours = images.reshape(count, channels, -1) / colour
    return torch.cat([places, colours], dim=1).transpose(1, 2)


@torch.no_grad()
def spatial_filter(images: Tensor, deviation: float) -> Filter:
    """A Gaussian of positions alone, which is one of rows after one of columns."""

    def along(size: int) -> Tensor:
        places = torch.arange(size, device=images.device, dtype=torch.float64)
        weights = (-(((places[:, None] - places) / deviation) ** 2) / 2).exp()
        return weights / weights.sum(1, keepdim=True)

    rows, columns = along(images.shape[2]), along(images.shape[3])

    def apply(values: Tensor) -> Tensor:
        return rows.to(values) @ values @ columns.to(values).T

    return apply


@torch.no_grad()
def exact_filter(described: Tensor) -> Filter:
    """The full matrix of all pairs of pixels. Shape of `described`: (N, P, features)"""
    weights = (-(torch.cdist(described, described) ** 2) / 2).exp()
    weights = weights / weights.sum(2, keepdim=True)

    def apply(values: Tensor) -> Tensor:
        return (values.flatten(2) @ weights.to(values).transpose(1, 2)).reshape(values.shape)

    return apply


def lattice_filter(described: Tensor) -> Filter:
    """Filtering on a permutohedral lattice, one an image. Shape of `described`: (N, P, features)"""
    lattices = [Lattice(one) for one in described]
    norms = [
        lattice.filter(lattice.barycentric.new_ones(len(one), 1))
        for lattice, one in zip(lattices, described, strict=True)
    ]

    def apply(values: Tensor) -> Tensor:
        filtered = [
            (lattice.filter(one.flatten(1).T.to(norm.dtype)) / norm).T.reshape(one.shape)
            for lattice, norm, one in zip(lattices, norms, values, strict=True)
        ]
        return torch.stack(filtered).to(values.dtype)

    return apply
