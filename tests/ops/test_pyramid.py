"""Adaptive pooling and pyramids against PyTorch and the papers' bins; RoI pooling against torchvision."""

from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal, by_autograd, gradcheck
from torch import Tensor
from torch.nn import functional

from cnnkit.ops.pooling import global_average_pool, max_pool_backward
from cnnkit.ops.pyramid import (
    adaptive_average_pool,
    adaptive_average_pool_backward,
    adaptive_max_pool,
    bins,
    pyramid_pool,
)
from cnnkit.ops.roi import roi_max_pool, roi_max_pool_backward

seeds = st.integers(0, 2**32 - 1)
#: Cells and bins along one to three axes; also more bins than cells.
divided = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=3)


def numbers(shape: Any, seed: int, *, ties: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-1, 2, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(divided, seeds, st.booleans())
def test_adaptive_poolings_and_their_residuals_are_pytorchs(spatial: Any, seed: int, ties: bool) -> None:
    size, counts = zip(*spatial, strict=True)
    x = numbers((2, 2, *size), seed, ties=ties)
    residual = numbers((2, 2, *counts), seed + 1)

    largest = getattr(functional, f"adaptive_max_pool{len(size)}d")
    ours = adaptive_max_pool(x, counts)
    values, switches = largest(x, counts, return_indices=True)
    assert torch.equal(ours.values, values)
    assert torch.equal(ours.switches, switches)
    (expected,) = by_autograd(lambda x: largest(x, counts), [x], residual)
    assert_equal(max_pool_backward(residual, ours.switches, size), expected)

    mean = getattr(functional, f"adaptive_avg_pool{len(size)}d")
    assert_equal(adaptive_average_pool(x, counts), mean(x, counts))
    (expected,) = by_autograd(lambda x: mean(x, counts), [x], residual)
    assert_equal(adaptive_average_pool_backward(residual, size), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), seeds)
def test_a_pyramid_has_fifty_bins_whatever_the_map(height: int, width: int, seed: int) -> None:
    x = numbers((2, 3, height, width), seed)
    values, switches = pyramid_pool(x)
    assert values.shape == switches.shape == (2, 3, 50)
    levels = [functional.adaptive_max_pool2d(x, n).flatten(2) for n in (6, 3, 2, 1)]
    assert torch.equal(values, torch.cat(levels, dim=2))
    residual = numbers(values.shape, seed + 1)
    (expected,) = by_autograd(
        lambda x: torch.cat([functional.adaptive_max_pool2d(x, n).flatten(2) for n in (6, 3, 2, 1)], dim=2),
        [x],
        residual,
    )
    assert_equal(max_pool_backward(residual, switches, (height, width)), expected)


def test_the_detectors_pyramid_gives_its_linear_layer_12800_inputs() -> None:
    """256 maps of conv5, 36 + 9 + 4 + 1 bins."""
    assert pyramid_pool(torch.zeros(1, 256, 13, 13)).values.flatten(1).shape == (1, 12_800)


def test_bins_overlap_where_the_count_does_not_divide() -> None:
    """13 cells in 6 bins, by hand: floor(13 i / 6) to ceil(13 (i + 1) / 6)."""
    assert bins(13, 6) == [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)]
    assert bins(12, 3) == [(0, 4), (4, 8), (8, 12)]


def test_one_bin_is_global_pooling() -> None:
    x = numbers((2, 3, 5, 4), 0)
    assert_equal(adaptive_average_pool(x, 1), global_average_pool(x), 1e-15)


