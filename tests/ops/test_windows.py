"""Moving data: padding that may cut, windows as views, zeros between, turned kernels."""

import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor

from cnnkit.ops.shapes import Axis
from cnnkit.ops.windows import examples_innermost, interleave, pad, rotate, windows


def ramp(*shape: int) -> Tensor:
    """1, 2, 3, ... so that every number says where it came from and 0 is none of them."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).view(shape)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(-6, 6), st.integers(-6, 6)), min_size=1, max_size=2))
@example([(1, -2, 2)])  # the image is cut off whole and zeros are all that is left
def test_padding_reads_the_image_where_it_is_and_the_fill_elsewhere(axes: list[tuple[int, int, int]]) -> None:
    assume(all(n + p + q >= 1 for n, p, q in axes))
    image = ramp(1, 2, *(n for n, _, _ in axes))
    padded = pad(image, [(p, q) for _, p, q in axes], fill=-7.0)
    assert padded.shape == (1, 2, *(n + p + q for n, p, q in axes))
    for place in torch.ones(padded.shape[2:]).nonzero().tolist():
        source = [i - p for i, (_, p, _) in zip(place, axes, strict=True)]
        inside = all(0 <= i < n for i, (n, _, _) in zip(source, axes, strict=True))
        for channel in range(2):
            expected = image[(0, channel, *source)] if inside else -7.0
            assert padded[(0, channel, *place)] == expected


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 6))
def test_windows_are_what_each_position_reads(kernel: int, stride: int, dilation: int, more: int) -> None:
    axis = Axis(dilation * (kernel - 1) + 1 + more, kernel, stride, dilation=dilation)
    image = ramp(2, 3, axis.size)
    view = windows(image, [axis])
    assert view.shape == (2, 3, axis.out, kernel)
    assert view.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
    for i in range(axis.out):
        for u in range(kernel):
            assert torch.equal(view[:, :, i, u], image[:, :, stride * i + dilation * u])


def test_zeros_between_and_turned_kernels() -> None:
    assert interleave(ramp(1, 1, 3), [3])[0, 0].tolist() == [1, 0, 0, 2, 0, 0, 3]
    assert interleave(ramp(1, 1, 2, 2), [2, 1])[0, 0].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert rotate(ramp(1, 2, 2, 2))[0].tolist() == [[[4, 3], [2, 1]], [[8, 7], [6, 5]]]


def test_examples_innermost_are_the_same_images() -> None:
    images = ramp(3, 2, 4, 5)
    other = examples_innermost(images)
    assert torch.equal(other, images)
    assert other.stride() == (1, 60, 15, 3)
