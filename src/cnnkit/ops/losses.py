"""Softmax and cross-entropy, with their gradients.

    p_c = exp(z_c) / sum_k exp(z_k)           the probability of class c (Bridle 1990)
    L = -w_y log p_y                          for one example of class y

The classes stand on axis 1, any positions after it: (N, C) for a classifier, (N, C, H, W) for a segmenter.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape

Reduction = Literal["none", "sum", "mean"]


def softmax(logits: Tensor, *, axis: int = 1) -> Tensor:
    """p_c. The largest logit is taken from all first, which changes no p and lets nothing overflow."""
    require_float(logits=logits)
    exponentials = torch.exp(logits - logits.amax(axis, keepdim=True))
    return exponentials / exponentials.sum(axis, keepdim=True)


def softmax_backward(residual: Tensor, probabilities: Tensor, *, axis: int = 1) -> Tensor:
    """dL/dz_c = p_c (delta_c - sum_k delta_k p_k), from dp_k/dz_c = p_k ([k = c] - p_c)."""
    require_float(residual=residual, probabilities=probabilities)
    return probabilities * (residual - (residual * probabilities).sum(axis, keepdim=True))


def log_softmax(logits: Tensor, *, axis: int = 1) -> Tensor:
    """log p_c = z_c - log sum_k exp(z_k), without the detour over p, which may round to 0."""
    require_float(logits=logits)
    shifted = logits - logits.amax(axis, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(axis, keepdim=True))


def log_softmax_backward(residual: Tensor, log_probabilities: Tensor, *, axis: int = 1) -> Tensor:
    """dL/dz_c = delta_c - p_c sum_k delta_k."""
    require_float(residual=residual, log_probabilities=log_probabilities)
    return residual - torch.exp(log_probabilities) * residual.sum(axis, keepdim=True)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    ignore: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-w_y log p_y; `mean` divides the sum by the sum of the w_y, so that it is a weighted mean.

    Args:
        weights: w, one a class; 1 where none are given.
        ignore: a label that stands for "not to be learned", whose places count nothing.

    Shape: logits (N, C, ...), labels (N, ...) of class numbers -> a number, or (N, ...) with `none`

    Raises:
        ValueError: shapes do not fit, logits are not of floating point, labels are not integers, or a label
            is none of the C classes.
    """
    importance, chosen = _importance(logits, labels, weights, ignore)
    surprise = -log_softmax(logits).gather(1, chosen.unsqueeze(1)).squeeze(1)
    losses = (importance * surprise).masked_fill(importance == 0, 0)  # even where the surprise is infinite
    total = _total_weight(importance, reduction)
    return losses if reduction == "none" else losses.sum() / total


def cross_entropy_backward(
    residual: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    ignore: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """dL/dz_c = delta w_y (p_c - [c = y]), over the sum of the weights for `mean`."""
    importance, chosen = _importance(logits, labels, weights, ignore)
    difference = softmax(logits)
    difference.scatter_add_(1, chosen.unsqueeze(1), -torch.ones_like(difference[:, :1]))
    share = residual * importance / _total_weight(importance, reduction)
    return share.unsqueeze(1) * difference


def _importance(
    logits: Tensor, labels: Tensor, weights: Tensor | None, ignore: int | None
) -> tuple[Tensor, Tensor]:
    """The weight of each place, 0 where it is ignored, and its class, 0 there too."""
    require_float(logits=logits, weights=weights)
    if logits.dim() < 2:
        raise ValueError(f"logits must be (N, C, ...), got shape {tuple(logits.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be class numbers of an integer type, got {labels.dtype}")
    classes = logits.shape[1]
    require_shape("labels", labels, (logits.shape[0], *logits.shape[2:]))
    left_out = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else labels == ignore
    chosen = labels.masked_fill(left_out, 0).long()
    if ((chosen < 0) | (chosen >= classes)).any():
        raise ValueError(
            f"labels must be 0..{classes - 1} or the ignored {ignore}, got {labels.min()}..{labels.max()}"
        )
    if weights is None:
        weights = logits.new_ones(classes)
    require_shape("weights", weights, (classes,))
    return weights[chosen].masked_fill(left_out, 0), chosen


def _total_weight(importance: Tensor, reduction: Reduction) -> Tensor | int:
    """What the losses are divided by."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be none, sum or mean, got {reduction!r}")
    return importance.sum() if reduction == "mean" else 1