def regions(size: int, count: int, seed: int) -> Tensor:
    """Boxes in and over the edges of an image of `size`, some malformed, many of them on halves of a cell."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(-size // 2, 3 * size // 2, (count, 4), generator=generator) / 2
    images = torch.randint(2, (count, 1), generator=generator)
    return torch.cat([images, corners], dim=1).double()


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(1, 1), (2, 3), (4, 4), (6, 6), (7, 7)]),
    st.sampled_from([1.0, 0.5, 0.25, 0.0625]),
    seeds,
    st.booleans(),
)
def test_roi_max_pool_and_its_residual_are_torchvisions(
    height: int, width: int, counts: tuple[int, int], scale: float, seed: int, ties: bool
) -> None:
    x = numbers((2, 3, height, width), seed, ties=ties)
    rois = regions(int(max(height, width) / scale), 4, seed)

    def theirs(x: Tensor) -> Tensor:
        return torchvision.ops.roi_pool(x, rois, counts, scale)

    values, switches = roi_max_pool(x, rois, counts, scale=scale)
    assert torch.equal(values, theirs(x))
    residual = numbers(values.shape, seed + 1)
    (expected,) = by_autograd(theirs, [x], residual)
    assert_equal(roi_max_pool_backward(residual, switches, rois, x.shape), expected)


def test_a_region_by_hand() -> None:
    """Box 2..5 in x and 0..5 in y at scale 1/2: halves away from zero give columns 1..3 and rows 0..3.

    On the map of 0..15 row by row, two bins each way: rows 0-1 and 2-3; columns floor(0) .. ceil(1.5) = 1-2
    and floor(1.5) .. 3 = 2-3. The largest are 1*4+2, 1*4+3, 3*4+2, 3*4+3.
    """
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    rois = torch.tensor([[0.0, 2, 0, 5, 5]])
    values, switches = roi_max_pool(x, rois, 2, scale=0.5)
    assert values[0, 0].tolist() == [[6, 7], [14, 15]]
    assert switches[0, 0].tolist() == [[6, 7], [14, 15]]


def test_a_bin_outside_the_map_is_zero_and_gets_no_residual() -> None:
    x = torch.full((1, 1, 4, 4), -3.0)
    rois = torch.tensor([[0.0, 3, 0, 4, 3]])
    values, switches = roi_max_pool(x, rois, 2, scale=1.0)
    assert values[0, 0].tolist() == [[-3, 0], [-3, 0]]
    assert switches[0, 0].tolist() == [[3, -1], [11, -1]]
    below = roi_max_pool_backward(torch.ones_like(values), switches, rois, x.shape)
    assert below.sum() == 2


def test_gradients_are_the_derivatives() -> None:
    x = numbers((2, 2, 5, 7), 3)
    assert gradcheck(
        lambda x: adaptive_average_pool(x, (2, 3)), lambda r, x: adaptive_average_pool_backward(r, (5, 7)), x
    )
    assert gradcheck(
        lambda x: pyramid_pool(x, (3, 2)).values,
        lambda r, x: max_pool_backward(r, pyramid_pool(x, (3, 2)).switches, (5, 7)),
        x,
    )
    rois = torch.tensor([[0.0, 0, 0, 9, 9], [1, 4, 2, 30, 8], [1, 0, 0, 3, 3]], dtype=torch.float64)
    assert gradcheck(
        lambda x: roi_max_pool(x, rois, 3, scale=0.5).values,
        lambda r, x: roi_max_pool_backward(r, roi_max_pool(x, rois, 3, scale=0.5).switches, rois, x.shape),
        x,
    )


X, ROIS = torch.zeros(2, 1, 4, 4), torch.zeros(1, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adaptive_max_pool(X.long(), 2), r"maps must be of floating point"),
        (lambda: adaptive_average_pool(X, (2, 0)), r"at least 1 bin along every axis, got \(2, 0\)"),
        (lambda: adaptive_max_pool(X[:, :, :0], 2), r"not empty, got shape \(2, 1, 0, 4\)"),
        (lambda: pyramid_pool(X, (2, -1)), r"at least 1 bin"),
        (lambda: roi_max_pool(X, ROIS[:, :4], 2, scale=1.0), r"rois must be \(K, 5\).*got shape \(1, 4\)"),
        (lambda: roi_max_pool(X, ROIS + 2, 2, scale=1.0), r"must number the 2 images from 0, got \[2.0\]"),
        (lambda: roi_max_pool(X, ROIS * torch.nan, 2, scale=1.0), r"must number|finite"),
        (lambda: roi_max_pool(X, ROIS, 2, scale=0.0), r"bins and scale must be positive, got 2 x 2 and 0.0"),
        (
            lambda: roi_max_pool(X[0], ROIS, 2, scale=1.0),
            r"maps must be \(N, C, H, W\), got shape \(1, 4, 4\)",
        ),
        (lambda: roi_max_pool(X, ROIS.long(), 2, scale=1.0), r"rois must be of floating point"),
    ],
)
def test_what_cannot_be_pooled_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
