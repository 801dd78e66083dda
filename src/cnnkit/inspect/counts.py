"""What an operator costs.

MACs are the multiply-adds of convolutions, linear layers and products of matrices, attention included; biases
are not among them. FLOPs are twice the MACs. All other arithmetic is counted apart, as `other`: one operation
for each number that an element-wise operator makes, whatever the function; one for each that a sum or maximum
reads; what the rule below says for the rest. Moving numbers is free.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cnnkit.inspect.graph import Node, Value
from cnnkit.inspect.operators import FORGETS, MOVES


@dataclass(slots=True)
class Cost:
    """Arithmetic of one operator.

    Attributes:
        macs: multiply-adds of convolutions, linear layers and matrix products.
        other: operations of everything else.
    """

    macs: int
    other: int


def cost(node: Node) -> Cost | None:
    """What a node costs, or None where no rule knows it."""
    rule = RULES.get(node.op)
    if rule is not None:
        return rule(node.outs[0], *node.args, **node.kwargs)
    if node.op in MOVES or node.op in FORGETS:
        return FREE
    if node.pointwise:
        return Cost(0, node.outs[0].numel)
    return None


FREE = Cost(0, 0)


def convolution(out: Value, x: Value, weight: Value, bias: Value | None = None, *_: Any, **__: Any) -> Cost:
    """Each result sums over the kernel and the channels of its group."""
    read = weight.numel // (weight.shape[0] or 1)
    return Cost(out.numel * read, out.numel if bias is not None else 0)


def transposed(out: Value, x: Value, weight: Value, bias: Value | None = None, *_: Any, **__: Any) -> Cost:
    """Each input is multiplied into the kernel and the results of its group."""
    return Cost(x.numel * math.prod(weight.shape[1:]), out.numel if bias is not None else 0)


def either(
    out: Value,
    x: Value,
    weight: Value,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    flip: bool,
    *_: Any,
) -> Cost:
    """The operator that is both kinds of convolution."""
    return (transposed if flip else convolution)(out, x, weight, bias)


def deformable(out: Value, x: Value, weight: Value, offset: Value, mask: Value, bias: Value, *_: Any) -> Cost:
    """A convolution whose taps lie between the pixels: four products, three sums, one for the mask."""
    taps = out.numel // out.shape[1] * math.prod(weight.shape[2:]) * x.shape[1]
    return Cost(out.numel * math.prod(weight.shape[1:]), 8 * taps + out.numel)


def linear(out: Value, x: Value, weight: Value, bias: Value | None = None) -> Cost:
    """One product of a row and a vector for each result."""
    return Cost(out.numel * weight.shape[-1], out.numel if bias is not None else 0)


def product(out: Value, a: Value, b: Value, *_: Any, **__: Any) -> Cost:
    """Matrix times matrix, vectors and batches included."""
    return Cost(out.numel * a.shape[-1], 0)


def added_product(out: Value, x: Value, a: Value, b: Value, **_: Any) -> Cost:
    """A matrix product onto something; `addbmm` sums over the batch."""
    return Cost(math.prod(a.shape) * (b.shape[-1] if len(b.shape) > 1 else 1), out.numel)


def bilinear(out: Value, x: Value, y: Value, weight: Value, bias: Value | None = None) -> Cost:
    """x W y for each result, from the left: W applied to x, then to y."""
    _, left, right = weight.shape
    return Cost(out.numel * (left * right + right), out.numel if bias is not None else 0)


def attention(out: Value, query: Value, key: Value, value: Value, *_: Any, **__: Any) -> Cost:
    """Scores and their mean of the values; scaling and softmax apart."""
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return Cost(scores * (query.shape[-1] + value.shape[-1]), 6 * scores)


def distances(out: Value, a: Value, b: Value, *_: Any) -> Cost:
    """Pairwise: subtract, multiply, add for each coordinate."""
    return Cost(0, 3 * out.numel * a.shape[-1])


def batch_norm(
    out: Value, x: Value, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> Cost:
    """One scale and one shift, into which inference folds everything; with statistics, as other norms."""
    return Cost(0, out.numel * (8 if training else 2))


def norm(out: Value, x: Value, *args: Any, **keywords: Any) -> Cost:
    """Mean and variance take 4 operations, centring and scaling 2, the affine part 2."""
    affine = any(type(a) is Value for a in (*args, *keywords.values()))
    return Cost(0, x.numel * (8 if affine else 6))


def window(out: Value, x: Value, kernel: Iterable[int] = (), *_: Any, **__: Any) -> Cost:
    """A pooling reads its window once for each result."""
    sizes = tuple(kernel)
    sizes = sizes if len(sizes) > 1 else sizes * (2 if len(x.shape) > 3 else 1)
    return Cost(0, out.numel * math.prod(sizes))


def each(operations: int) -> Callable[..., Cost]:
    """So many operations for each result."""
    return lambda out, *_, **__: Cost(0, operations * out.numel)


def read(out: Value, x: Value, *_: Any, **__: Any) -> Cost:
    """One operation for each number read."""
    return Cost(0, x.numel)


def sorting(out: Value, x: Value, *_: Any, **__: Any) -> Cost:
    """Comparisons of sorting along the last dimension: n log2 n."""
    return Cost(0, x.numel * math.ceil(math.log2(max(2, x.shape[-1] if x.shape else 1))))


def searching(out: Value, places: Value, x: Value, *_: Any, **__: Any) -> Cost:
    """Comparisons of finding each number's place by halving."""
    return Cost(0, x.numel * math.ceil(math.log2(max(2, places.shape[-1]))))


