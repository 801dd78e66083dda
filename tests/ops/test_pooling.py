"""Pooling against PyTorch, against its definition in loops, and against numbers worked out by hand."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.ops.agreement import assert_equal, by_autograd, gradcheck
from tests.ops.onnx_cases import Case, cases
from torch import Tensor
from torch.nn import functional

from cnnkit.ops import pooling
from cnnkit.ops.shapes import axes
from cnnkit.ops.windows import pad

WORKED = torch.tensor([[1, 8, 4, 3], [7, 2, 1, 9], [6, 1, 2, 4], [8, 7, 6, 0]], dtype=torch.float64)


@dataclass(frozen=True)
class Window:
    """A way to pool, one value an axis."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[Any, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    @property
    def arguments(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("kernel", "stride", "padding", "dilation", "ceil_mode")}


@st.composite
def window(draw: st.DrawFn, *, dilated: bool = True, uneven: bool = False) -> Window:
    """Anything that PyTorch accepts; with `uneven` also paddings that differ before and after, up to e."""
    fields: list[list[Any]] = [[], [], [], [], []]
    for _ in range(draw(st.integers(1, 3 if not uneven else 2))):
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3 if dilated else 1))
        extent = dilation * (kernel - 1) + 1
        if uneven:
            pair = st.tuples(st.integers(0, extent), st.integers(0, extent))
            padding: Any = draw(pair)
        else:
            padding = draw(st.integers(0, kernel // 2))
        zeros = sum(padding) if uneven else 2 * padding
        size = draw(st.integers(max(1, extent - zeros), max(1, extent - zeros) + 7))
        stride = draw(st.integers(1, 5))
        for field, value in zip(fields, (size, kernel, stride, padding, dilation), strict=True):
            field.append(value)
    return Window(*map(tuple, fields), ceil_mode=draw(st.booleans()))  # type: ignore[arg-type]


def data(size: tuple[int, ...], seed: int, *, ties: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if ties:
        return torch.randint(-1, 2, (2, 3, *size), generator=generator).double()
    return torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)


def theirs(name: str, spatial: int) -> Any:
    return getattr(functional, f"{name}{spatial}d")


def every_window_meets_the_map(w: Window) -> bool:
    """By the definition: each window has a tap on a cell, along every axis."""
    made = axes(w.size, w.kernel, stride=w.stride, padding=w.padding, dilation=w.dilation)
    for axis in made:
        for o in range(axis.out_ceil if w.ceil_mode else axis.out):
            start = o * axis.stride - axis.before
            if not any(0 <= start + t * axis.dilation < axis.size for t in range(axis.kernel)):
                return False
    return True


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=300, deadline=None)
@given(window(), seeds, st.booleans())
def test_max_pool_its_switches_and_its_residual_are_pytorchs(w: Window, seed: int, ties: bool) -> None:
    assume(every_window_meets_the_map(w))
    x = data(w.size, seed, ties=ties)
    ours = pooling.max_pool(x, **w.arguments)
    function = theirs("max_pool", len(w.size))
    options = {"stride": w.stride, "padding": w.padding, "dilation": w.dilation, "ceil_mode": w.ceil_mode}
    values, switches = function(x, w.kernel, return_indices=True, **options)
    assert torch.equal(ours.values, values)
    assert torch.equal(ours.switches, switches)
    residual = torch.randn_like(values)
    (expected,) = by_autograd(lambda x: function(x, w.kernel, **options), [x], residual)
    assert_equal(pooling.max_pool_backward(residual, ours.switches, w.size), expected)


@settings(max_examples=300, deadline=None)
@given(window(dilated=False), seeds, st.booleans(), st.none() | st.integers(1, 9))
def test_average_pool_and_its_residual_are_pytorchs(
    w: Window, seed: int, count_padding: bool, divisor: int | None
) -> None:
    if len(w.size) == 1:
        divisor = None  # PyTorch has none in one dimension,
    if len(w.size) == 3:  # and in three no kernel that is larger than the map without its padding
        assume(all(k <= n for k, n in zip(w.kernel, w.size, strict=True)))
    x = data(w.size, seed)
    function = theirs("avg_pool", len(w.size))
    options: dict[str, Any] = dict(stride=w.stride, padding=w.padding, ceil_mode=w.ceil_mode)
    options["count_include_pad"] = count_padding
    if divisor is not None:
        options["divisor_override"] = divisor
    arguments = {**w.arguments, "count_padding": count_padding, "divisor": divisor}
    values = function(x, w.kernel, **options)
    assert_equal(pooling.average_pool(x, **arguments), values)
    residual = torch.randn_like(values)
    (expected,) = by_autograd(lambda x: function(x, w.kernel, **options), [x], residual)
    assert_equal(pooling.average_pool_backward(residual, w.size, **arguments), expected)


def by_definition(x: Tensor, w: Window, pool: Any) -> Tensor:
    """Window by window; `pool` gets the cells that are on the map, and how many taps on map and padding."""
    made = axes(w.size, w.kernel, stride=w.stride, padding=w.padding, dilation=w.dilation)
    counts = [axis.out_ceil if w.ceil_mode else axis.out for axis in made]
    out = x.new_empty(*x.shape[:2], *counts)
    for place in product(*map(range, counts)):
        cells, taps = [], 0
        for tap in product(*map(range, w.kernel)):
            at = [o * a.stride - a.before + t * a.dilation for o, t, a in zip(place, tap, made, strict=True)]
            taps += all(p < a.size + a.after for p, a in zip(at, made, strict=True))
            if all(0 <= p < a.size for p, a in zip(at, made, strict=True)):
                cells.append(x[(..., *at)])
        out[(..., *place)] = pool(torch.stack(cells), taps)
    return out


@settings(max_examples=200, deadline=None)
@given(window(uneven=True), seeds)
def test_pooling_is_its_definition_also_where_pytorch_has_none(w: Window, seed: int) -> None:
    """Wider and uneven padding; refused exactly where some window holds no cell of the map."""
    x = data(w.size, seed)
    if not every_window_meets_the_map(w):
        for pool in (pooling.max_pool, pooling.average_pool):
            with pytest.raises(ValueError, match="holds no cell of the map"):
                pool(x, **w.arguments)
        return
    largest = by_definition(x, w, lambda cells, taps: cells.amax(0))
    pooled = pooling.max_pool(x, **w.arguments)
    assert torch.equal(pooled.values, largest)
    assert torch.equal(x.flatten(2).gather(2, pooled.switches.flatten(2)), largest.flatten(2))
    assert_equal(
        pooling.average_pool(x, **w.arguments), by_definition(x, w, lambda cells, taps: cells.sum(0) / taps)
    )
    assert_equal(
        pooling.average_pool(x, **w.arguments, count_padding=False),
        by_definition(x, w, lambda cells, taps: cells.mean(0)),
    )


@settings(max_examples=100, deadline=None)
@given(window(uneven=True), seeds, st.booleans())
def test_averaging_back_is_averaging_transposed(w: Window, seed: int, count_padding: bool) -> None:
    """<A x, r> = <x, A' r>, where PyTorch has no padding like this or no dilation."""
    assume(every_window_meets_the_map(w))
    x = data(w.size, seed)
    y = pooling.average_pool(x, **w.arguments, count_padding=count_padding)
    residual = torch.randn_like(y)
    below = pooling.average_pool_backward(residual, w.size, **w.arguments, count_padding=count_padding)
    assert below.shape == x.shape
    there, back = (y * residual).sum(), (x * below).sum()
    assert (there - back).abs() <= 1e-12 * (x.norm() * below.norm() + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), seeds)
