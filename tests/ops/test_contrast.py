"""Contrast normalisation against the formulas written out pixel by pixel, and against scikit-learn."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cnnkit.ops.contrast import global_contrast_norm, local_contrast_norm


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_image_gets_mean_0_and_deviation_1_as_in_another_library() -> None:
    x = images(4, 3, 5, 6)
    theirs = StandardScaler().fit_transform(x.flatten(1).numpy().T).T
    torch.testing.assert_close(global_contrast_norm(x).flatten(1), torch.from_numpy(theirs))


def test_cifar_images_get_goodfellow_s_length_of_55() -> None:
    lengths = global_contrast_norm(images(2, 3, 32, 32)).flatten(1).norm(dim=1)
    assert [round(v, 1) for v in lengths.tolist()] == [55.4, 55.4]


def written_out(x: Tensor, size: int, floor: float) -> Tensor:
    """Section 2 of Jarrett et al., a pixel at a time, with the window's weights inside brought to sum 1."""
    channels, height, width = x.shape
    half, sigma = size // 2, size / 4

    def weights(j: int, k: int) -> dict[tuple[int, int], float]:
        found = {
            (j + p, k + q): math.exp(-(p * p + q * q) / (2 * sigma**2))
            for p in range(-half, half + 1)
            for q in range(-half, half + 1)
            if 0 <= j + p < height and 0 <= k + q < width
        }
        total = channels * sum(found.values())
        return {place: w / total for place, w in found.items()}

    v, s = torch.empty_like(x), torch.empty_like(x[0])
    for j in range(height):
        for k in range(width):
            around = sum(
                w * float(x[i, a, b]) for (a, b), w in weights(j, k).items() for i in range(channels)
            )
            v[:, j, k] = x[:, j, k] - around
    for j in range(height):
        for k in range(width):
            squares = (
                w * float(v[i, a, b]) ** 2 for (a, b), w in weights(j, k).items() for i in range(channels)
            )
            s[j, k] = math.sqrt(sum(squares))
    return v / s.clamp(min=max(float(s.mean()), floor))


@pytest.mark.parametrize(("channels", "size", "floor"), [(1, 9, 0.0), (3, 5, 0.0), (2, 3, 0.4)])
def test_local_contrast_is_the_formula_written_out(channels: int, size: int, floor: float) -> None:
    x = images(2, channels, 7, 8, seed=1)
    x[1] *= 3  # c is each image's own
    found = local_contrast_norm(x, size=size, floor=floor)
    for image, ours in zip(x, found, strict=True):
        torch.testing.assert_close(ours, written_out(image, size, floor))


def test_brightness_and_contrast_of_the_light_change_nothing() -> None:
    x = images(1, 3, 12, 12)
    torch.testing.assert_close(local_contrast_norm(5 * x + 2), local_contrast_norm(x))
    torch.testing.assert_close(global_contrast_norm(5 * x + 2), global_contrast_norm(x))


@pytest.mark.parametrize("norm", [local_contrast_norm, global_contrast_norm])
def test_an_even_image_becomes_0_and_not_noise(norm: Callable[..., Tensor]) -> None:
    even = torch.full((1, 3, 12, 12), 0.3)
    assert norm(even, floor=1 / 255).abs().max() < 1e-4
    assert torch.equal(norm(torch.zeros(1, 3, 12, 12)), torch.zeros(1, 3, 12, 12))


def test_bytes_and_even_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="floating point"):
        local_contrast_norm(torch.zeros(1, 1, 9, 9, dtype=torch.uint8))
    with pytest.raises(ValueError, match="size must be odd"):
        local_contrast_norm(torch.zeros(1, 1, 9, 9), size=4)
