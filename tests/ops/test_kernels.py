"""Hand-set kernels against scikit-image and SciPy, and the matched filter on a composite picture."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import feature, filters
from sklearn.datasets import load_digits
from tests.ops.agreement import assert_equal
from torch import Tensor

from cnnkit.ops.kernels import edge_kernels, edges, gabor, gaussian, matched_filter


def picture(height: int = 31, width: int = 40, seed: int = 0) -> Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.reference
@pytest.mark.parametrize(("name", "total"), [("sobel", 4), ("prewitt", 3), ("scharr", 16)])
def test_edges_are_scikit_images_but_for_its_scale(name: Any, total: int) -> None:
    """There each kernel is divided by the sum of its smoothing, and the root by sqrt(2)."""
    image = picture()
    expected = getattr(filters, name)(image.numpy()) * total * math.sqrt(2)
    assert_equal(edges(image, name), torch.from_numpy(expected))


@pytest.mark.reference
def test_the_laplacians_are_scipys() -> None:
    image = picture()
    four = ndimage.laplace(image.numpy(), mode="nearest")
    assert_equal(edges(image, "laplacian4"), torch.from_numpy(np.abs(four)))
    eight = ndimage.correlate(image.numpy(), edge_kernels("laplacian8")[0, 0].numpy(), mode="nearest")
    assert_equal(edges(image, "laplacian8"), torch.from_numpy(np.abs(eight)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_roberts_takes_the_differences_along_the_diagonals(height: int, width: int, seed: int) -> None:
    image = picture(height, width, seed)
    down = image[[*range(1, height), height - 1]]
    right = image[:, [*range(1, width), width - 1]]
    both = down[:, [*range(1, width), width - 1]]
    assert_equal(edges(image, "roberts"), ((image - both) ** 2 + (right - down) ** 2).sqrt())


def test_a_step_to_the_right_is_an_edge_in_x_alone() -> None:
    """Columns 0 0 1 1: Sobel in x answers (1 + 2 + 1) at the two columns beside the step."""
    image = torch.tensor([[0.0, 0, 1, 1]] * 5)
    assert edges(image, "sobel").tolist() == [[0, 4, 4, 0]] * 5
    assert torch.equal(edges(image.T, "sobel"), edges(image, "sobel").T)


@pytest.mark.parametrize("name", ["sobel", "prewitt", "scharr", "roberts", "laplacian4", "laplacian8"])
def test_an_even_picture_has_no_edges_and_no_frame(name: Any) -> None:
    assert edges(torch.full((2, 3, 6, 7), 0.7, dtype=torch.float64), name).abs().max() < 1e-14


def test_edges_take_each_plane_by_itself() -> None:
    images = torch.stack([picture(seed=i) for i in range(6)]).reshape(2, 3, 31, 40)
    assert torch.equal(edges(images)[1, 2], edges(images[1, 2]))


@pytest.mark.reference
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.3])
def test_gaussian_is_scipys(sigma: float) -> None:
    reach = math.ceil(3 * sigma)
    impulse = np.zeros((2 * reach + 1,) * 2)
    impulse[reach, reach] = 1
    expected = torch.from_numpy(ndimage.gaussian_filter(impulse, sigma, radius=reach))
    torch.testing.assert_close(gaussian(sigma).double(), expected, rtol=0, atol=1e-7)


@pytest.mark.reference
@settings(max_examples=20, deadline=None)
@given(st.floats(2, 9), st.floats(0, math.pi), st.floats(0.3, 1.5), st.floats(-3, 3))
def test_gabor_is_scikit_images_but_for_its_scale(
    wavelength: float, angle: float, aspect: float, phase: float
) -> None:
    sigma = 0.56 * wavelength
    made = gabor(wavelength, angle, aspect=aspect, phase=phase)
    expected = filters.gabor_kernel(
        1 / wavelength,
        angle,
        sigma_x=sigma,
        sigma_y=sigma / aspect,
        n_stds=4,
        offset=phase,
    ).real
    expected *= 2 * math.pi * sigma * sigma / aspect
    for axis in (0, 1):
        rest = (expected.shape[axis] - made.shape[axis]) // 2
        if rest > 0:
            expected = np.take(expected, range(rest, expected.shape[axis] - rest), axis)
        if rest < 0:
            made = made.narrow(axis, -rest, expected.shape[axis])
    torch.testing.assert_close(made.double(), torch.from_numpy(expected), rtol=0, atol=2e-5)


def composite() -> Tensor:
    """Fifty handwritten digits in five rows of ten, each with two pixels of black around it."""
    digits = torch.from_numpy(load_digits().images[:50]) / 16
    return (
        torch.nn.functional.pad(digits, (2, 2, 2, 2)).reshape(5, 10, 12, 12).transpose(1, 2).reshape(60, 120)
    )


@pytest.mark.parametrize("place", range(50))
def test_the_response_peaks_where_the_pattern_is(place: int) -> None:
    row, column = 12 * (place // 10), 12 * (place % 10)
    image = composite()
    response = matched_filter(image, image[row : row + 12, column : column + 12])
    assert divmod(int(response.argmax()), response.shape[1]) == (row, column)
    assert float(response.max()) == pytest.approx(1, abs=1e-12)
    response[row, column] = 0
    assert response.max() < 0.99


def test_brightness_and_contrast_change_no_response_and_a_negative_answers_minus_one() -> None:
    image = composite()
    pattern = image[24:36, 72:84]
    response = matched_filter(image, pattern)
    assert_equal(matched_filter(5 * image + 3, 0.1 * pattern - 7), response, 1e-9)
    assert_equal(matched_filter(1 - image, pattern), -response, 1e-9)


@pytest.mark.reference
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 6), st.integers(0, 99))
def test_the_matched_filter_is_its_definition_and_scikit_images(height: int, width: int, seed: int) -> None:
    """scikit-image's own digits end at about 1e-6 where a window has little contrast."""
    image = picture(14, 17, seed)
    pattern = picture(height, width, seed + 1)
    found = matched_filter(image, pattern)
    theirs = torch.from_numpy(feature.match_template(image.numpy(), pattern.numpy()))
    assert_equal(found, theirs, 1e-5)
    for i, j in ((0, 0), (14 - height, 17 - width), (5, 8)):
        window = image[i : i + height, j : j + width]
        x, t = window - window.mean(), pattern - pattern.mean()
        assert float(found[i, j]) == pytest.approx(float((x * t).sum() / (x.norm() * t.norm())), abs=1e-7)


def test_a_window_without_contrast_does_not_answer() -> None:
    image = torch.zeros(9, 9)
    image[5:, 5:] = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    response = matched_filter(image + 0.1, image[5:, 5:])
    assert response[:2, :2].abs().max() == 0
    assert float(response[5, 5]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edges(torch.zeros(3, 3), "canny"), r"no edge kernel 'canny'; there are sobel"),
        (lambda: edges(torch.zeros(3, 3).int()), r"images must be of floating point"),
        (lambda: gaussian(0), r"sigma must be positive, got 0"),
        (lambda: gaussian(1, 4), r"size must be odd.*got 4"),
        (lambda: gabor(-1, 0), r"wavelength, sigma and aspect must be positive, got -1"),
        (lambda: matched_filter(torch.rand(9, 9), torch.ones(3, 3) / 3), r"pattern has no contrast"),
        (lambda: matched_filter(torch.rand(9, 9), torch.rand(1, 3, 3)), r"pattern must be \(h, w\)"),
        (lambda: matched_filter(torch.rand(3, 3), torch.rand(4, 4)), r"kernel \(4, 4\)"),
    ],
)
def test_what_makes_no_kernel_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
