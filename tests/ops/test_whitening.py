"""Whitened values have covariance 1, and the matrices are those of scikit-learn and of the definition."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from cnnkit.ops.whitening import Whitening, covariance, pca_whitening, whiten, zca_whitening


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Correlated values with a mean far from 0. Shape: (500, 7)"""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 7, generator=generator, dtype=torch.float64)
    return mixed @ torch.randn(7, 7, generator=generator, dtype=torch.float64) + 30


@pytest.mark.parametrize("find", [pca_whitening, zca_whitening])
def test_the_covariance_of_whitened_values_is_the_identity(
    rows: Tensor, find: Callable[..., Whitening]
) -> None:
    made = whiten(rows, find(*covariance([rows])))
    assert np.allclose(np.cov(made.numpy().T), np.eye(7), atol=1e-10)
    assert np.allclose(made.mean(0), 0, atol=1e-10)


def test_pca_gives_the_components_of_scikit_learn(rows: Tensor) -> None:
    """Up to the sign of each component, which is nobody's."""
    theirs = PCA(whiten=True).fit_transform(rows.numpy())
    ours = whiten(rows, pca_whitening(*covariance([rows]))).numpy()
    signs = np.sign((theirs * ours).sum(0))
    assert np.allclose(ours * signs, theirs, atol=1e-9)


def test_an_eigenvector_s_greatest_entry_is_positive(rows: Tensor) -> None:
    matrix = pca_whitening(*covariance([rows])).matrix
    assert (matrix.gather(1, matrix.abs().argmax(1, keepdim=True)) > 0).all()


def test_zca_is_the_symmetric_root_of_the_inverse_covariance(rows: Tensor) -> None:
    mean, spread = covariance([rows])
    matrix = zca_whitening(mean, spread).matrix
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix @ matrix, torch.linalg.inv(spread), atol=1e-10)


def test_zca_is_krizhevsky_s_formula(rows: Tensor) -> None:
    """W = sqrt(n - 1) (X X^T)^-1/2 with the images as columns of X."""
    x = (rows - rows.mean(0)).numpy().T
    values, vectors = np.linalg.eigh(x @ x.T)
    expected = np.sqrt(499) * vectors @ np.diag(values**-0.5) @ vectors.T
    assert np.allclose(zca_whitening(*covariance([rows])).matrix, expected, atol=1e-10)


def test_zca_stays_nearer_to_the_values_than_pca(rows: Tensor) -> None:
    found = covariance([rows])
    centred = rows - found[0]
    near, far = (
        float((whiten(rows, find(*found)) - centred).square().sum())
        for find in (zca_whitening, pca_whitening)
    )
    assert near < far


def test_epsilon_damps_what_hardly_varies() -> None:
    """Values -1.5 and 1.5 twice have variance 9/3 = 3, and with epsilon 1 become 3 / (3 + 1)."""
    x = torch.tensor([[-1.5, 0.0], [-1.5, 0.0], [1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
    mean, spread = covariance([x])
    assert spread.tolist() == [[3, 0], [0, 0]]
    made = whiten(x, zca_whitening(mean, spread, epsilon=1.0))
    assert made[:, 0].var().item() == pytest.approx(3 / 4)
    assert not made[:, 1].any()
    with pytest.raises(ValueError, match="do not vary in every direction"):
        zca_whitening(mean, spread)


@pytest.mark.parametrize("sizes", [[500], [1, 499], [100] * 5, [3, 17, 480]])
def test_the_covariance_does_not_depend_on_the_batches(rows: Tensor, sizes: list[int]) -> None:
    mean, spread = covariance(torch.split(rows, sizes))
    assert np.allclose(mean, rows.mean(0))
    assert np.allclose(spread, np.cov(rows.numpy().T), rtol=1e-10)


def test_a_large_mean_takes_no_digits_in_single_precision() -> None:
    """Deviation 1 around 4,000: sums of squares less the square of the sum would keep no digit of it."""
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)) + 4000
    expected = np.cov(x.double().numpy().T)
    assert np.allclose(covariance(torch.split(x, 100))[1], expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_whitened_is_refused(rows: Tensor) -> None:
    found = zca_whitening(*covariance([rows]))
    with pytest.raises(ValueError, match="of 7 values, got rows of 6"):
        whiten(rows[:, :6], found)
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        covariance([rows[:1]])
    with pytest.raises(ValueError, match="must not be negative"):
        zca_whitening(*covariance([rows]), epsilon=-1)
    with pytest.raises(ValueError, match="floating point"):
        whiten(torch.zeros(2, 7, dtype=torch.uint8), found)
    with pytest.raises(ValueError, match=r"matrix must have shape \(3, 3\)"):
        Whitening(torch.zeros(3), torch.zeros(3, 2))


def test_two_are_equal_where_their_numbers_are(rows: Tensor) -> None:
    one, two = (zca_whitening(*covariance([rows])) for _ in range(2))
    assert one == two
    assert one != zca_whitening(*covariance([rows]), epsilon=0.1)
    assert one != "whitening"