def test_unpooling_is_pytorchs_where_windows_do_not_overlap(
    spatial: int, kernel: int, over: int, seed: int
) -> None:
    size = tuple(3 * kernel + min(over, kernel - 1) for _ in range(spatial))
    x = data(size, seed)
    values, switches = pooling.max_pool(x, kernel)
    function = theirs("max_unpool", spatial)
    expected = function(values, switches, kernel, output_size=size)
    assert_equal(pooling.unpool(values, switches, size), expected)
    residual = torch.randn_like(x)
    (below,) = by_autograd(lambda v: function(v, switches, kernel, output_size=size), [values], residual)
    assert_equal(pooling.unpool_backward(residual, switches), below)


def test_unpooling_after_overlapping_windows_keeps_the_last_and_its_gradient_knows() -> None:
    """The 9 wins three windows of kernel 3 at stride 1; the residual there is of what was written last."""
    x = torch.tensor([[[0.0, 1, 9, 2, 3]]], dtype=torch.float64)
    _, switches = pooling.max_pool(x, 3, stride=1)
    assert switches.tolist() == [[[2, 2, 2]]]
    values = torch.tensor([[[5.0, 6, 7]]], dtype=torch.float64)
    assert pooling.unpool(values, switches, (5,)).tolist() == [[[0, 0, 7, 0, 0]]]
    assert pooling.unpool_backward(torch.arange(5.0)[None, None], switches).tolist() == [[[0, 0, 2]]]


