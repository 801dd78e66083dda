"""The map of border weights against eq. 2 of the paper, cell by cell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from cnnkit.data.masks import IGNORED
from cnnkit.tasks.border import border_weights


def definition(mask: Tensor, w: tuple[float, float], border: float, sigma: float) -> Tensor:
    """Eq. 2 with the distance of every pixel to every cell."""
    pieces, count = label(mask.numpy() == 1)
    away = [distance_transform_edt(pieces != i) for i in range(1, count + 1)] + [
        np.full(mask.shape, np.inf)
    ] * 2
    d1, d2 = np.sort(away, axis=0)[:2]
    more = border * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)) * (mask.numpy() != 1)
    return (torch.tensor(w)[mask.long() % IGNORED] + torch.from_numpy(more)).masked_fill(mask == IGNORED, 0)


def grown(seed: int, size: tuple[int, int], count: int) -> Tensor:
    """Discs of random places and sizes, some of which touch."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = np.zeros(size, np.uint8)
    for _ in range(count):
        down, across = random.uniform(0, size)
        mask[(y - down) ** 2 + (x - across) ** 2 < random.uniform(1, 6) ** 2] = 1
    return torch.from_numpy(mask)


@given(st.integers(0, 10**6), st.integers(0, 12), st.sampled_from([(1.0, 10.0), (5.0, 10.0), (3.0, 0.01)]))
@settings(max_examples=40, deadline=None)
def test_the_map_equals_the_equation(seed: int, count: int, how: tuple[float, float]) -> None:
    sigma, border = how
    mask = grown(seed, (45, 60), count)
    mask[:5, :7] = IGNORED
    found = border_weights(mask[None], cells=1, classes=(0.5, 2.0), border=border, sigma=sigma)
    assert found.dtype == torch.float32
    expected = definition(mask, (0.5, 2.0), border, sigma)
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_gap_of_one_pixel_by_hand() -> None:
    """Cells left and right of a column: there both are 1 away, w = w_c + w0 exp(-4 / 18)."""
    mask = torch.tensor([[[1, 1, 0, 1, 1]]], dtype=torch.uint8)
    found = border_weights(mask, cells=1, classes=(2.0, 1.0), border=10.0, sigma=3.0)
    assert found.flatten().tolist() == pytest.approx([1, 1, 2 + 10 * math.exp(-4 / 18), 1, 1])


def test_corners_do_not_connect_cells() -> None:
    mask = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.uint8)
    found = border_weights(mask, cells=1, classes=(0.0, 0.0), border=1.0, sigma=1.0)
    assert found[0, 0, 1].item() == pytest.approx(math.exp(-2))


def test_ignored_pixels_weigh_nothing_and_one_cell_has_no_border() -> None:
    mask = torch.tensor([[[1, 0, IGNORED]], [[0, 0, 0]]], dtype=torch.uint8)
    found = border_weights(mask, cells=1, classes=(1.0, 3.0), border=10.0, sigma=5.0)
    assert found.tolist() == [[[3, 1, 0]], [[1, 1, 1]]]