def scattered(out: Value, x: Value, dim: int, index: Value, source: Value, *_: Any, **__: Any) -> Cost:
    """One sum for each number that arrives."""
    return Cost(0, source.numel)


def free(*_: Any, **__: Any) -> Cost:
    """Nothing."""
    return FREE


def _named(names: str, rule: Callable[..., Cost]) -> dict[str, Callable[..., Cost]]:
    return dict.fromkeys(names.split(), rule)


#: The rule of each operator that is not element-wise.
RULES: Mapping[str, Callable[..., Cost]] = {
    **_named("conv1d conv2d conv3d", convolution),
    **_named("conv_transpose1d conv_transpose2d conv_transpose3d", transposed),
    **_named("convolution _convolution", either),
    **_named("deform_conv2d", deformable),
    **_named("linear", linear),
    **_named("matmul mm bmm mv dot vdot inner", product),
    **_named("addmm addbmm baddbmm addmv", added_product),
    **_named("bilinear", bilinear),
    **_named("scaled_dot_product_attention _scaled_dot_product_attention_math", attention),
    **_named("_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu", attention),
    **_named("_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention", attention),
    **_named("_scaled_dot_product_fused_attention_overrideable", attention),
    **_named("cdist _cdist_forward", distances),
    **_named("batch_norm native_batch_norm _native_batch_norm_legit", batch_norm),
    **_named("_native_batch_norm_legit_no_training cudnn_batch_norm", each(2)),
    **_named("layer_norm native_layer_norm group_norm native_group_norm", norm),
    **_named("max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices", window),
    **_named("avg_pool1d avg_pool2d avg_pool3d", window),
    **_named("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d", read),
    **_named("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", read),
    **_named("softmax log_softmax _softmax _log_softmax", each(5)),
    **_named(
        "sum mean amax amin max min prod argmax argmin all any nansum count_nonzero cumsum cumprod", read
    ),
    **_named("norm linalg_vector_norm", lambda out, x, *_, **__: Cost(0, 2 * x.numel)),
    **_named("logsumexp", lambda out, x, *_, **__: Cost(0, 4 * x.numel)),
    **_named("var std var_mean std_mean", lambda out, x, *_, **__: Cost(0, 4 * x.numel)),
    **_named("upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d", free),
    **_named("upsample_linear1d", each(3)),
    **_named("upsample_bilinear2d _upsample_bilinear2d_aa grid_sampler_2d grid_sampler", each(7)),
    **_named("upsample_trilinear3d", each(15)),
    **_named("upsample_bicubic2d _upsample_bicubic2d_aa", each(31)),
    **_named("glu", each(2)),
    **_named("rms_norm", each(4)),
    **_named("embedding dropout one_hot overlay max_unpool2d max_unpool3d", free),
    **_named("sort topk kthvalue median", sorting),
    "searchsorted": searching,
    **_named("scatter_add index_add", scattered),
    **_named("embedding_bag", lambda out, weight, index, *_, **__: Cost(0, index.numel * weight.shape[1])),
    **_named("tril triu index_put scatter", each(1)),
}