def test_pool_then_unpool_keeps_exactly_the_maxima() -> None:
    x = data((6, 8), 0)
    values, switches = pooling.max_pool(x, 2)
    back = pooling.unpool(values, switches, (6, 8))
    assert torch.equal(pooling.max_pool(back.abs(), 2).values, values.abs())
    assert ((back == 0) | (back == x)).all()
    assert (back != 0).sum() == values.numel()


def test_the_worked_example_of_max_pooling() -> None:
    """[[1,8,7,2]] -> 8 and so on; the residual goes where the maxima were."""
    values, switches = pooling.max_pool(WORKED[None, None], 2)
    assert values[0, 0].tolist() == [[8, 9], [8, 6]]
    residual = torch.tensor([[[[7.0, 3], [1, 4]]]], dtype=torch.float64)
    below = pooling.max_pool_backward(residual, switches, (4, 4))
    assert below[0, 0].tolist() == [[0, 7, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0], [1, 0, 4, 0]]


def test_the_worked_example_of_average_pooling() -> None:
    """(1 + 8 + 7 + 2) / 4 = 4.5 and so on; a quarter of the residual goes to each cell."""
    assert pooling.average_pool(WORKED[None, None], 2)[0, 0].tolist() == [[4.5, 4.25], [5.5, 3]]
    residual = torch.tensor([[[[8.0, 4], [16, 4]]]], dtype=torch.float64)
    below = pooling.average_pool_backward(residual, (4, 4), 2)
    assert below[0, 0].tolist() == [[2, 2, 1, 1], [2, 2, 1, 1], [4, 4, 1, 1], [4, 4, 1, 1]]


@pytest.mark.parametrize(
    ("size", "arguments", "expected"),
    [  # GoogLeNet's pool1 and SqueezeNet's; then a window clipped; then one that would begin in padding
        (112, dict(kernel=3, stride=2), 56),
        (113, dict(kernel=3, stride=2), 56),
        (5, dict(kernel=2, stride=2), 3),
        (2, dict(kernel=3, stride=3, padding=1), 1),
    ],
)
def test_ceil_mode_counts_windows_as_caffe_does(size: int, arguments: Any, expected: int) -> None:
    x = torch.arange(float(size))[None, None]
    assert pooling.max_pool(x, **arguments, ceil_mode=True).values.shape[2] == expected


def test_a_clipped_window_averages_what_it_holds() -> None:
    """[1, 2 | 3, 4 | 5] in pairs: the last window has one cell of its own, and divides by one."""
    x = torch.arange(1.0, 6)[None, None]
    assert pooling.average_pool(x, 2, ceil_mode=True).tolist() == [[[1.5, 3.5, 5]]]


