"""The operators that cnnkit takes from torchvision, against their definitions in loops and ONNX's cases.

RoIAlign (He et al. 2017, arXiv:1703.06870), non-maximum suppression, and deformable convolution (Dai et al.
2017, arXiv:1703.06211; with masks Zhu et al. 2019, arXiv:1811.11168).
"""

from itertools import product
from math import ceil, floor
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal
from tests.ops.onnx_cases import Case, cases
from torch import Tensor

seeds = st.integers(0, 2**32 - 1)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    """The weighted mean of the four cells around (y, x); those off the plane are 0. (C, H, W) -> (C,)"""
    value = plane.new_zeros(len(plane))
    for row, column in product((floor(y), floor(y) + 1), (floor(x), floor(x) + 1)):
        if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[:, row, column]
    return value


def roi_samples(
    maps: Tensor, roi: Tensor, counts: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> Tensor:
    """The sample points of every bin, by the definition. Shape: (C, H, W), (4,) -> (C, *counts, points)

    Coordinates are scaled and not rounded; `aligned` moves them by half a cell, without it a side is at least
    one cell long. A point more than a cell outside gives 0, one that is nearer is moved onto the map.
    """
    x1, y1, x2, y2 = (float(v) * scale - (0.5 if aligned else 0) for v in roi)
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = max(height, 1.0), max(width, 1.0)
    high, wide = (size / count for size, count in zip((height, width), counts, strict=True))
    rows, columns = (ratio, ratio) if ratio > 0 else (ceil(high), ceil(wide))
    bins = []
    for i, j in product(range(counts[0]), range(counts[1])):
        points = []
        for a, b in product(range(rows), range(columns)):
            y, x = y1 + (i + (a + 0.5) / rows) * high, x1 + (j + (b + 0.5) / columns) * wide
            if -1 <= y <= maps.shape[1] and -1 <= x <= maps.shape[2]:
                y, x = min(max(y, 0), maps.shape[1] - 1), min(max(x, 0), maps.shape[2] - 1)
                points.append(bilinear(maps, y, x))
            else:
                points.append(maps.new_zeros(len(maps)))
        bins.append(torch.stack(points, dim=1) if points else maps.new_zeros(len(maps), 1))
    return torch.stack(bins, dim=1).unflatten(1, counts)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    seeds,
)
def test_roi_align_is_its_definition(
    size: Any, counts: Any, scale: float, ratio: int, aligned: bool, seed: int
) -> None:
    maps = numbers(seed, 2, 3, *size)
    first = torch.rand(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 16 - 4
    corners = torch.cat([first, first + 0.3 + 6 * numbers(seed, 3, 2).abs()], dim=1)
    rois = torch.cat([torch.tensor([[0.0], [1], [0]]).double(), corners], dim=1)
    ours = [roi_samples(maps[int(roi[0])], roi[1:], counts, scale, ratio, aligned).mean(-1) for roi in rois]
    theirs = torchvision.ops.roi_align(maps, rois, counts, scale, ratio, aligned)
    torch.testing.assert_close(theirs, torch.stack(ours), rtol=1e-10, atol=1e-12)


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0.05, 0.95), seeds)
def test_nms_keeps_the_best_of_what_overlaps(count: int, threshold: float, seed: int) -> None:
    """Boxes by falling score; one stays unless it overlaps one that stayed by more than the threshold."""
    corners = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    boxes = torch.cat([corners[:, :2], corners[:, :2] + 0.1 + corners[:, 2:]], dim=1)
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double()
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    assert torchvision.ops.nms(boxes, scores, threshold).tolist() == kept


def deformable(
    x: Tensor, offsets: Tensor, kernels: Tensor, bias: Tensor, mask: Tensor, geometry: dict[str, Any]
) -> Tensor:
    """y[o, p] = b_o + sum_c sum_t w[o, c, t] m_t(p) x_c(p s - pad + d t + offset_t(p)), undivided channels.

    Offsets are pairs (dy, dx), tap after tap, for each group of offsets in turn.
    """
    stride, padding, dilation = (geometry[k] for k in ("stride", "padding", "dilation"))
    high, wide = kernels.shape[2:]
    groups = offsets.shape[1] // (2 * high * wide)
    per_group = x.shape[1] // groups
    y = bias.reshape(1, -1, 1, 1) + x.new_zeros(len(x), len(kernels), *offsets.shape[2:])
    places = product(range(len(x)), range(offsets.shape[2]), range(offsets.shape[3]))
    for n, i, j in places:
        for g, (t, (u, v)) in product(range(groups), enumerate(product(range(high), range(wide)))):
            tap = g * high * wide + t
            row = i * stride[0] - padding[0] + u * dilation[0] + float(offsets[n, 2 * tap, i, j])
            column = j * stride[1] - padding[1] + v * dilation[1] + float(offsets[n, 2 * tap + 1, i, j])
            channels = slice(g * per_group, (g + 1) * per_group)
            value = bilinear(x[n, channels], row, column) * mask[n, tap, i, j]
            y[n, :, i, j] += kernels[:, channels, u, v] @ value
    return y


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(0, 1), st.integers(0, 2)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
    seeds,
)
def test_deformable_convolution_is_its_definition(
    kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, seed: int
) -> None:
    x, kernels = numbers(seed, 2, 4, 4, 5), numbers(seed + 1, 3, 4, *kernel)
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip((4, 5), padding, dilation, kernel, stride, strict=True)
    ]
    taps = groups * kernel[0] * kernel[1]
    offsets, mask = 2 * numbers(seed + 2, 2, 2 * taps, *out), numbers(seed + 3, 2, taps, *out).abs()
    bias = numbers(seed + 4, 3)
    geometry = dict(stride=stride, padding=padding, dilation=dilation)
    theirs = torchvision.ops.deform_conv2d(x, offsets, kernels, bias, **geometry, mask=mask)
    assert_equal(theirs, deformable(x, offsets, kernels, bias, mask, geometry))


