"""Activations against PyTorch, and the identities that the literature states of them."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal, by_autograd, gradcheck
from tests.ops.onnx_cases import Case, cases
from torch import Tensor
from torch.nn import functional

from cnnkit.ops import activations

#: Ours, its backward function, PyTorch's, and whether the backward takes the values y (else z).
PAIRS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor], bool]] = {
    "sigmoid": (activations.sigmoid, activations.sigmoid_backward, torch.sigmoid, True),
    "tanh": (activations.tanh, activations.tanh_backward, torch.tanh, True),
    "scaled_tanh": (
        activations.scaled_tanh,
        activations.scaled_tanh_backward,
        lambda z: 1.7159 * torch.tanh(2 / 3 * z),
        True,
    ),
    "relu": (activations.relu, activations.relu_backward, torch.relu, True),
    "relu6": (
        lambda z: activations.relu(z, ceiling=6),
        lambda residual, values: activations.relu_backward(residual, values, ceiling=6),
        functional.relu6,
        True,
    ),
    "silu": (activations.silu, activations.silu_backward, functional.silu, False),
}

numbers = st.floats(-1e3, 1e3) | st.floats(-8, 8) | st.floats(-1e-9, 1e-9) | st.sampled_from([0.0, 6.0])


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=60, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_values_and_residuals_are_pytorchs(name: str, entries: list[float], seed: int) -> None:
    ours, backward, theirs, by_values = PAIRS[name]
    z = torch.tensor(entries, dtype=torch.float64)
    residual = torch.randn(len(z), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = ours(z)
    torch.testing.assert_close(values, theirs(z), rtol=1e-12, atol=0)  # entry by entry: small values too
    (expected,) = by_autograd(theirs, [z], residual)
    found = backward(residual, values if by_values else z)
    # 1 - y^2 of a y near 1 is what rounding left of it, so the magnitude is the residual's
    assert (found - expected).abs().max() <= 1e-10 * residual.abs().max()


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_are_the_derivatives(name: str) -> None:
    ours, backward, _, by_values = PAIRS[name]
    z = torch.linspace(-7.3, 7.4, 24, dtype=torch.float64)  # no corner among them
    assert gradcheck(ours, lambda r, z: backward(r, ours(z) if by_values else z), z)


def test_tanh_is_a_sigmoid_twice_as_steep() -> None:
    """tanh(z) = 2 sigmoid(2z) - 1"""
    z = torch.linspace(-20, 20, 401, dtype=torch.float64)
    assert_equal(activations.tanh(z), 2 * activations.sigmoid(2 * z) - 1, 1e-15)


def test_the_scaled_tanh_passes_through_one() -> None:
    """f(1) = 1 and f(-1) = -1, to the digits of the paper's constants."""
    z = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert (activations.scaled_tanh(z) - z).abs().max() < 1e-4


def test_nothing_overflows_and_nan_stays() -> None:
    z = torch.tensor([-torch.inf, -1e4, 0.0, 1e4, torch.inf, torch.nan])
    for f, expected in (
        (activations.sigmoid, [0, 0, 0.5, 1, 1]),
        (activations.tanh, [-1, -1, 0, 1, 1]),
        (activations.relu, [0, 0, 0, 1e4, torch.inf]),
    ):
        values = f(z)
        assert values[:5].tolist() == expected
        assert values[5].isnan()


@pytest.mark.parametrize("name", PAIRS)
def test_integers_are_refused(name: str) -> None:
    ours, backward, _, _ = PAIRS[name]
    with pytest.raises(ValueError, match=r"z must be of floating point, got torch.int64"):
        ours(torch.arange(3))
    with pytest.raises(ValueError, match=r"residual must be of floating point"):
        backward(torch.arange(3), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", PAIRS)
def test_the_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    ours, backward, _, _ = PAIRS[name]
    z = torch.tensor([-1.0, 2.0], dtype=dtype)
    assert ours(z).dtype == backward(z, z).dtype == dtype


@pytest.mark.reference
@pytest.mark.parametrize("name", ["Relu", "Sigmoid", "Tanh"])
def test_onnx_cases(name: str) -> None:
    found: list[Case] = cases(name)
    assert found
    for case in found:
        case.check(PAIRS[name.lower()][0](case.inputs[0]))
