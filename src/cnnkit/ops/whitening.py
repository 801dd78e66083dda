"""Whitening: a linear map after which values have variance 1 and no correlation.

With mu the mean, C the covariance (over n - 1) and C = U diag(l) U^T, every W with W C W^T = 1 whitens,
y = W (x - mu); they differ by a rotation.

    PCA   W = diag(l + eps)^-1/2 U^T       the values of y are the principal components, the largest first
    ZCA   W = U diag(l + eps)^-1/2 U^T     the only symmetric one: y is the nearest to x that is white

ZCA is Bell & Sejnowski, Vision Research 37, 1997, and Krizhevsky, "Learning multiple layers of features
from tiny images", 2009, appendix A, W = sqrt(n - 1) (X X^T)^-1/2. eps is added to the eigenvalues, as
Goodfellow et al., ICML 2013, arXiv:1302.4389, did with 0.1: directions of less variance than that stay small
instead of being blown up to noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cnnkit.ops.checks import require_float, require_shape


@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """y = W (x - mu).

    Attributes:
        mean: mu. Shape: (D,)
        matrix: W. Shape: (D, D)
    """

    mean: Tensor
    matrix: Tensor
    _copies: dict[torch.device, "Whitening"] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require_float(mean=self.mean, matrix=self.matrix)
        require_shape("matrix", self.matrix, (len(self.mean), len(self.mean)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Whitening):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.matrix, other.matrix)

    __hash__ = None  # type: ignore[assignment]

    def on(self, device: torch.device) -> "Whitening":
        """The same on a device; copied there once."""
        if self.matrix.device == device:
            return self
        if device not in self._copies:
            with torch.inference_mode(False):  # what is kept may be used outside as well
                self._copies[device] = Whitening(self.mean.to(device), self.matrix.to(device))
        return self._copies[device]


def covariance(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance (over n - 1) of the rows of all batches, which are read once.

    Each batch is centred by its own mean, and the sums are brought together by Chan, Golub & LeVeque's
    formula (1979), so nothing cancels where the mean is large. Products are in the batches' own precision,
    sums over batches in float64.

    Shape: (n, D) a batch -> (D,), (D, D), float64

    Raises:
        ValueError: there are fewer than two rows in all, or they are not of floating point.
    """
    count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        require_float(batch=batch)
        rows, own = len(batch), batch.mean(0)
        centred = batch - own
        shift = own.double() - mean
        total = count + rows
        scatter = scatter + (centred.T @ centred).double()
        scatter += torch.outer(shift, shift) * (count * rows / total)
        mean = mean + shift * (rows / total)
        count = total
    if count < 2:
        raise ValueError(f"a covariance needs at least two rows, got {count}")
    return mean, scatter / (count - 1)


def pca_whitening(mean: Tensor, covariance: Tensor, *, epsilon: float = 0.0) -> Whitening:
    """W = diag(l + eps)^-1/2 U^T, the direction of the largest variance first.

    An eigenvector has no sign of its own: its entry of largest magnitude is made positive.

    Shape: (D,), (D, D) -> D values in, D components out

    Raises:
        ValueError: a direction without variance and epsilon 0.
    """
    values, vectors = _eigen(covariance, epsilon)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return Whitening(mean, (vectors * (largest.sign() * values.rsqrt())).T.contiguous())


def zca_whitening(mean: Tensor, covariance: Tensor, *, epsilon: float = 0.0) -> Whitening:
    """W = U diag(l + eps)^-1/2 U^T = (C + eps)^-1/2, symmetric.

    Shape: (D,), (D, D) -> D values in, D values out, each still at its place

    Raises:
        ValueError: a direction without variance and epsilon 0.
    """
    values, vectors = _eigen(covariance, epsilon)
    matrix = (vectors * values.rsqrt()) @ vectors.T
    return Whitening(mean, (matrix + matrix.T) / 2)


def whiten(x: Tensor, whitening: Whitening) -> Tensor:
    """W (x - mu) of every row. Shape: (..., D) -> (..., D)

    Raises:
        ValueError: x is not of floating point, or its rows have another length than the whitening is for.
    """
    require_float(x=x)
    if x.shape[-1] != len(whitening.mean):
        raise ValueError(f"the whitening is of {len(whitening.mean)} values, got rows of {x.shape[-1]}")
    return (x - whitening.mean) @ whitening.matrix.T


def _eigen(covariance: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues plus epsilon, the largest first, and eigenvectors as columns."""
    if epsilon < 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    least = float(values[-1])
    if epsilon == 0 and least <= float(values[0]) * len(values) * torch.finfo(values.dtype).eps:
        raise ValueError(
            f"the values do not vary in every direction (the least variance is {least:.2g}), so epsilon 0 "
            f"cannot whiten them; give a positive epsilon"
        )
    return values.clamp(min=0) + epsilon, vectors
