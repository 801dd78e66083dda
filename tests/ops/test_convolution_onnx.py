"""The ONNX backend's own cases for Conv, ConvTranspose, Gemm and Col2Im. All of them can be expressed."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.ops.onnx_cases import Case, cases
from torch import Tensor

from cnnkit import ops

pytestmark = pytest.mark.reference


def pairs(pads: Sequence[int]) -> list[tuple[int, int]]:
    """ONNX lists all that goes before, then all that goes after."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def sliding(case: Case, rank: int) -> dict[str, Any]:
    given = case.attributes
    return dict(
        stride=given.get("strides", 1),
        dilation=given.get("dilations", 1),
        groups=given.get("group", 1),
        padding=pairs(given.get("pads", [0] * 2 * rank)),
    )


def same(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], mode: str
) -> list[tuple[int, int]]:
    """SAME_UPPER is our `same`; SAME_LOWER puts the odd zero before."""
    found = []
    for n, k, s in zip(sizes, kernel, strides, strict=True):
        total = max(0, (-(-n // s) - 1) * s + k - n)
        few, many = total // 2, total - total // 2
        found.append((many, few) if mode == "SAME_LOWER" else (few, many))
    return found


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft", "winograd4"])
@pytest.mark.parametrize("case", cases("Conv"), ids=repr)
def test_conv(case: Case, algorithm: Any) -> None:
    images, kernels, *bias = case.inputs
    assert images is not None
    assert kernels is not None
    options = sliding(case, images.ndim - 2)
    if "auto_pad" in case.attributes:
        mode = case.attributes["auto_pad"]
        options["padding"] = same(images.shape[2:], kernels.shape[2:], options["stride"], mode)
    if algorithm == "winograd4" and options["stride"] != 1:
        with pytest.raises(ValueError, match="winograd computes"):
            ops.correlate(images, kernels, *bias, **options, algorithm=algorithm)
        return
    case.check(ops.correlate(images, kernels, *bias, **options, algorithm=algorithm))


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft"])
@pytest.mark.parametrize("case", cases("ConvTranspose"), ids=repr)
def test_conv_transpose(case: Case, algorithm: Any) -> None:
    images, kernels, *bias = case.inputs
    assert images is not None
    assert kernels is not None
    given, rank = case.attributes, images.ndim - 2
    options = sliding(case, rank)
    options["output_padding"] = given.get("output_padding", 0)
    if given.get("auto_pad") == "SAME_UPPER":
        options["padding"] = "same"
    if "output_shape" in given:  # what the shape asks for beyond the zero padding is output padding
        natural = ops.correlate_transposed(images, kernels, **{**options, "output_padding": 0})
        wanted = zip(given["output_shape"], natural.shape[2:], strict=True)
        options["output_padding"] = [ours - theirs for ours, theirs in wanted]
    # fft rounds to the largest value and not to each, which the cases' zeros would not bear in float32
    exact = [t.double() if algorithm == "fft" else t for t in (images, kernels)]
    case.check(ops.correlate_transposed(*exact, *bias, **options, algorithm=algorithm).float())


@pytest.mark.parametrize("algorithm", ["direct", "im2col", "fft"])
@pytest.mark.parametrize("case", cases("Gemm"), ids=repr)
def test_gemm_is_a_correlation_with_kernels_of_one_tap(case: Case, algorithm: Any) -> None:
    """alpha A B + beta C: the rows of A are examples of one position, the columns of B are kernels."""
    a, b, *c = case.inputs
    assert a is not None
    assert b is not None
    given = case.attributes
    a = a.T if given.get("transA") else a
    b = b if given.get("transB") else b.T
    product = ops.correlate(a[:, :, None], b[:, :, None], algorithm=algorithm)[:, :, 0]
    result = given.get("alpha", 1.0) * product
    for matrix in c:
        assert matrix is not None
        result = result + given.get("beta", 1.0) * matrix
    case.check(result)


@pytest.mark.parametrize("case", cases("Col2Im"), ids=repr)
def test_col2im(case: Case) -> None:
    columns, size, kernel = case.inputs
    assert columns is not None
    assert size is not None
    assert kernel is not None
    options = sliding(case, len(size))
    del options["groups"]
    found = ops.col2im(columns, size.tolist(), kernel.tolist(), **options)
    case.check(found)
    adjoint(columns, found, size.tolist(), kernel.tolist(), options)


def adjoint(
    columns: Tensor, images: Tensor, size: list[int], kernel: list[int], options: dict[str, Any]
) -> None:
    """<col2im(columns), y> = <columns, im2col(y)> for any y."""
    y = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    other = ops.im2col(y, kernel, **options)
    torch.testing.assert_close((images * y).sum(), (columns * other).sum(), rtol=1e-4, atol=1e-4)


def test_there_are_cases_at_all() -> None:
    """A suite that changed its names would otherwise pass by testing nothing."""
    counts = {op: len(cases(op)) for op in ("Conv", "ConvTranspose", "Gemm", "Col2Im")}
    assert counts["Conv"] >= 6
    assert counts["ConvTranspose"] >= 11
    assert counts["Gemm"] >= 11
    assert counts["Col2Im"] >= 5


def test_whole_columns_are_pytorchs_unfold() -> None:
    images = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    options: Any = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    ours = ops.im2col(images, (3, 2), **options)
    torch.testing.assert_close(ours, torch.nn.functional.unfold(images, (3, 2), **options))
    back = ops.col2im(ours, (7, 8), (3, 2), **options)
    torch.testing.assert_close(back, torch.nn.functional.fold(ours, (7, 8), (3, 2), **options))
    with pytest.raises(ValueError, match=r"columns of 18 entries do not divide into kernels of \(2, 2\)"):
        ops.col2im(ours, (7, 8), (2, 2))
    with pytest.raises(ValueError, match=r"columns must have shape \(2, 18, 48\), got \(2, 18, 40\)"):
        ops.col2im(ours, (8, 9), (3, 2), stride=1, padding=0)
