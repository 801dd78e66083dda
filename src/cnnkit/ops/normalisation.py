"""Batch normalisation and local response normalisation, with their derived gradients.

Maps are (N, C, ...) throughout: channels on axis 1, any number of positions after it, also none.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape


class Normalised(NamedTuple):
    """What batch norm computed in training: the values, and each channel's mean and (biased) variance."""

    values: Tensor
    mean: Tensor
    variance: Tensor


class BatchNormGradients(NamedTuple):
    """dL/dx, dL/dgamma and dL/dbeta."""

    x: Tensor
    scale: Tensor
    shift: Tensor


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, *, epsilon: float = 1e-5) -> Normalised:
    """Batch norm in training. Ioffe & Szegedy, ICML 2015, arXiv:1502.03167, Algorithm 1.

        mu = sum(x) / m       sigma^2 = sum((x - mu)^2) / m       x^ = (x - mu) / sqrt(sigma^2 + eps)
        y = gamma x^ + beta

    each for one channel, over the m = N * H * W values that it has in the batch.

    Shape: x (N, C, ...), scale gamma and shift beta (C,) -> values as x, mean and variance (C,)

    Raises:
        ValueError: a tensor is not of floating point, scale or shift do not fit the channels, or a channel
            has one value only, whose deviation from its mean would always be 0.
    """
    _require_channels(x, scale=scale, shift=shift)
    if x.numel() <= x.shape[1]:
        raise ValueError(
            f"batch norm needs more than one value a channel in training, got x of shape {tuple(x.shape)}"
        )
    axes = _all_but_channels(x)
    mean = x.mean(axes)
    variance = (x - _a_channel(mean, x)).square().mean(axes)
    return Normalised(batch_norm_inference(x, scale, shift, mean, variance, epsilon=epsilon), mean, variance)


def batch_norm_backward(
    residual: Tensor, x: Tensor, scale: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5
) -> BatchNormGradients:
    """The gradients in training, where mu and sigma^2 depend on every x.

    With delta = dL/dy, the paper's chain (section 3) collapses to

        dL/dbeta = sum(delta)       dL/dgamma = sum(delta x^)
        dL/dx = gamma / sqrt(sigma^2 + eps) * (delta - dL/dbeta / m - x^ dL/dgamma / m)

    The two terms that are taken away are the parts of delta along 1 and along x^: to move a channel's values
    all together, or to stretch them, changes nothing after the normalisation, so no residual may ask for it.
    """
    straight = batch_norm_inference_backward(residual, x, scale, mean, variance, epsilon=epsilon)
    count = x.numel() // x.shape[1]
    unscaled = (x - _a_channel(mean, x)) / torch.sqrt(_a_channel(variance, x) + epsilon)
    along = _a_channel(straight.shift, x) + unscaled * _a_channel(straight.scale, x)
    through = straight.x - _a_channel(scale / torch.sqrt(variance + epsilon), x) * along / count
    return straight._replace(x=through)


def batch_norm_inference(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """gamma (x - mu) / sqrt(sigma^2 + eps) + beta with a given mean and variance (Algorithm 2).

    Shape: x (N, C, ...), the others (C,) -> as x
    """
    _require_channels(x, scale=scale, shift=shift, mean=mean, variance=variance)
    unscaled = (x - _a_channel(mean, x)) / torch.sqrt(_a_channel(variance, x) + epsilon)
    return _a_channel(scale, x) * unscaled + _a_channel(shift, x)


def batch_norm_inference_backward(
    residual: Tensor, x: Tensor, scale: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5
) -> BatchNormGradients:
    """The gradients with mu and sigma^2 constant: dL/dx = delta gamma / sqrt(sigma^2 + eps)."""
    _require_channels(x, scale=scale, mean=mean, variance=variance)
    require_float(residual=residual)
    require_shape("residual", residual, x.shape)
    axes = _all_but_channels(x)
    unscaled = (x - _a_channel(mean, x)) / torch.sqrt(_a_channel(variance, x) + epsilon)
    slope = _a_channel(scale / torch.sqrt(variance + epsilon), x)
    return BatchNormGradients(residual * slope, (residual * unscaled).sum(axes), residual.sum(axes))


def running_statistics(
    mean: Tensor, variance: Tensor, batch: Normalised, *, momentum: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The averages for inference after one more batch: (1 - momentum) * old + momentum * new.

    The batch normalises by its biased variance; what is averaged is the unbiased one, m / (m - 1) times as
    large (Algorithm 2, line 10). Momentum is the weight of the new batch, as in PyTorch; Caffe and TensorFlow
    state the weight of the old average.
    """
    count = batch.values.numel() // batch.values.shape[1]
    unbiased = batch.variance * count / (count - 1)
    return mean + momentum * (batch.mean - mean), variance + momentum * (unbiased - variance)


def local_response_norm(
    maps: Tensor, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Tensor:
    """AlexNet's normalisation across channels. Krizhevsky, Sutskever & Hinton, NIPS 2012, section 3.3.

        b_i = a_i / s_i^beta     s_i = k + alpha sum_j a_j^2     j = max(0, i - n/2) .. min(C - 1, i + n/2)

    at each position by itself, n/2 rounded down. The constants are the paper's, and alpha multiplies the
    plain sum: Caffe and PyTorch divide it by n, so there the same layer is alpha = 5e-4, and k must be given.

    Shape: (N, C, ...) -> the same

    Raises:
        ValueError: maps are not of floating point, or n is even: the window would not be centred.
    """
    _require_odd(size)
    require_float(maps=maps)
    return maps * _scale(maps, size, alpha, k) ** -beta


def local_response_norm_backward(
    residual: Tensor, maps: Tensor, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Tensor:
    """dL/da: a_i acts straight, and through the s_j of every channel j whose window holds i.

        dL/da_i = delta_i s_i^-beta - 2 alpha beta a_i sum_j delta_j a_j s_j^(-beta - 1)

    j runs over the same window as before: i is in the window of j exactly where j is in that of i.
    """
    _require_odd(size)
    require_float(residual=residual, maps=maps)
    require_shape("residual", residual, maps.shape)
    scale = _scale(maps, size, alpha, k)
    crossing = _sum_across(residual * maps * scale ** (-beta - 1), size)
    return residual * scale**-beta - 2 * alpha * beta * maps * crossing


def _scale(maps: Tensor, size: int, alpha: float, k: float) -> Tensor:
    return k + alpha * _sum_across(maps.square(), size)


def _sum_across(maps: Tensor, size: int) -> Tensor:
    """The sum over the `size` channels around each; beyond the first and the last there is nothing."""
    channels, half = maps.shape[1], size // 2
    padded = maps.new_zeros(maps.shape[0], channels + 2 * half, *maps.shape[2:])
    padded[:, half : half + channels] = maps
    return torch.stack([padded[:, i : i + channels] for i in range(size)]).sum(0)


def _require_odd(size: int) -> None:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be odd, so that the window of channels is centred, got {size}")


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _a_channel(values: Tensor, x: Tensor) -> Tensor:
    """One value a channel, shaped so that it meets every position of x."""
    return values.reshape(1, -1, *(1,) * (x.dim() - 2))


def _require_channels(x: Tensor, **a_channel: Tensor) -> None:
    require_float(x=x, **a_channel)
    if x.dim() < 2:
        raise ValueError(f"x must be (N, C, ...), got shape {tuple(x.shape)}")
    for name, values in a_channel.items():
        require_shape(name, values, x.shape[1:2])
