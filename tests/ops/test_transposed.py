"""Transposed, dilated, depthwise separable and asymmetric correlations against PyTorch and each other."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.ops.agreement import gradcheck
from tests.ops.test_convolution import ANY, Case, assert_close, by_pytorch, cases
from torch.nn import functional

from cnnkit import ops
from cnnkit.ops.windows import interleave


@settings(max_examples=250, deadline=None)
@given(cases(), st.data())
def test_transposed_values_and_gradients_are_pytorchs(case: Case, data: st.DataObject) -> None:
    extra = tuple(data.draw(st.integers(0, s - 1), label="output_padding") for s in case.stride)
    images, kernels, _ = case.tensors()
    kernels = kernels.view(case.groups, case.channels[1], case.channels[0], *case.kernel)
    kernels = kernels.transpose(1, 2).reshape(-1, case.channels[1], *case.kernel)
    bias = torch.linspace(-1, 1, case.groups * case.channels[1], dtype=torch.float64)
    options: Any = dict(case.options, output_padding=extra)
    sizes = zip(case.size, case.kernel, case.stride, case.padding, case.dilation, extra, strict=True)
    assume(all(s * (n - 1) + d * (k - 1) + 1 - sum(p) + o >= 1 for n, k, s, p, d, o in sizes))
    function = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d}[len(case.size)]
    uncut: Any = dict(stride=case.stride, dilation=case.dilation, groups=case.groups)
    more = [n for o in reversed(extra) for n in (0, o)]
    cut = [-n for pair in reversed(case.padding) for n in pair]

    def by_cutting(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        maps = functional.pad(functional.pad(function(x, w, **uncut), more), cut)
        return maps + b.view(-1, *[1] * len(case.size))

    value, residual, gradients = by_pytorch(by_cutting, [images, kernels, bias])
    for name in ANY:
        found = ops.correlate_transposed(images, kernels, bias, **options, algorithm=name)
        assert_close(found, value, name)
        derived = ops.correlate_transposed_backward(residual, images, kernels, **options, algorithm=name)
        for ours, theirs in zip(derived, gradients, strict=True):
            assert_close(ours, theirs, name)


def test_a_transposed_correlation_is_the_transpose() -> None:
    """<correlate(x), y> = <x, transposed(y)>, which no inverse would satisfy."""
    x, y = torch.randn(1, 3, 9, 8, dtype=torch.float64), torch.randn(1, 4, 4, 3, dtype=torch.float64)
    kernels = torch.randn(4, 3, 3, 4, dtype=torch.float64)
    down = (ops.correlate(x, kernels, stride=2) * y).sum()
    up = (ops.correlate_transposed(y, kernels, stride=2) * x[:, :, :, :8])[..., :9, :8].sum()
    torch.testing.assert_close(down, up)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_dilated_kernel_is_one_with_zeros_between_its_taps(case: Case) -> None:
    images, kernels, bias = case.tensors()
    options = case.options
    dilated = ops.correlate(images, kernels, bias, **options)
    spread = interleave(kernels, case.dilation)
    assert_close(ops.correlate(images, spread, bias, **{**options, "dilation": 1}), dilated, case)


@settings(max_examples=100, deadline=None)
@given(cases(), st.integers(1, 3))
def test_depthwise_separable_values_and_gradients_are_pytorchs(case: Case, outputs: int) -> None:
    images, _, _ = case.tensors()
    channels = images.shape[1]
    many = channels * case.channels[1]
    depthwise = torch.randn(many, 1, *case.kernel, dtype=torch.float64)
    pointwise = torch.randn(outputs, many, *[1] * len(case.kernel), dtype=torch.float64)
    bias = torch.randn(outputs, dtype=torch.float64)
    options: Any = dict(stride=case.stride, padding=case.padding, dilation=case.dilation)
    convolution = {1: functional.conv1d, 2: functional.conv2d}[len(case.kernel)]
    value, residual, gradients = by_pytorch(
        lambda x, d, p, b: convolution(replace(case, groups=channels).theirs(x, d), p, b),
        [images, depthwise, pointwise, bias],
    )
    for name in ANY:
        found = ops.depthwise_separable(images, depthwise, pointwise, bias, **options, algorithm=name)
        assert_close(found, value, name)
        derived = ops.depthwise_separable_backward(
            residual, images, depthwise, pointwise, **options, algorithm=name
        )
        for ours, theirs in zip(derived, gradients, strict=True):
            assert_close(ours, theirs, name)


@settings(max_examples=100, deadline=None)
@given(cases(ranks=(2, 2)), st.integers(1, 3))
def test_asymmetric_kernels_are_one_of_rank_one(case: Case, outputs: int) -> None:
    """w[o, c] = sum_m v[m, c] h[o, m], an outer product each, gives what the pair gives; gradients too."""
    images, _, _ = case.tensors()
    middle = case.channels[1]
    vertical = torch.randn(middle, images.shape[1], case.kernel[0], 1, dtype=torch.float64)
    horizontal = torch.randn(outputs, middle, 1, case.kernel[1], dtype=torch.float64)
    bias = torch.randn(outputs, dtype=torch.float64)
    options: Any = dict(stride=case.stride, padding=case.padding, dilation=case.dilation)

    def whole(x: torch.Tensor, v: torch.Tensor, h: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        kernels = torch.einsum("mcui,omjv->ocuv", v, h)
        return replace(case, groups=1).theirs(x, kernels, b)

    value, residual, gradients = by_pytorch(whole, [images, vertical, horizontal, bias])
    for name in ANY:
        found = ops.asymmetric(images, vertical, horizontal, bias, **options, algorithm=name)
        assert_close(found, value, name)
        derived = ops.asymmetric_backward(residual, images, vertical, horizontal, **options, algorithm=name)
        for ours, theirs in zip(derived, gradients, strict=True):
            assert_close(ours, theirs, name)


def test_an_asymmetric_pair_may_keep_the_size() -> None:
    images = torch.randn(1, 2, 17, 17)
    maps = ops.asymmetric(images, torch.randn(3, 2, 7, 1), torch.randn(4, 3, 1, 7), padding="same")
    assert maps.shape == (1, 4, 17, 17)


@pytest.mark.parametrize("name", ANY)
def test_the_derived_gradients_are_the_derivatives(name: Any) -> None:
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.float64)

    up: Any = dict(stride=(2, 3), padding=1, output_padding=(1, 0), groups=2, algorithm=name)
    assert gradcheck(
        lambda x, w, b: ops.correlate_transposed(x, w, b, **up),
        lambda r, x, w, _: tuple(ops.correlate_transposed_backward(r, x, w, **up)),
        *(draw(2, 4, 3, 2), draw(4, 1, 3, 3), draw(2)),
    )
    apart: Any = dict(stride=2, padding=1, algorithm=name)
    assert gradcheck(
        lambda x, d, p, b: ops.depthwise_separable(x, d, p, b, **apart),
        lambda r, x, d, p, _: tuple(ops.depthwise_separable_backward(r, x, d, p, **apart)),
        *(draw(1, 2, 5, 4), draw(4, 1, 3, 3), draw(3, 4, 1, 1), draw(3)),
    )
    assert gradcheck(
        lambda x, v, h, b: ops.asymmetric(x, v, h, b, **apart),
        lambda r, x, v, h, _: tuple(ops.asymmetric_backward(r, x, v, h, **apart)),
        *(draw(1, 2, 5, 4), draw(2, 2, 3, 1), draw(3, 2, 1, 3), draw(3)),
    )


def test_what_does_not_fit_is_refused() -> None:
    images = torch.zeros(1, 4, 5, 5)
    with pytest.raises(
        ValueError, match=r"must begin with the channels of images .* \(3, 2, 3, 3\) and \(1, 4"
    ):
        ops.correlate_transposed(images, torch.zeros(3, 2, 3, 3))
    with pytest.raises(ValueError, match="groups must divide the channels, got 3 groups"):
        ops.correlate_transposed(images, torch.zeros(4, 2, 3, 3), groups=3)
    with pytest.raises(ValueError, match=r"bias must have shape \(2,\), got \(4,\)"):
        ops.correlate_transposed(images, torch.zeros(4, 2, 3, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"residual must have shape \(1, 2, 7, 7\), got \(1, 2, 5, 5\)"):
        ops.correlate_transposed_backward(torch.zeros(1, 2, 5, 5), images, torch.zeros(4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"kernels must be \(M, C, n, 1\) and \(O, M, 1, n\)"):
        ops.asymmetric(images, torch.zeros(2, 4, 3, 3), torch.zeros(2, 2, 1, 3))
    with pytest.raises(ValueError, match="groups must divide the channels"):
        ops.depthwise_separable(images, torch.zeros(6, 1, 3, 3), torch.zeros(2, 6, 1, 1))
