"""Pictures of kernels: what colour a tap gets, where a cell stands, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.draw.kernels import FRAME, kernel_grid, side_by_side


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture)


def test_zero_is_mid_grey_and_the_largest_magnitude_is_black_or_white() -> None:
    """Taps -2, 0, 1, 2 of one kernel, 8 pixels each, in a frame of one."""
    picture = pixels(kernel_grid(torch.tensor([[[[-2.0, 0, 1, 2]]]]), cell=32))
    assert picture.shape == (8 + 2, 32 + 2, 3)
    for tap, value in enumerate((0, 128, 191, 255)):
        cell = picture[1:9, 1 + 8 * tap : 9 + 8 * tap]
        assert (cell == value).all()


def test_three_channels_are_red_green_and_blue() -> None:
    kernel = torch.tensor([1.0, 0, -1]).reshape(1, 3, 1, 1)
    assert pixels(kernel_grid(kernel, cell=4))[2, 2].tolist() == [255, 128, 0]


def test_other_numbers_of_channels_have_a_row_a_kernel_and_a_grey_cell_a_channel() -> None:
    kernels = torch.zeros(3, 2, 1, 1)
    kernels[2, 1] = -1
    picture = pixels(kernel_grid(kernels, cell=4, gap=2))
    assert picture.shape == (3 * 6 + 2 * 2, 2 * 6 + 2, 3)
    assert picture[2 * 8 + 3, 8 + 3].tolist() == [0, 0, 0]
    assert picture[2 * 8 + 3, 3].tolist() == [128, 128, 128]


@pytest.mark.parametrize(("scale", "weak"), [("kernel", 255), ("bank", 159)])
def test_the_scale_is_each_kernels_or_the_banks(scale: Any, weak: int) -> None:
    bank = torch.tensor([4.0, 1.0]).reshape(2, 1, 1, 1)
    picture = pixels(kernel_grid(bank, cell=4, gap=1, columns=2, scale=scale))
    assert picture[2, 2, 0] == 255
    assert picture[2, 2 + 7, 0] == weak


def test_cells_are_framed_so_that_white_taps_have_an_end() -> None:
    picture = kernel_grid(torch.ones(1, 1, 2, 2), cell=8)
    frame = tuple(int(FRAME[i : i + 2], 16) for i in (1, 3, 5))
    assert picture.getpixel((0, 0)) == picture.getpixel((9, 9)) == frame
    assert picture.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (6, 4), (64, 12), (96, 14)])
def test_a_grid_is_about_half_as_high_as_wide(count: int, columns: int) -> None:
    picture = kernel_grid(torch.zeros(count, 1, 5, 5), cell=20, gap=3)
    assert picture.width == columns * 25 - 3
    assert picture.height == -(-count // columns) * 25 - 3


def test_a_kernel_of_zeros_is_grey_and_a_bank_with_a_gradient_can_be_drawn() -> None:
    bank = torch.zeros(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert (pixels(kernel_grid(bank))[1:49, 1:49] == 128).all()


def test_two_banks_stand_side_by_side_under_their_captions() -> None:
    left, right = kernel_grid(torch.ones(1, 1, 3, 3)), kernel_grid(torch.ones(4, 1, 3, 3))
    sheet = side_by_side({"hand-set": left, "learned": right}, gap=20, size=10)
    assert sheet.height == 18 + right.height + 20
    assert sheet.crop((10, 28, 10 + left.width, 28 + left.height)).tobytes() == left.tobytes()
    start = 10 + max(left.width, 40) + 20
    found = [
        x
        for x in range(left.width, sheet.width - right.width + 1)
        if sheet.crop((x, 28, x + right.width, 28 + right.height)).tobytes() == right.tobytes()
    ]
    assert len(found) == 1
    assert found[0] >= start - 20
    captions = pixels(sheet.crop((0, 0, sheet.width, 28)))
    assert (captions < 128).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_grid(torch.zeros(3, 3)), r"kernels must be \(out, in, H, W\).*got shape \(3, 3\)"),
        (lambda: kernel_grid(torch.zeros(0, 1, 3, 3)), r"not empty"),
        (lambda: kernel_grid(torch.full((1, 1, 2, 2), torch.nan)), r"finite numbers"),
        (lambda: side_by_side({}), r"no picture"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
