"""Sizes of outputs: counted window by window, and against what PyTorch and published networks give."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cnnkit.ops.shapes import Axis, axes, pairs_of, transposed_axes, transposed_size

slides = st.builds(
    Axis,
    size=st.integers(1, 20),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 5),
    before=st.integers(0, 5),
    after=st.integers(0, 5),
    dilation=st.integers(1, 4),
)


@given(slides)
def test_floor_counts_the_windows_that_lie_inside(axis: Axis) -> None:
    assume(axis.extent <= axis.padded)
    ends = range(axis.extent, axis.padded + 1, axis.stride)
    assert axis.out == len(ends)
    assert axis.unread == axis.padded - ends[-1]


@given(slides)
def test_ceil_counts_also_a_window_that_hangs_over_but_begins_before_the_zeros_after(axis: Axis) -> None:
    assume(axis.extent <= axis.padded and axis.before < axis.extent and axis.after < axis.extent)
    starts = [0]
    while starts[-1] + axis.extent < axis.padded:  # something is left to cover
        starts.append(starts[-1] + axis.stride)
    assert axis.out_ceil == sum(start < axis.before + axis.size for start in starts)


@given(slides, st.integers(0, 4))
def test_the_transposed_sizes_are_those_that_the_correlation_maps_back(axis: Axis, more: int) -> None:
    assume(more < axis.stride)
    mapped = axis.stride * (axis.size - 1) + axis.extent - axis.before - axis.after + more
    assume(mapped >= 1)
    assert transposed_size(axis, more) == mapped
    back = Axis(mapped, axis.kernel, axis.stride, axis.before, axis.after, axis.dilation)
    assert (back.out, back.unread) == (axis.size, more)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "ceil", "out"),
    [
        (227, 11, 4, 0, False, 55),  # AlexNet conv1
        (55, 3, 2, 0, True, 27),  # AlexNet pool1
        (224, 7, 2, 3, False, 112),  # ResNet's stem
        (112, 3, 2, 0, True, 56),  # GoogLeNet pool1 in Caffe; floor gives 55
        (112, 3, 2, 0, False, 55),
        (299, 3, 2, 0, False, 149),  # Inception v3's first
        (2, 1, 2, 0, True, 1),  # ONNX: the last window would begin after the image
    ],
)
def test_published_sizes(size: int, kernel: int, stride: int, padding: int, ceil: bool, out: int) -> None:
    (axis,) = axes([size], [kernel], stride=stride, padding=padding)
    assert (axis.out_ceil if ceil else axis.out) == out


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation", "out"),
    [
        (16, 64, 32, 0, 1, 544),  # FCN-32s
        (34, 4, 2, 0, 1, 70),  # FCN-16s
        (70, 16, 8, 0, 1, 568),  # FCN-8s
        (28, 2, 2, 0, 1, 56),  # U-Net
        (128, 16, 8, 4, 1, 1024),  # Yu and Koltun's upsampling
        (1, 7, 1, 0, 1, 7),  # DeconvNet's first
        (90, 7, 1, 0, 4, 114),  # a dilated context layer, walked back
    ],
)
def test_published_transposed_sizes(
    size: int, kernel: int, stride: int, padding: int, dilation: int, out: int
) -> None:
    (axis,) = transposed_axes([size], [kernel], stride=stride, padding=padding, dilation=dilation)
    assert (axis.size, axis.out) == (out, size)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_same_gives_a_window_for_every_stride(size: int, kernel: int, stride: int, dilation: int) -> None:
    (axis,) = axes([size], [kernel], stride=stride, padding="same", dilation=dilation)
    assert axis.out == -(-size // stride)
    assert axis.after - axis.before in (0, 1)
    (wider,) = transposed_axes([size], [kernel], stride=stride, padding="same", dilation=dilation)
    assert (wider.size, wider.out) == (size * stride, size)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3))
def test_full_gives_every_window_that_touches_the_image(size: int, kernel: int, dilation: int) -> None:
    (axis,) = axes([size], [kernel], padding="full", dilation=dilation)
    assert axis.out == size + axis.extent - 1


def test_padding_may_be_one_number_one_an_axis_or_a_pair_an_axis() -> None:
    assert pairs_of(1, 2) == ((1, 1), (1, 1))
    assert pairs_of((1, 2), 2) == ((1, 1), (2, 2))
    assert pairs_of([(0, 1), (2, 3)], 2) == ((0, 1), (2, 3))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel \(3,\) must have one size for each of the 2 spatial axes"):
        axes([5, 5], [3])
    with pytest.raises(ValueError, match=r"image size must be at least 1 on every axis, got \(5, 0\)"):
        axes([5, 0], [3, 3])
    with pytest.raises(ValueError, match=r"output_padding must be in 0\.\.stride - 1 = 1, got 2"):
        transposed_axes([5], [3], stride=2, output_padding=2)
    with pytest.raises(ValueError, match=r"padding \(2, 2\) leaves nothing of the transposed output: -1"):
        transposed_axes([1], [3], padding=2)
    with pytest.raises(ValueError, match="padding 'same' leaves nothing to choose by output_padding, got 1"):
        transposed_axes([5], [3], stride=2, padding="same", output_padding=1)
