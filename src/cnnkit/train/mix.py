"""Noise in the targets, and images mixed with each other.

    mixup       Zhang, Cisse, Dauphin & Lopez-Paz, ICLR 2018, arXiv:1710.09412.
    CutMix      Yun et al., ICCV 2019, arXiv:1905.04899.
    label noise Zhang, Bengio, Hardt, Recht & Vinyals, ICLR 2017, arXiv:1611.03530: a share of the training
                labels is replaced once and for all.
    DisturbLabel Xie, Wang, Wei, Wang & Tian, CVPR 2016, arXiv:1605.00055: labels are replaced anew in each
                batch.

A replaced label is drawn from all classes, the right one among them, as both papers have it. Both mixtures
take one weight a batch and mix it with a permutation of itself, x = lam x_i + (1 - lam) x_j and
y = lam y_i + (1 - lam) y_j; CutMix gives x_j a box of the share 1 - lam instead and, as it may reach over
the edge, counts its pixels afterwards.

Numbers are drawn from generators of numpy that the caller seeds, so that a batch does not depend on what was
drawn before it, on the device or on torch's random state.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional


def noisy(labels: Sequence[int], classes: int, share: float, random: Generator) -> list[int]:
    """The same labels with a share of them, rounded to whole images, replaced."""
    found = np.array(labels, dtype=np.int64)
    chosen = random.permutation(len(found))[: round(share * len(found))]
    found[chosen] = random.integers(classes, size=len(chosen))
    return [int(label) for label in found]


def disturb(labels: Tensor, classes: int, alpha: float, random: Generator) -> Tensor:
    """Each label replaced with probability alpha. Shape: (N,), kept"""
    replaced = torch.from_numpy(random.random(len(labels)) < alpha)
    others = torch.from_numpy(random.integers(classes, size=len(labels)))
    return torch.where(replaced.to(labels.device), others.to(labels.device), labels)


def probabilities(targets: Tensor, classes: int) -> Tensor:
    """Labels as rows of 0 and 1; what is probabilities already stays. Shape: (N,) or (N, K) -> (N, K)"""
    return targets if targets.ndim == 2 else functional.one_hot(targets, classes).float()


def mixup(images: Tensor, targets: Tensor, alpha: float, random: Generator) -> tuple[Tensor, Tensor]:
    """A batch mixed with a permutation of itself, with a weight from Beta(alpha, alpha).

    Args:
        images: numbers, not bytes.
        targets: probabilities.

    Shape: (N, C, H, W), (N, K), kept
    """
    weight = float(random.beta(alpha, alpha))
    partner = _permutation(images, random)
    return (
        weight * images + (1 - weight) * images[partner],
        weight * targets + (1 - weight) * targets[partner],
    )


def cutmix(images: Tensor, targets: Tensor, alpha: float, random: Generator) -> tuple[Tensor, Tensor]:
    """A batch with a box of each image taken from its partner in a permutation. Shapes as in `mixup`."""
    height, width = images.shape[-2:]
    rows, columns = _box(height, width, float(random.beta(alpha, alpha)), random)
    partner = _permutation(images, random)
    mixed = images.clone()
    mixed[..., rows, columns] = images[partner][..., rows, columns]
    weight = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, weight * targets + (1 - weight) * targets[partner]


def _permutation(images: Tensor, random: Generator) -> Tensor:
    return torch.from_numpy(random.permutation(len(images))).to(images.device)


def _box(height: int, width: int, weight: float, random: Generator) -> tuple[slice, slice]:
    """A box of the share 1 - weight whose centre is anywhere, cut at the edges."""
    side = math.sqrt(1 - weight)
    return tuple(_span(size, int(size * side), int(random.integers(size))) for size in (height, width))  # type: ignore[return-value]


def _span(size: int, length: int, centre: int) -> slice:
    return slice(max(0, centre - length // 2), min(size, centre - length // 2 + length))