def test_padding_never_wins_even_against_minus_infinity_and_nan_always_does() -> None:
    x = torch.tensor([[[-torch.inf, -torch.inf, 0, torch.nan, 1]]])
    values, switches = pooling.max_pool(x, 3, stride=2, padding=1)
    assert values[0, 0, 0] == -torch.inf
    assert switches.tolist() == [[[0, 3, 3]]]
    assert values[0, 0, 1:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pooling_keeps_the_dtype(dtype: torch.dtype) -> None:
    x = data((5, 6), 0).to(dtype)
    values, switches = pooling.max_pool(x, 3, stride=2, padding=1)
    assert values.dtype == pooling.max_pool_backward(values, switches, (5, 6)).dtype == dtype
    average = pooling.average_pool(x, 3, stride=2, padding=1)
    assert (
        average.dtype == pooling.average_pool_backward(average, (5, 6), 3, stride=2, padding=1).dtype == dtype
    )
    assert pooling.global_average_pool(x).dtype == dtype


def test_an_empty_batch_pools_to_an_empty_batch() -> None:
    x = torch.zeros(0, 3, 6, 6)
    values, switches = pooling.max_pool(x, 2)
    assert values.shape == (0, 3, 3, 3)
    assert pooling.max_pool_backward(values, switches, (6, 6)).shape == x.shape
    assert pooling.average_pool(x, 2).shape == (0, 3, 3, 3)


OVERLAPPING = dict(kernel=(3, 2), stride=(2, 1), padding=(1, 1), ceil_mode=True)


def test_gradients_are_the_derivatives() -> None:
    x, size = data((6, 5), 1), (6, 5)
    assert gradcheck(
        lambda x: pooling.max_pool(x, **OVERLAPPING).values,
        lambda r, x: pooling.max_pool_backward(r, pooling.max_pool(x, **OVERLAPPING).switches, size),
        x,
    )
    for count_padding in (True, False):
        options = {**OVERLAPPING, "count_padding": count_padding}
        assert gradcheck(
            lambda x, options=options: pooling.average_pool(x, **options),
            lambda r, x, options=options: pooling.average_pool_backward(r, size, **options),
            x,
        )
    assert gradcheck(
        pooling.global_average_pool, lambda r, x: pooling.global_average_pool_backward(r, size), x
    )
    values, switches = pooling.max_pool(x, 3, stride=1)  # overlapping: some are written over
    assert gradcheck(
        lambda v: pooling.unpool(v, switches, size),
        lambda r, v: pooling.unpool_backward(r, switches),
        values,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: pooling.max_pool(x.int(), 2), r"maps must be of floating point, got torch.int32"),
        (lambda x: pooling.average_pool(x.bool(), 2), r"maps must be of floating point, got torch.bool"),
        (lambda x: pooling.max_pool(x, 2, padding=-1), r"padding must not be negative, got -1"),
        (lambda x: pooling.max_pool(x, 7), r"kernel \(7, 7\) .* more than the 5"),
        (lambda x: pooling.max_pool(x, (2, 0)), r"kernel must be at least 1 on every axis, got \(2, 0\)"),
        (lambda x: pooling.average_pool(x, 2, stride=0), r"stride must be at least 1"),
        (lambda x: pooling.max_pool(x, 2, padding=2), r"window 0 of 4 holds no cell of the map.*before=2"),
        (
            lambda x: pooling.max_pool(x, 1, stride=3, padding=((0, 0), (0, 4)), ceil_mode=True),
            r"window 2 of 3 holds no cell.*after=4",
        ),
        (lambda x: pooling.average_pool(x, 2, divisor=0), r"divisor must not be 0"),
        (lambda x: pooling.max_pool(x[0, 0], 2), r"maps must be \(N, C, \*spatial\), got shape \(5, 5\)"),
        (lambda x: pooling.max_pool(x, (2, 2, 2)), r"kernel must be one value or 2"),
        (
            lambda x: pooling.max_pool_backward(x, torch.full_like(x, 25, dtype=torch.long), (5, 5)),
            r"switches must point into a map of \(5, 5\), 0..24, got 25..25",
        ),
        (
            lambda x: pooling.unpool(x, torch.zeros(1, 1, 2, 2, dtype=torch.long), (9, 9)),
            r"switches must have shape \(1, 1, 5, 5\), got \(1, 1, 2, 2\)",
        ),
        (
            lambda x: pooling.average_pool_backward(x, (9, 9), 2),
            r"residual must have shape \(1, 1, 4, 4\), got \(1, 1, 5, 5\)",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 1, 5, 5))


# --- the ONNX backend's node cases -------------------------------------------------------------------------

#: What these operators do not do, and why.
NOT_EXPRESSED = {
    "test_maxpool_2d_uint8": "pools integers; these operators are of floating point",
}


