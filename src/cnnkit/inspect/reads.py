"""What each operator reads: its effect on receptive fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from cnnkit.inspect.axes import Axis, grouped
from cnnkit.inspect.geometry import each, geometry
from cnnkit.inspect.graph import Node, Value
from cnnkit.inspect.lines import Line, Taps
from cnnkit.inspect.moves import MOVED, same
from cnnkit.inspect.operators import names
from cnnkit.inspect.walk import Field, Found, Rule, Walk, along


def channels(walk: Walk, field: Field, dim: int, groups: int, results: int) -> Field:
    """Each result channel reads the channels of its group."""
    if not any(dim in axis.dims for axis in field):
        return field
    if groups == 1:
        return walk.mixed(field, (dim,))
    found = []
    for axis in field:
        if dim in axis.dims:
            lo, hi = grouped(axis.line, axis.dims.index(dim), groups, results)
            axis = Axis(axis.dims, Line.of(lo, hi, axis.line.pattern))
        found.append(axis)
    return tuple(found)


def convolution(walk: Walk, node: Node, x: Value, weight: Value, *_: Any, **__: Any) -> Found:
    """A window over the image, transposed or not, and all channels of the group."""
    if weight in walk.of:
        return walk.everything((x, weight))
    out, rank = node.outs[0], len(weight.shape) - 2
    dim, field, groups = len(x.shape) - rank - 1, walk.of[x], 1
    if node.op not in POINTS or (*weight.shape[2:], *node.args[3:5]) not in POINTS[node.op]:
        field = windowed(walk, node, x)
    for axis in field:
        if dim in axis.dims:
            found = geometry(node)
            groups = found.groups if found is not None else 1
            return channels(walk, field, dim, groups, out.shape[dim])
    return field


#: The kernel, stride and padding of convolutions that read nothing but their own place, as they are written.
POINTS: Mapping[str, Any] = {
    "conv2d": {(1, 1), (1, 1, (1, 1)), (1, 1, (1, 1), (0, 0)), (1, 1, 1, 0)},
    "conv1d": {(1,), (1, (1,)), (1, (1,), (0,)), (1, 1, 0)},
}


def windowed(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Field:
    """A window over the image, each channel for itself."""
    found, field = geometry(node), walk.of[x]
    if found is None:
        raise TypeError(f"{node.op} has no window")
    first = len(x.shape) - len(found.kernel)
    settings = zip(found.kernel, found.stride, found.padding, found.dilation, strict=True)
    for i, setting in enumerate(settings):
        results, read = node.outs[0].shape[first + i], Line.transposed if found.transposed else Line.window
        field = along(field, first + i, read, results, *setting)
    return field


def located(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Field:
    """A maximum pooling that says where the maxima were, for an unpooling to come."""
    walk.located[node.outs[1]] = node
    return windowed(walk, node, x)


def unpooled(walk: Walk, node: Node, x: Value, places: Value, size: Any) -> Found:
    """Each number goes back to where its maximum was, which may be anywhere in the window."""
    pooling = walk.located.get(places)
    found = None if pooling is None else geometry(pooling)
    if x not in walk.of or found is None:
        return walk.everything((x,))
    field, first = walk.of[x], len(x.shape) - len(found.kernel)
    settings = zip(found.kernel, found.stride, found.padding, found.dilation, strict=True)
    for dim, setting in enumerate(settings, start=first):
        field = along(field, dim, Line.transposed, node.outs[0].shape[dim], *setting)
    return field


def adaptive(walk: Walk, node: Node, x: Value, size: Any) -> Found:
    """Bins over the image; a single bin reads it all."""
    rank = len(each(size, 1))
    results, dims = node.outs[0].shape, range(len(x.shape) - rank, len(x.shape))
    field = walk.mixed(walk.of[x], [dim for dim in dims if results[dim] == 1])
    for dim in dims:
        if 1 != results[dim] != x.shape[dim]:
            field = along(field, dim, Line.adaptive, results[dim])
    return field


@lru_cache(256)
def probed(op: Any, inputs: int, results: int, settings: tuple[Any, ...]) -> Taps:
    """The taps of an interpolation along one axis, found by enlarging unit impulses."""
    flat = {1: (), 2: (1,), 3: (1, 1)}[settings[0]]
    impulses = torch.eye(inputs, dtype=torch.float64).reshape(1, inputs, inputs, *flat)
    scales = None if settings[1] is None else [settings[1], *(1.0 for _ in flat)]
    size = None if scales else [results, *flat]
    align = () if settings[2] is None else (settings[2],)
    weights = op(impulses, size, *align, scales).reshape(inputs, results).numpy() != 0
    reads = np.where(weights.T, np.arange(inputs), -1)
    return Taps.of(reads, inputs)


def interpolation(walk: Walk, node: Node, x: Value, size: Any, *rest: Any) -> Found:
    """The neighbours that each enlarged pixel is made of."""
    if node.func._overloadname != "vec":
        walk.unknown.add(node.op)
        return walk.everything((x,))
    *align, scales = rest if rest else (None,)
    rank = len(x.shape) - 2
    field = walk.of[x]
    for i in range(rank):
        inputs, results = x.shape[2 + i], node.outs[0].shape[2 + i]
        settings = (rank, None if scales is None else scales[i], align[0] if align else None)
        taps = probed(node.func, inputs, results, settings)
        times = results // inputs if "nearest" in node.op and results % inputs == 0 else 0
        field = along(field, 2 + i, enlarged, taps, times)
    return field


def enlarged(line: Line, taps: Taps, times: int) -> Line:
    """A line after interpolation; nearest neighbours by a whole factor keep the pattern."""
    return line.read(taps, line.pattern.repeated(times) if times and line.pattern else None)


def dims_of(x: Value, dims: int | Iterable[int] | None) -> tuple[int, ...]:
    """Dimensions as numbers from 0; none means all."""
    if dims is None or dims == ():
        return tuple(range(len(x.shape)))
    return tuple(d % len(x.shape) for d in ([dims] if isinstance(dims, int) else dims))


def reduction(walk: Walk, node: Node, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Found:
    """Sums, means, maxima over dimensions."""
    keep = len(node.outs[0].shape) == len(x.shape)
    return walk.reduced(walk.of[x], dims_of(x, dims), keep=keep)


def vector_norm(
    walk: Walk, node: Node, x: Value, order: Any = 2, dims: Any = None, *_: Any, **__: Any
) -> Found:
    """A norm over dimensions."""
    return reduction(walk, node, x, dims)


def spread(walk: Walk, node: Node, x: Value, dim: Any = -1, *_: Any, **__: Any) -> Found:
    """Softmax, sorting, running sums: every result along a dimension reads all of it."""
    return walk.reduced(walk.of[x], dims_of(x, dim), keep=len(node.outs[0].shape) == len(x.shape))


def ranked(walk: Walk, node: Node, x: Value, k: Any, dim: Any = -1, *_: Any, **__: Any) -> Found:
    """The largest of a dimension."""
    return spread(walk, node, x, dim)


def normed(walk: Walk, x: Value, dims: Iterable[int]) -> Field:
    """A number and statistics over dimensions."""
    field = walk.of[x]
    return walk.united(field, walk.mixed(field, dims))


def layer_norm(walk: Walk, node: Node, x: Value, shape: Sequence[int], *_: Any, **__: Any) -> Found:
    """Statistics over the last dimensions."""
    rank = len(x.shape)
    return normed(walk, x, range(rank - len(shape), rank))


def group_norm(walk: Walk, node: Node, x: Value, *args: Any, **_: Any) -> Found:
    """Statistics over the channels of a group and all places."""
    groups = args[0] if node.op == "group_norm" else args[-2]
    field = channels(walk, walk.of[x], 1, groups, x.shape[1])
    statistics = walk.mixed(field, range(2, len(x.shape)))
    return walk.united(walk.of[x], statistics)


def batch_norm(
    walk: Walk,
    node: Node,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool = False,
    *_: Any,
) -> Found:
    """Nothing but itself with stored statistics; the whole batch without."""
    if not training:
        return walk.of[x]
    return normed(walk, x, [d for d in range(len(x.shape)) if d != 1])


def linear(walk: Walk, node: Node, x: Value, weight: Value, bias: Value | None = None) -> Found:
    """All of the last dimension."""
    if weight in walk.of:
        return walk.everything(node.inputs)
    return walk.mixed(walk.of[x], (len(x.shape) - 1,)) if x in walk.of else None


def product(walk: Walk, node: Node, a: Value, b: Value, **_: Any) -> Found:
    """Rows of the one and columns of the other."""
    out = len(node.outs[0].shape)
    found: Field | None = None
    if min(len(a.shape), len(b.shape)) < 2:
        return walk.everything(node.inputs)
    for value, summed in ((a, len(a.shape) - 1), (b, len(b.shape) - 2)):
        if value in walk.of:
            ahead = out - len(value.shape)
            field = tuple(axis.shifted(ahead) for axis in walk.mixed(walk.of[value], (summed,)))
            found = field if found is None else walk.united(found, field)
    return found


def added_product(walk: Walk, node: Node, x: Value, a: Value, b: Value, **_: Any) -> Found:
    """A matrix product onto something."""
    if node.op in ("addbmm", "addmv"):
        return walk.everything(node.inputs)
    fields = [walk.joined(node.outs[0], (x,)), product(walk, node, a, b)]
    seeing = [field for field in fields if isinstance(field, tuple)]
    return walk.united(*seeing) if len(seeing) > 1 else seeing[0]


def attention(walk: Walk, node: Node, query: Value, key: Value, value: Value, *_: Any, **__: Any) -> Found:
    """Each query reads itself, all keys and all values."""
    rank = len(query.shape)
    found: Field | None = None
    for source, dims in ((query, (rank - 1,)), (key, (rank - 2, rank - 1)), (value, (rank - 2,))):
        if source in walk.of:
            field = walk.mixed(walk.of[source], dims)
            found = field if found is None else walk.united(found, field)
    return found


def beside(walk: Walk, node: Node, x: Value, *_: Any, **__: Any) -> Found:
    """Element by element, though PyTorch does not say so."""
    return walk.joined(node.outs[0], node.inputs)


def embedding(walk: Walk, node: Node, weight: Value, index: Value, *_: Any, **__: Any) -> Found:
    """A vector for each index."""
    return walk.of.get(index)


def everything(walk: Walk, node: Node, *_: Any, **__: Any) -> Found:
    """Any element may be read: where a grid, boxes or offsets decide."""
    return walk.everything(node.inputs)


#: The rule of each operator that is not element-wise.
RULES: Mapping[str, Rule] = {
    **MOVED,
    **dict.fromkeys(names("conv1d conv2d conv3d convolution _convolution"), convolution),
    **dict.fromkeys(names("conv_transpose1d conv_transpose2d conv_transpose3d"), convolution),
    **dict.fromkeys(names("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d"), windowed),
    **dict.fromkeys(names("max_pool2d_with_indices max_pool3d_with_indices"), located),
    **dict.fromkeys(names("max_unpool2d max_unpool3d"), unpooled),
    **dict.fromkeys(names("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"), adaptive),
    **dict.fromkeys(names("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"), adaptive),
    **dict.fromkeys(names("upsample_nearest1d upsample_nearest2d upsample_nearest3d"), interpolation),
    **dict.fromkeys(names("upsample_linear1d upsample_bilinear2d upsample_trilinear3d"), interpolation),
    **dict.fromkeys(
        names("upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"), interpolation
    ),
    **dict.fromkeys(names("sum mean amax amin max min prod argmax argmin all any nansum"), reduction),
    **dict.fromkeys(names("count_nonzero var std var_mean std_mean logsumexp"), reduction),
    **dict.fromkeys(names("norm linalg_vector_norm"), vector_norm),
    **dict.fromkeys(names("softmax log_softmax _softmax _log_softmax cumsum cumprod glu"), spread),
    **dict.fromkeys(names("sort median"), spread),
    **dict.fromkeys(names("topk kthvalue"), ranked),
    **dict.fromkeys(names("layer_norm native_layer_norm rms_norm"), layer_norm),
    **dict.fromkeys(names("group_norm native_group_norm"), group_norm),
    **dict.fromkeys(names("batch_norm native_batch_norm"), batch_norm),
    **dict.fromkeys(names("_native_batch_norm_legit_no_training dropout"), same),
    **dict.fromkeys(names("matmul mm bmm"), product),
    **dict.fromkeys(names("addmm addbmm baddbmm addmv"), added_product),
    **dict.fromkeys(names("scaled_dot_product_attention _scaled_dot_product_attention_math"), attention),
    **dict.fromkeys(names("tril triu"), beside),
    **dict.fromkeys(names("grid_sampler grid_sampler_2d grid_sampler_3d deform_conv2d"), everything),
    **dict.fromkeys(names("roi_align roi_pool ps_roi_align index_put scatter as_strided"), everything),
    "repeat_interleave": everything,
    **dict.fromkeys(names("scatter_add scatter_reduce index_add index_copy searchsorted"), everything),
    **dict.fromkeys(names("mv dot vdot inner bilinear cdist _cdist_forward"), everything),
    "_adaptive_avg_pool2d": adaptive,
    "_upsample_nearest_exact2d": interpolation,
    "linear": linear,
    "embedding": embedding,
}
