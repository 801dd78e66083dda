"""How much of its receptive field a unit uses.

Luo, Li, Urtasun & Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks", NIPS 2016, arXiv:1701.04128: the gradient of a unit with respect to the image, seeded with 1 at the
unit, averaged over images and draws of the weights. It is shaped like a Gaussian and grows with the root of
the depth; for n layers of k x k boxes without a non-linearity its variance is n (k^2 - 1) / 12 an axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.inspect.check import Enough, recording
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.spans import Span, spans
from cnnkit.inspect.trace import trace

#: What counts as used: more than this share of the greatest influence (outside of two standard deviations).
USED = 1 - 0.9545


@dataclass(frozen=True, slots=True)
class Effective:
    """The effective receptive field of the unit in the middle of a layer.

    Attributes:
        layer: the module call's path.
        unit: the unit's place in its map.
        influence: of each pixel, the greatest 1. Shape: (H, W)
        side: side of a square of as many pixels as are used.
        std: standard deviation of the influence along each axis.
        fit: share of the variance of `influence` that a Gaussian of its moments explains.
        theory: the field that the unit is connected to.
        cut: whether that field does not fit into the image, so that the figures are too small.
    """

    layer: str
    unit: tuple[int, ...]
    influence: Tensor
    side: float
    std: tuple[float, ...]
    fit: float
    theory: tuple[Span, ...]
    cut: bool


def effective(
    models: Iterable[nn.Module], shape: tuple[int, ...], *, layer: str, signed: bool = False, seed: int = 0
) -> Effective:
    """Measure the effective receptive field.

    Args:
        models: one network for each draw of the weights; a trained one as often as images are wanted.
        shape: of one image, (C, H, W).
        layer: the module whose unit is looked at, at its last call.
        signed: average gradients with their sign, so that what cancels over the draws does not count; by
            default their magnitudes are averaged.
        seed: of the images.

    Raises:
        Misuse: the layer is not called, or has no place in the image.
    """
    generator = torch.Generator().manual_seed(seed)
    total, model = torch.zeros(shape[1:], dtype=torch.float64), None
    for model in models:
        image = torch.randn(1, *shape, generator=generator).requires_grad_()
        (gradient,) = torch.autograd.grad(unit_of(model, image, layer), image)
        each = gradient[0].double().sum(0)
        total += each if signed else each.abs()
    if model is None:
        raise Misuse("an effective receptive field needs at least one network")
    influence = total.abs() / total.abs().max().clamp(min=1e-300)
    traced = trace(model, torch.zeros(1, *shape))
    call = [call for call in traced.root.calls() if call.path == layer][-1]
    theory = spans(fields(traced, context=False), call.outs[0])
    std, fit = gaussian(influence)
    used = int((influence > USED).sum())
    unit = tuple(n // 2 for n in call.outs[0].shape[2:])
    cut = any(s.most > n for s, n in zip(theory, shape[1:], strict=True))
    return Effective(layer, unit, influence.float(), math.sqrt(used), std, fit, theory, cut)


def unit_of(model: nn.Module, image: Tensor, layer: str) -> Tensor:
    """The sum over the channels of the unit in the middle of a layer's map."""
    calls = [call.path for call in trace(model, image).root.calls()]
    if layer not in calls:
        raise Misuse(f"{layer!r} is no layer that is called; there are {', '.join(p for p in calls if p)}")
    last = len(calls) - 1 - calls[::-1].index(layer)
    with recording(model, last) as outs, suppress(Enough):
        model(image)
    out = outs[last]
    if out is None or out.ndim != image.ndim:
        raise Misuse(f"{layer!r} has no map of units to look at")
    middle: tuple[Any, ...] = (0, slice(None), *(n // 2 for n in out.shape[2:]))
    return out[middle].sum()


def gaussian(influence: Tensor) -> tuple[tuple[float, ...], float]:
    """Standard deviation along each axis, and how well the Gaussian of these moments fits (R^2)."""
    weight = influence / influence.sum()
    std, exponent = [], torch.zeros_like(influence)
    for axis in range(influence.ndim):
        place = torch.arange(influence.shape[axis], dtype=influence.dtype)
        share = weight.movedim(axis, 0).flatten(1).sum(1)
        mean = (share * place).sum()
        variance = (share * (place - mean) ** 2).sum().clamp(min=1e-12)
        std.append(float(variance.sqrt()))
        shape = [-1 if d == axis else 1 for d in range(influence.ndim)]
        exponent = exponent + ((place - mean) ** 2 / (2 * variance)).reshape(shape)
    model = torch.exp(-exponent)
    model *= (model * influence).sum() / (model**2).sum()
    rest, spread = ((influence - model) ** 2).sum(), ((influence - influence.mean()) ** 2).sum()
    return tuple(std), float(1 - rest / spread.clamp(min=1e-300))
