"""Correlation, by every algorithm, against PyTorch: values and all gradients over generated shapes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import by_autograd, gradcheck
from torch import Tensor
from torch.nn import functional

from cnnkit import ops
from cnnkit.ops import pieces
from cnnkit.ops.convolution import ALGORITHMS

ANY = ("direct", "im2col", "fft")
THREE_TAPS = (*ANY, "winograd", "winograd4")


@dataclass(frozen=True)
class Case:
    """A correlation: one value an axis of each."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    channels: tuple[int, int]  # in and out, of one group
    examples: int
    seed: int = field(repr=False)

    @property
    def options(self) -> dict[str, Any]:
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)

    @property
    def theirs(self) -> Callable[..., Tensor]:
        convolution = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(self.size)]
        zeros = [n for pair in reversed(self.padding) for n in pair]
        options = {**self.options, "padding": 0}
        return lambda x, *rest: convolution(functional.pad(x, zeros), *rest, **options)

    def tensors(self) -> list[Tensor]:
        """Images, kernels and bias."""
        generator = torch.Generator().manual_seed(self.seed)
        inputs, outputs = self.channels
        shapes = [
            (self.examples, self.groups * inputs, *self.size),
            (self.groups * outputs, inputs, *self.kernel),
            (self.groups * outputs,),
        ]
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@st.composite
def cases(draw: st.DrawFn, *, three_taps: bool = False, ranks: tuple[int, int] = (1, 2)) -> Case:
    axes = []
    for _ in range(draw(st.integers(*ranks))):
        if three_taps:
            kernel, stride, dilation = 3, 1, 1
        else:
            kernel, stride, dilation = (
                draw(st.integers(1, 5)),
                draw(st.integers(1, 3)),
                draw(st.integers(1, 3)),
            )
        padding = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        least = max(1, dilation * (kernel - 1) + 1 - sum(padding))
        axes.append((draw(st.integers(least, least + 9)), kernel, stride, padding, dilation))
    channels = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Case(
        *zip(*axes, strict=True),
        groups=draw(st.integers(1, 3)),
        channels=channels,
        examples=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def assert_close(ours: Tensor, theirs: Tensor, what: object) -> None:
    """Largest difference over largest magnitude; what is zero everywhere counts as of magnitude 1."""
    assert ours.shape == theirs.shape, what
    magnitude = theirs.abs().max().item() or 1.0
    assert (ours - theirs).abs().max().item() <= 1e-10 * magnitude, what


def by_pytorch(f: Callable[..., Tensor], tensors: list[Tensor]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The value, a residual for it, and the gradients of all tensors."""
    value = f(*tensors)
    residual = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return value, residual, by_autograd(f, tensors, residual)


def compare(case: Case, algorithms: tuple[str, ...]) -> None:
    images, kernels, bias = case.tensors()
    value, residual, gradients = by_pytorch(case.theirs, [images, kernels, bias])
    for name in algorithms:
        options: Any = dict(**case.options, algorithm=name)
        assert_close(ops.correlate(images, kernels, bias, **options), value, name)
        derived = ops.correlate_backward(residual, images, kernels, **options)
        for what, ours, theirs in zip(derived._fields, derived, gradients, strict=True):
            assert_close(ours, theirs, (name, what))


@settings(max_examples=700, deadline=None)
@given(cases())
def test_values_and_gradients_are_pytorchs(case: Case) -> None:
    compare(case, ANY)


@settings(max_examples=250, deadline=None)
@given(cases(three_taps=True))
def test_values_and_gradients_of_three_taps_are_pytorchs_by_winograd_too(case: Case) -> None:
    compare(case, THREE_TAPS)


@settings(max_examples=30, deadline=None)
@given(cases(ranks=(3, 3)))
def test_three_axes_need_nothing_new(case: Case) -> None:
    compare(case, ANY)


@contextmanager
def small_pieces(budget: int, wide: int) -> Iterator[None]:
    with mock.patch.object(pieces, "BUDGET", budget), mock.patch.object(pieces, "WIDE", wide):
        yield


@settings(max_examples=120, deadline=None)
@given(cases(three_taps=True), st.integers(1, 2000), st.sampled_from([1, 64]))
def test_cutting_the_work_into_pieces_changes_nothing(case: Case, budget: int, wide: int) -> None:
    with small_pieces(budget, wide):
        compare(case, THREE_TAPS)


GROUPED = Case((5, 6), (3, 3), (1, 1), ((1, 0), (2, 2)), (1, 1), 2, (2, 1), 2, 0)
SIGNAL = Case((9,), (3,), (1,), ((0, 0),), (1,), 1, (1, 2), 1, 0)
STRIDED = Case((7, 8), (2, 3), (3, 2), ((1, 2), (0, 0)), (2, 1), 1, (2, 2), 1, 0)  # neither stride divides


@pytest.mark.parametrize(
    ("case", "name"),
    [(case, name) for case in (GROUPED, SIGNAL) for name in THREE_TAPS] + [(STRIDED, name) for name in ANY],
)
def test_the_derived_gradients_are_the_derivatives(case: Case, name: str) -> None:
    options: Any = dict(**case.options, algorithm=name)
    assert gradcheck(
        lambda x, w, b: ops.correlate(x, w, b, **options),
        lambda r, x, w, _: tuple(ops.correlate_backward(r, x, w, **options)),
        *case.tensors(),
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_true_convolution_is_the_correlation_with_the_turned_kernel(case: Case) -> None:
    spatial = tuple(range(2, 2 + len(case.size)))
    images, kernels, bias = case.tensors()
    value, residual, gradients = by_pytorch(
        lambda x, w, b: case.theirs(x, w.flip(spatial), b), [images, kernels, bias]
    )
    assert_close(ops.convolve(images, kernels, bias, **case.options), value, "value")
    derived = ops.convolve_backward(residual, images, kernels, **case.options)
    for ours, theirs in zip(derived, gradients, strict=True):
        assert_close(ours, theirs, "gradient")


@pytest.mark.parametrize("name", ANY)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=2), st.integers(0, 99))
def test_the_full_convolution_commutes(name: Any, sizes: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64)
        for shape in zip(*sizes, strict=True)
    )
    one = ops.convolve(a, b, padding="full", algorithm=name)
    other = ops.convolve(b, a, padding="full", algorithm=name)
    assert one.shape[2:] == tuple(n + k - 1 for n, k in sizes)
    assert_close(one, other, sizes)


def test_a_full_convolution_multiplies_polynomials() -> None:
    """(1 + 2x)(3 + 4x + 5x^2) = 3 + 10x + 13x^2 + 10x^3"""
    a, b = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0]]])
    assert ops.convolve(a, b, padding="full").flatten().tolist() == [3, 10, 13, 10]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_correlation_worked_out_by_hand(name: Any) -> None:
    """Rows 1 2 3 4 / 5 6 7 8 / 9 10 11 12 / 13 14 15 16, y[i, j] = x[i, j] - 2 x[i+2, j+2]: 1 - 2 * 11."""
    image = torch.arange(1.0, 17).view(1, 1, 4, 4)
    kernel = torch.tensor([[[[1.0, 0, 0], [0, 0, 0], [0, 0, -2]]]])
    found = ops.correlate(image, kernel, algorithm=name)
    torch.testing.assert_close(found, torch.tensor([[[[-21.0, -22], [-25, -26]]]]))


@settings(max_examples=120, deadline=None)
@given(cases(), st.sampled_from(["valid", "same", "full"]))
def test_named_paddings_are_numbers_of_zeros(case: Case, name: Any) -> None:
    images, kernels, _ = case.tensors()
    pairs = []
    for n, k, s, d in zip(case.size, case.kernel, case.stride, case.dilation, strict=True):
        reach = d * (k - 1)
        total = max(0, (-(-n // s) - 1) * s + reach + 1 - n)
        pairs += [{"valid": (0, 0), "same": (total // 2, total - total // 2), "full": (reach, reach)}[name]]
    options = {**case.options, "padding": 0}
    flat = [zeros for pair in reversed(pairs) for zeros in pair]
    padded = functional.pad(images, flat)
    if any(n < d * (k - 1) + 1 for n, k, d in zip(padded.shape[2:], case.kernel, case.dilation, strict=True)):
        with pytest.raises(ValueError, match="reaches over"):
            ops.correlate(images, kernels, **{**options, "padding": name})
        return
    value, _, _ = by_pytorch(lambda x, w: by_rank(x)(x, w, **options), [padded, kernels])
    for padding in (name, pairs):
        found = ops.correlate(images, kernels, **{**options, "padding": padding})
        assert_close(found, value, padding)
    if name == "same":
        assert found.shape[2:] == tuple(-(-n // s) for n, s in zip(case.size, case.stride, strict=True))


def by_rank(images: Tensor) -> Callable[..., Tensor]:
    return functional.conv1d if images.ndim == 3 else functional.conv2d


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-5), (torch.bfloat16, 1.02 * 2**-8), (torch.float16, 1.02 * 2**-11)],
)
def test_half_types_are_rounded_once(name: Any, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 8, 12, 12, generator=generator).to(dtype)
    kernels = torch.randn(6, 8, 3, 3, generator=generator).to(dtype)
    exact = [images.double(), kernels.double()]
    value = functional.conv2d(*exact)
    residual = torch.randn(value.shape, generator=generator).to(dtype)
    gradients = by_autograd(functional.conv2d, exact, residual.double())
    found = ops.correlate(images, kernels, algorithm=name)
    assert found.dtype == dtype
    assert (found - value).abs().max() <= tolerance * value.abs().max()
    derived = ops.correlate_backward(residual, images, kernels, algorithm=name)
    for ours, theirs in zip(derived, gradients, strict=False):
        assert ours.dtype == dtype
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_memory_laid_out_otherwise_changes_nothing(name: Any) -> None:
    images = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    kernels = torch.randn(4, 4, 3, 3, dtype=torch.float64)
    expected = ops.correlate(images, kernels, padding=1, algorithm=name)
    gradients = ops.correlate_backward(expected, images, kernels, padding=1, algorithm=name)
    wide = torch.randn(3, 8, 9, 16, dtype=torch.float64)
    wide[:, ::2, :, ::2] = images
    for other in (images.to(memory_format=torch.channels_last), wide[:, ::2, :, ::2]):
        residual = expected.to(memory_format=torch.channels_last)
        turned = kernels.transpose(0, 1).contiguous().transpose(0, 1)
        assert_close(ops.correlate(other, turned, padding=1, algorithm=name), expected, name)
        again = ops.correlate_backward(residual, other, turned, padding=1, algorithm=name)
        for ours, theirs in zip(again, gradients, strict=True):
            assert_close(ours, theirs, name)


def test_the_inputs_are_left_as_they_were() -> None:
    case = Case((6, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 2), 2, 0)
    tensors = case.tensors()
    before = [t.clone() for t in tensors]
    for name in THREE_TAPS:
        value = ops.correlate(*tensors, padding=1, algorithm=name)  # type: ignore[arg-type]
        ops.correlate_backward(value, *tensors[:2], padding=1, algorithm=name)  # type: ignore[arg-type]
    for now, then in zip(tensors, before, strict=True):
        assert torch.equal(now, then)


def images_and_kernels(**changed: Any) -> dict[str, Any]:
    return {"images": torch.zeros(2, 4, 8, 8), "kernels": torch.zeros(6, 4, 3, 3), **changed}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(groups=3), "groups must divide the channels, got 3 groups of 4 input and 6 output channels"),
        (dict(groups=0), "got 0 groups"),
        (dict(groups=2), "read 4 channels in each of 2 groups, but the images have 4 channels"),
        (
            dict(kernels=torch.zeros(6, 4, 9, 3)),
            r"kernel \(9, 3\) .* reaches over 9 positions, more than the 8",
        ),
        (dict(dilation=4), r"dilation \(4, 4\) reaches over 9 positions"),
        (
            dict(images=torch.zeros(2, 4, 8, 8, dtype=torch.int64)),
            "images must be of floating point, got torch.int64",
        ),
        (dict(kernels=torch.zeros(6, 4, 3, 3).bool()), "kernels must be of floating point, got torch.bool"),
        (
            dict(kernels=torch.zeros(6, 4, 3, 3).double()),
            "images torch.float32 on cpu, kernels torch.float64 on cpu",
        ),
        (dict(padding=-1), "padding must not be negative, got -1"),
        (dict(padding=[(0, 0), (1, -2)]), r"padding must not be negative, got \[\(0, 0\), \(1, -2\)\]"),
        (dict(padding=(1, 1, 1)), r"padding must be one value or 2, .* got \(1, 1, 1\)"),
        (dict(padding="some"), "padding must be valid, same, full or numbers, got 'some'"),
        (dict(stride=0), r"stride must be at least 1 on every axis, got \(0, 0\)"),
        (dict(stride=(1, 2, 3)), r"stride must be one value or 2"),
        (dict(dilation=0), "dilation must be at least 1"),
        (dict(images=torch.zeros(2, 4, 8)), r"same number of axes, three or more, got \(2, 4, 8\) and"),
        (dict(images=torch.zeros(0, 4, 8, 8)), r"images must not be empty, got shape \(0, 4, 8, 8\)"),
        (dict(bias=torch.zeros(5)), r"bias must have shape \(6,\), got \(5,\)"),
        (dict(bias=torch.zeros(6).double()), "bias torch.float64"),
        (dict(algorithm="fastest"), "algorithm must be one of direct, im2col, fft, .* got 'fastest'"),
        (
            dict(algorithm="winograd", stride=2),
            "winograd computes kernels of 3 .* got 3 at stride 2 and dilation 1",
        ),
        (dict(algorithm="winograd", dilation=2), "got 3 at stride 1 and dilation 2"),
        (dict(algorithm="winograd4", kernels=torch.zeros(6, 4, 5, 5)), "got 5 at stride 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_names_and_values(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.correlate(**images_and_kernels(**arguments))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_residual_of_another_shape_is_refused(name: Any) -> None:
    tensors = images_and_kernels()
    with pytest.raises(ValueError, match=r"residual must have shape \(2, 6, 6, 6\), got \(2, 6, 8, 8\)"):
        ops.correlate_backward(torch.zeros(2, 6, 8, 8), **tensors, algorithm=name)
    with pytest.raises(ValueError, match=r"residual must have shape \(2, 6, 6, 6\), got \(2, 6, 6, 7\)"):
        ops.kernels_gradient(torch.zeros(2, 6, 6, 7), tensors["images"], (3, 3), algorithm=name)
    with pytest.raises(ValueError, match="groups must divide the channels"):
        ops.images_gradient(torch.zeros(2, 6, 6, 6), tensors["kernels"], (8, 8), groups=4, algorithm=name)