def test_without_offsets_a_deformable_convolution_is_a_convolution() -> None:
    x, kernels = numbers(0, 2, 3, 6, 5), numbers(1, 4, 3, 3, 3)
    expected = torch.nn.functional.conv2d(x, kernels, padding=1)
    assert_equal(torchvision.ops.deform_conv2d(x, x.new_zeros(2, 18, 6, 5), kernels, padding=1), expected)


def test_a_point_that_leaves_the_map_fades_out() -> None:
    """0.3 of a cell above a map of ones: 0.7 of the first row and 0.3 of nothing."""
    offsets = torch.tensor([-0.3, 0]).reshape(1, 2, 1, 1)
    value = torchvision.ops.deform_conv2d(torch.ones(1, 1, 1, 1), offsets, torch.ones(1, 1, 1, 1))
    assert float(value) == pytest.approx(0.7)


def test_torchvisions_gradients_are_the_derivatives() -> None:
    maps = numbers(0, 1, 2, 5, 6).requires_grad_()
    rois = torch.tensor([[0, 0.3, 0.9, 4.1, 3.7], [0, -2.2, 1.1, 7.9, 4.4]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: torchvision.ops.roi_align(x, rois, 2, 1.0, 2, True), [maps])
    offsets = (0.25 + 0.1 * numbers(1, 1, 8, 4, 5).tanh()).requires_grad_()  # off the cells: corners there
    kernels, mask = numbers(2, 3, 2, 2, 2).requires_grad_(), numbers(3, 1, 4, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, o, w, m: torchvision.ops.deform_conv2d(x, o, w, mask=m), [maps, offsets, kernels, mask]
    )


# --- the ONNX backend's node cases -------------------------------------------------------------------------

#: What torchvision's operators do not do.
NOT_EXPRESSED = {
    "test_roialign_mode_max": "torchvision averages the sample points and has no mode that takes the largest",
}


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("RoiAlign"), ids=str)
def test_onnx_roi_align(case: Case) -> None:
    a = case.attributes
    maps, boxes, images = case.inputs
    counts, ratio = (a["output_height"], a["output_width"]), a["sampling_ratio"]
    aligned = a["coordinate_transformation_mode"] == "half_pixel"
    if case.name in NOT_EXPRESSED:
        with pytest.raises(AssertionError):
            check_average(case, aligned)
        return
    ours = [
        roi_samples(maps[int(image)].double(), box, counts, a["spatial_scale"], ratio, aligned).mean(-1)
        for box, image in zip(boxes, images, strict=True)
    ]
    case.check(torch.stack(ours).float())
    check_average(case, aligned)


def check_average(case: Case, aligned: bool) -> None:
    maps, boxes, images = case.inputs
    a = case.attributes
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    counts = (a["output_height"], a["output_width"])
    case.check(
        torchvision.ops.roi_align(maps, rois, counts, a["spatial_scale"], a["sampling_ratio"], aligned)
    )


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("NonMaxSuppression"), ids=str)
def test_onnx_non_maximum_suppression(case: Case) -> None:
    """Class by class, of those above the score threshold and at most so many; rows are image, class, box."""
    boxes, scores, most, overlap, least = (*case.inputs, *[None] * (5 - len(case.inputs)))
    if case.attributes.get("center_point_box"):
        boxes = torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")
    boxes = torch.cat([boxes.unflatten(2, (2, 2)).amin(2), boxes.unflatten(2, (2, 2)).amax(2)], dim=2)
    kept = []
    for image, label in product(range(scores.shape[0]), range(scores.shape[1])):
        score = scores[image, label]
        able = torch.arange(len(score)) if least is None else (score > float(least)).nonzero().flatten()
        best = torchvision.ops.nms(boxes[image][able], score[able], float(overlap))[: int(most)]
        kept += [[image, label, int(able[i])] for i in best]
    case.check(torch.tensor(kept))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("DeformConv"), ids=str)
def test_onnx_deformable_convolution(case: Case) -> None:
    x, kernels, offsets, bias, mask = (*case.inputs, *[None] * (5 - len(case.inputs)))
    top, left, bottom, right = case.attributes["pads"]
    assert (top, left) == (bottom, right)
    assert case.attributes.get("group", 1) == 1
    case.check(torchvision.ops.deform_conv2d(x, offsets, kernels, bias, padding=(top, left), mask=mask))
