"""Linear layers, dropout, and linear layers and correlations as each other."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal, by_autograd, gradcheck
from torch.nn import functional

from cnnkit.ops.fully_connected import as_kernels, linear, linear_backward, unrolled
from cnnkit.ops.masks import dropout

seeds = st.integers(0, 2**32 - 1)


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 6), st.integers(1, 6), seeds)
def test_linear_and_its_gradients_are_pytorchs(batch: list[int], into: int, out: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = draw(generator, *batch, into), draw(generator, out, into)
    bias, residual = draw(generator, out), draw(generator, *batch, out)
    assert_equal(linear(x, weight, bias), functional.linear(x, weight, bias))
    assert_equal(linear(x, weight), functional.linear(x, weight))
    expected = by_autograd(functional.linear, [x, weight, bias], residual)
    for ours, theirs in zip(linear_backward(residual, x, weight), expected, strict=True):
        assert_equal(ours, theirs)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(1, n) for n in (6, 3, 3, 2)], st.integers(0, 2)), min_size=1, max_size=2
    ),
    st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)),
    seeds,
)
def test_a_correlation_is_a_sparse_matrix_and_its_transpose_goes_back(
    spatial: list[tuple[int, ...]], channels: tuple[int, ...], seed: int
) -> None:
    size, kernel, stride, dilation, padding = zip(*spatial, strict=True)
    assume(all(n + 2 * p > d * (k - 1) for n, k, _, d, p in spatial))
    groups, in_group, out_group = channels
    generator = torch.Generator().manual_seed(seed)
    x = draw(generator, 2, groups * in_group, *size)
    kernels = draw(generator, groups * out_group, in_group, *kernel)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        function = functional.conv1d if len(size) == 1 else functional.conv2d
        return function(x, kernels, None, stride, padding, dilation, groups)

    expected = theirs(x)
    arguments: Any = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    matrix = unrolled(kernels, size, **arguments)
    assert_equal((matrix @ x.flatten(1).T).T.reshape(expected.shape), expected)
    residual = draw(generator, *expected.shape)
    below = (matrix.T @ residual.flatten(1).T).T.reshape(x.shape)
    assert_equal(below, by_autograd(theirs, [x], residual)[0])


def test_the_unrolled_matrix_has_one_number_a_tap_and_the_same_in_every_row() -> None:
    """Kernel (1, 2) over four cells: three rows, each one cell further on."""
    matrix = unrolled(torch.tensor([[[1.0, 2.0]]]), (4,))
    assert matrix.is_sparse
    assert matrix.to_dense().tolist() == [[1, 2, 0, 0], [0, 1, 2, 0], [0, 0, 1, 2]]


def test_a_linear_layer_over_maps_is_a_correlation_with_kernels_of_the_maps_size() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = draw(generator, 2, 3, 4, 5), draw(generator, 7, 60)
    expected = linear(x.flatten(1), weight)
    assert_equal(functional.conv2d(x, as_kernels(weight, (3, 4, 5))).flatten(1), expected)
    vectors = draw(generator, 2, 60)
    one = functional.conv2d(vectors[..., None, None], as_kernels(weight, (60, 1, 1)))
    assert_equal(one.flatten(1), linear(vectors, weight))


def test_dropout_scales_what_is_kept_and_its_gradient_is_itself() -> None:
    x = torch.arange(1.0, 7, dtype=torch.float64).reshape(2, 3)
    mask = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    assert dropout(x, mask, keep=0.5).tolist() == [[2, 0, 6], [0, 10, 12]]
    assert gradcheck(lambda x: dropout(x, mask, keep=0.7), lambda r, x: dropout(r, mask, keep=0.7), x)


def test_gradients_are_the_derivatives() -> None:
    generator = torch.Generator().manual_seed(1)
    assert gradcheck(
        linear,
        lambda r, x, weight, bias: tuple(linear_backward(r, x, weight)),
        *(draw(generator, 2, 3, 4), draw(generator, 5, 4), draw(generator, 5)),
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: linear(x, torch.ones(2, 3)), r"weight \(2, 3\) does not fit inputs of \(2, 4\)"),
        (lambda x: linear(x.int(), torch.ones(2, 4)), r"x must be of floating point, got torch.int32"),
        (lambda x: linear(x, torch.ones(2, 4), torch.ones(4)), r"bias must have shape \(2,\), got \(4,\)"),
        (
            lambda x: linear_backward(x, x, torch.ones(3, 4)),
            r"residual must have shape \(2, 3\), got \(2, 4\)",
        ),
        (lambda x: as_kernels(x, (3, 2, 2)), r"a layer of 4 inputs does not read maps of \(3, 2, 2\) = 12"),
        (lambda x: unrolled(x[:, :, None], (4,), groups=3), r"2 output channels do not divide into 3 groups"),
        (lambda x: unrolled(x[:, None], (3,)), r"kernel \(4,\) .* more than the 3"),
        (lambda x: dropout(x, x > 0, keep=0), r"keep .* in \(0, 1\], got 0"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 4))
