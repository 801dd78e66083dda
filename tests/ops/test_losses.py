"""Softmax and cross-entropy against PyTorch and ONNX."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import by_autograd, gradcheck
from tests.ops.onnx_cases import Case, cases
from torch import Tensor
from torch.nn import functional

from cnnkit.ops import losses

shapes = st.tuples(st.integers(1, 4), st.integers(1, 6)).flatmap(
    lambda head: st.lists(st.integers(1, 3), max_size=2).map(lambda tail: (*head, *tail))
)


@settings(max_examples=120, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.sampled_from(["none", "sum", "mean"]), st.booleans())
def test_cross_entropy_and_its_gradient_are_pytorchs(
    shape: Any, seed: int, reduction: Any, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    weights = 0.1 + torch.rand(shape[1], generator=generator, dtype=torch.float64) if weighted else None
    labels.flatten()[1:][::3] = -7  # some to be ignored, the first never

    def theirs(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, weights, ignore_index=-7, reduction=reduction)

    options = dict(weights=weights, ignore=-7, reduction=reduction)
    value = losses.cross_entropy(logits, labels, **options)
    torch.testing.assert_close(value, theirs(logits), rtol=1e-10, atol=1e-14)
    residual = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    (expected,) = by_autograd(theirs, [logits], residual)
    found = losses.cross_entropy_backward(residual, logits, labels, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.data())
def test_softmax_and_log_softmax_are_pytorchs(shape: Any, seed: int, data: st.DataObject) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 30 * torch.randn(shape, generator=generator, dtype=torch.float64)
    residual = torch.randn(shape, generator=generator, dtype=torch.float64)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    for ours, backward, theirs in (
        (losses.softmax, losses.softmax_backward, functional.softmax),
        (losses.log_softmax, losses.log_softmax_backward, functional.log_softmax),
    ):
        values = ours(logits, axis=axis)
        torch.testing.assert_close(values, theirs(logits, axis), rtol=1e-10, atol=1e-13)
        (expected,) = by_autograd(lambda z, f=theirs: f(z, axis), [logits], residual)
        torch.testing.assert_close(backward(residual, values, axis=axis), expected, rtol=1e-10, atol=1e-13)


def test_gradients_are_the_derivatives() -> None:
    logits = torch.randn(4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 2], [1, 1], [9, 0], [2, 9]])
    weights = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for reduction in ("none", "sum", "mean"):
        options: Any = dict(weights=weights, ignore=9, reduction=reduction)
        assert gradcheck(
            lambda z, options=options: losses.cross_entropy(z, labels, **options),
            lambda r, z, options=options: losses.cross_entropy_backward(r, z, labels, **options),
            logits,
        )
    assert gradcheck(losses.softmax, lambda r, z: losses.softmax_backward(r, losses.softmax(z)), logits)
    assert gradcheck(
        losses.log_softmax, lambda r, z: losses.log_softmax_backward(r, losses.log_softmax(z)), logits
    )


def test_equal_logits_of_ten_classes_cost_the_logarithm_of_ten() -> None:
    value = losses.cross_entropy(torch.full((2, 10), 3.0, dtype=torch.float64), torch.tensor([4, 9]))
    assert float(value) == pytest.approx(2.302585092994046, rel=1e-15)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert losses.softmax(logits).tolist() == [[1, 0, 0]]
    assert losses.cross_entropy(logits, torch.tensor([2])) == 2e4


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), {}, r"labels must be 0..2 .*got 0..3"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), {}, r"labels must be 0..2 .*got -1..0"),
        (torch.zeros(2, 3), torch.zeros(2), {}, r"labels must be class numbers .*got torch.float32"),
        (torch.zeros(2, 3), torch.zeros(3).long(), {}, r"labels must have shape \(2,\), got \(3,\)"),
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), {}, r"logits must be of floating point"),
        (torch.zeros(3), torch.zeros(3).long(), {}, r"logits must be \(N, C, ...\), got shape \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"reduction": "avg"}, r"reduction must be .*got 'avg'"),
        (torch.zeros(2, 3), torch.zeros(2).long(), {"weights": torch.ones(2)}, r"weights must have shape"),
    ],
)
def test_what_has_no_loss_is_refused(logits: Tensor, labels: Tensor, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy(logits, labels, **options)
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy_backward(torch.ones(()), logits, labels, **options)


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("Softmax"), ids=str)
def test_onnx_softmax(case: Case) -> None:
    case.check(losses.softmax(case.inputs[0], axis=case.attributes.get("axis", -1)))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("SoftmaxCrossEntropyLoss"), ids=str)
def test_onnx_softmax_cross_entropy(case: Case) -> None:
    logits, labels, *weights = case.inputs
    value = losses.cross_entropy(
        logits,
        labels,
        weights=weights[0] if weights else None,
        ignore=case.attributes.get("ignore_index"),
        reduction=case.attributes.get("reduction", "mean"),
    )
    case.check(*(value, losses.log_softmax(logits))[: len(case.outputs)])