def pooling_arguments(case: Case) -> dict[str, Any]:
    """The attributes of a pooling node, as arguments of these functions."""
    a, size = case.attributes, case.inputs[0].shape[2:]  # type: ignore[union-attr]
    pads = a.get("pads", [0] * 2 * len(size))
    padding: Any = tuple(zip(pads[: len(size)], pads[len(size) :], strict=True))
    if a.get("auto_pad") == "SAME_UPPER":
        padding = "same"
    elif a.get("auto_pad") == "SAME_LOWER":
        made = axes(size, a["kernel_shape"], stride=a.get("strides", 1), padding="same")
        padding = tuple((axis.after, axis.before) for axis in made)
    return dict(
        kernel=a["kernel_shape"],
        stride=a.get("strides", 1),
        padding=padding,
        dilation=a.get("dilations", 1),
        ceil_mode=bool(a.get("ceil_mode", 0)),
    )


def column_major(switches: Tensor, x: Tensor) -> Tensor:
    """ONNX's storage_order=1 counts the cells of a map column by column."""
    height, width = x.shape[2:]
    return switches % width * height + switches // width


def maps_before(x: Tensor) -> Tensor:
    """ONNX's switches count through the whole batch: the cells of all maps before each."""
    n = x.shape[0] * x.shape[1]
    return torch.arange(n).reshape(*x.shape[:2], *(1 for _ in x.shape[2:])) * x[0, 0].numel()


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("MaxPool"), ids=str)
def test_onnx_max_pool(case: Case) -> None:
    if case.name in NOT_EXPRESSED:
        with pytest.raises(ValueError, match="floating point"):
            pooling.max_pool(case.inputs[0], **pooling_arguments(case))
        return
    x = case.inputs[0]
    values, switches = pooling.max_pool(x, **pooling_arguments(case))
    if case.attributes.get("storage_order"):
        switches = column_major(switches, x)
    case.check(*(values, switches + maps_before(x))[: len(case.outputs)])


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("AveragePool"), ids=str)
def test_onnx_average_pool(case: Case) -> None:
    include = bool(case.attributes.get("count_include_pad"))
    case.check(pooling.average_pool(case.inputs[0], **pooling_arguments(case), count_padding=include))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("LpPool"), ids=str)
def test_onnx_lp_pool_is_a_sum_of_powers(case: Case) -> None:
    p = case.attributes["p"]
    sums = pooling.average_pool(case.inputs[0].abs() ** p, **pooling_arguments(case), divisor=1)
    case.check(sums ** (1 / p))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("GlobalAveragePool"), ids=str)
def test_onnx_global_average_pool(case: Case) -> None:
    case.check(pooling.global_average_pool(case.inputs[0]))


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("GlobalMaxPool"), ids=str)
def test_onnx_global_max_pool_is_one_window(case: Case) -> None:
    x = case.inputs[0]
    case.check(pooling.max_pool(x, x.shape[2:]).values)


@pytest.mark.reference
@pytest.mark.parametrize("case", cases("MaxUnpool"), ids=str)
def test_onnx_max_unpool(case: Case) -> None:
    values, switches, *size = case.inputs
    strides, kernel = case.attributes["strides"], case.attributes["kernel_shape"]
    natural = [s * (n - 1) + k for s, n, k in zip(strides, values.shape[2:], kernel, strict=True)]
    unpooled = pooling.unpool(values, switches, natural)
    if size:  # the suite counts its switches through the natural size, and puts zeros after that map
        after = [(0, int(n) - m) for n, m in zip(size[0][2:], natural, strict=True)]
        unpooled = pad(unpooled, after)
    case.check(unpooled)


@pytest.mark.reference
def test_the_suite_was_found() -> None:
    """A parametrised test without cases would pass in silence."""
    names = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "MaxUnpool")
    names += ("LRN", "BatchNormalization", "Relu", "Sigmoid", "Tanh", "Softmax", "SoftmaxCrossEntropyLoss")
    names += ("RoiAlign", "DeformConv", "NonMaxSuppression")
    least = (19, 20, 8, 2, 2, 2, 2, 4, 1, 2, 2, 7, 34, 3, 4, 10)
    for name, count in zip(names, least, strict=True):
        assert len(cases(name)) >= count, name
    assert {case.name for case in cases("MaxPool")} >= set(NOT_EXPRESSED)
