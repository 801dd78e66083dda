"""Batch norm and local response norm against PyTorch, ONNX and sums written out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal, by_autograd, gradcheck
from tests.ops.onnx_cases import Case, cases
from torch import Tensor
from torch.nn import functional

from cnnkit.ops import normalisation

shapes = st.tuples(st.integers(2, 4), st.integers(1, 7)).flatmap(
    lambda head: st.lists(st.integers(1, 4), max_size=3).map(lambda tail: (*head, *tail))
)
seeds = st.integers(0, 2**32 - 1)


def numbers(shape: Any, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, gamma, beta and the residual."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return 3 * draw(*shape) + 1, draw(shape[1]), draw(shape[1]), draw(*shape)


@settings(max_examples=120, deadline=None)
@given(shapes, seeds, st.sampled_from([1e-5, 1e-3, 0.5]))
def test_batch_norm_in_training_is_pytorchs(shape: Any, seed: int, epsilon: float) -> None:
    x, scale, shift, residual = numbers(shape, seed)
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)

    def theirs(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, scale, shift, True, 0.1, epsilon)

    ours = normalisation.batch_norm(x, scale, shift, epsilon=epsilon)
    assert_equal(ours.values, theirs(x, scale, shift))
    expected = by_autograd(theirs, [x, scale, shift], residual)
    found = normalisation.batch_norm_backward(residual, x, scale, ours.mean, ours.variance, epsilon=epsilon)
    # With two values a channel all of dL/dx cancels: the magnitude is the terms', not what they leave.
    terms = normalisation.batch_norm_inference_backward(
        residual, x, scale, ours.mean, ours.variance, epsilon=epsilon
    ).x
    assert (found.x - expected[0]).abs().max() <= 1e-10 * terms.abs().max()
    assert_equal(found.scale, expected[1])
    assert_equal(found.shift, expected[2])
    running = normalisation.running_statistics(mean, variance, ours, momentum=0.3)
    functional.batch_norm(x, mean, variance, scale, shift, True, 0.3, epsilon)
    assert_equal(running[0], mean)
    assert_equal(running[1], variance)


@settings(max_examples=80, deadline=None)
@given(shapes, seeds)
def test_batch_norm_at_inference_is_pytorchs(shape: Any, seed: int) -> None:
    x, scale, shift, residual = numbers(shape, seed)
    mean, variance = numbers(shape, seed + 1)[1], numbers(shape, seed + 1)[2].abs()

    def theirs(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, shift, False)

    assert_equal(normalisation.batch_norm_inference(x, scale, shift, mean, variance), theirs(x, scale, shift))
    found = normalisation.batch_norm_inference_backward(residual, x, scale, mean, variance)
    for ours, expected in zip(found, by_autograd(theirs, [x, scale, shift], residual), strict=True):
        assert_equal(ours, expected)


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4)),
    seeds,
    st.sampled_from([1, 3, 5, 7]),
    st.floats(1e-5, 1),
    st.floats(0.1, 2),
    st.floats(0.5, 3),
)
def test_local_response_norm_is_pytorchs_with_alpha_times_the_size(
    shape: Any, seed: int, size: int, alpha: float, beta: float, k: float
) -> None:
    x, _, _, residual = numbers(shape, seed)

    def theirs(x: Tensor) -> Tensor:
        return functional.local_response_norm(x, size, alpha * size, beta, k)

    constants = dict(size=size, alpha=alpha, beta=beta, k=k)
    assert_equal(normalisation.local_response_norm(x, **constants), theirs(x))
    (expected,) = by_autograd(theirs, [x], residual)
    assert_equal(normalisation.local_response_norm_backward(residual, x, **constants), expected)


def test_local_response_norm_has_alexnets_constants() -> None:
    """Six channels of value 100 + i at one pixel; b_0 = 100 / (2 + 1e-4 (100^2 + 101^2 + 102^2))^0.75."""
    a = torch.arange(100.0, 106, dtype=torch.float64)
    ours = normalisation.local_response_norm(a.reshape(1, 6, 1, 1)).flatten()
    for i in range(6):
        near = a[max(0, i - 2) : min(5, i + 2) + 1]
        assert ours[i] == pytest.approx(float(a[i] / (2 + 1e-4 * (near**2).sum()) ** 0.75), rel=1e-14)
    assert ours[0] == pytest.approx(100 / (2 + 3.0605) ** 0.75, rel=1e-14)


def test_batch_norm_passes_no_residual_along_a_shift_or_a_stretch() -> None:
    """What moves or stretches a whole channel changes nothing above, so the gradient has no such part."""
    x, scale, shift, residual = numbers((4, 3, 5), 0)
    y = normalisation.batch_norm(x, scale, shift, epsilon=0)
    below = normalisation.batch_norm_backward(residual, x, scale, y.mean, y.variance, epsilon=0).x
    assert below.sum((0, 2)).abs().max() < 1e-13
    assert (below * (x - y.mean.reshape(1, 3, 1))).sum((0, 2)).abs().max() < 1e-12


def test_gradients_are_the_derivatives() -> None:
    x, scale, shift, _ = numbers((3, 4, 2, 2), 1)

    def training(r: Tensor, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        y = normalisation.batch_norm(x, scale, shift)
        return tuple(normalisation.batch_norm_backward(r, x, scale, y.mean, y.variance))

    assert gradcheck(lambda *inputs: normalisation.batch_norm(*inputs).values, training, x, scale, shift)
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    assert gradcheck(
        lambda *inputs: normalisation.batch_norm_inference(*inputs, mean, variance),
        lambda r, x, g, b: tuple(normalisation.batch_norm_inference_backward(r, x, g, mean, variance)),
        *(x, scale, shift),
    )
    strong = dict(size=3, alpha=0.5, beta=0.75, k=1.0)  # AlexNet's alpha would hide a wrong second term
    assert gradcheck(
        lambda x: normalisation.local_response_norm(x, **strong),
        lambda r, x: normalisation.local_response_norm_backward(r, x, **strong),
        x,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, c: normalisation.batch_norm(x.long(), c, c), r"x must be of floating point"),
        (lambda x, c: normalisation.batch_norm(x, c[:2], c), r"scale must have shape \(3,\), got \(2,\)"),
        (
            lambda x, c: normalisation.batch_norm(x[:1, :, :1], c, c),
            r"more than one value a channel in training, got x of shape \(1, 3, 1\)",
        ),
        (lambda x, c: normalisation.batch_norm(c, c, c), r"x must be \(N, C, ...\), got shape \(3,\)"),
        (lambda x, c: normalisation.local_response_norm(x, size=4), r"size must be odd.*got 4"),
        (
            lambda x, c: normalisation.local_response_norm_backward(x[:1], x),
            r"residual must have shape \(2, 3, 4\), got \(1, 3, 4\)",
        ),
    ],
)
def test_what_cannot_be_normalised_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 3, 4), torch.ones(3))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("LRN"), ids=str)
def test_onnx_lrn(case: Case) -> None:
    """ONNX divides alpha by the size, as PyTorch does; its defaults are alpha 1e-4, beta 0.75, bias 1."""
    a = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **case.attributes}
    constants = dict(size=a["size"], alpha=a["alpha"] / a["size"], beta=a["beta"], k=a["bias"])
    case.check(normalisation.local_response_norm(case.inputs[0], **constants))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("BatchNormalization"), ids=str)
def test_onnx_batch_normalisation(case: Case) -> None:
    """In training ONNX averages the biased variance, so the running averages are written out here."""
    x, scale, shift, mean, variance = case.inputs
    epsilon, momentum = case.attributes.get("epsilon", 1e-5), case.attributes.get("momentum", 0.9)
    if not case.attributes.get("training_mode"):
        case.check(normalisation.batch_norm_inference(x, scale, shift, mean, variance, epsilon=epsilon))
        return
    batch = normalisation.batch_norm(x, scale, shift, epsilon=epsilon)
    averages = [
        momentum * old + (1 - momentum) * new for old, new in ((mean, batch.mean), (variance, batch.variance))
    ]
    case.check(batch.values, *averages)
