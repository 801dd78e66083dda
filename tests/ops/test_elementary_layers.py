"""Pooling, normalisation, losses and the rest call no operator of PyTorch that they define themselves."""

import torch
from tests.ops.test_elementary import DEFINED_HERE, Called

from cnnkit import ops

X = torch.randn(2, 3, 8, 8)
ONES = torch.ones(3)


def everything() -> None:
    values, switches = ops.max_pool(X, 3, stride=2, padding=1, ceil_mode=True)
    ops.max_pool_backward(values, switches, (8, 8))
    ops.unpool_backward(ops.unpool(values, switches, (8, 8)), switches)
    average = ops.average_pool(X, 3, stride=2, padding=1, count_padding=False)
    ops.average_pool_backward(average, (8, 8), 3, stride=2, padding=1, count_padding=False)
    ops.global_average_pool_backward(ops.global_average_pool(X), (8, 8))
    ops.adaptive_average_pool_backward(ops.adaptive_average_pool(X, 3), (8, 8))
    ops.pyramid_pool(X)
    rois = torch.tensor([[0.0, 1, 1, 6, 5]])
    values, switches = ops.roi_max_pool(X, rois, 2, scale=0.5)
    ops.roi_max_pool_backward(values, switches, rois, X.shape)
    batch = ops.batch_norm(X, ONES, ONES)
    ops.batch_norm_backward(X, X, ONES, batch.mean, batch.variance)
    ops.batch_norm_inference_backward(X, X, ONES, batch.mean, batch.variance)
    ops.running_statistics(ONES, ONES, batch)
    ops.local_response_norm_backward(ops.local_response_norm(X), X)
    for name in ("sigmoid", "tanh", "scaled_tanh", "relu", "silu"):
        getattr(ops, f"{name}_backward")(X, getattr(ops, name)(X))
    ops.dropout(X, X > 0, keep=0.5)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    ops.cross_entropy_backward(ops.cross_entropy(X, labels), X, labels)
    ops.softmax_backward(X, ops.softmax(X))
    ops.log_softmax_backward(X, ops.log_softmax(X))
    weight = torch.randn(5, 8)
    ops.linear_backward(ops.linear(X, weight, torch.zeros(5)), X, weight)
    ops.unrolled(torch.randn(2, 3, 3, 3), (8, 8), padding=1)
    ops.edges(X, "sobel")
    ops.matched_filter(X, X[0, 0, :3, :3])
    ops.gabor(4, 0)


def test_no_operator_of_pytorch_is_called_that_is_defined_here() -> None:
    forbidden = (*DEFINED_HERE, "softmax", "sigmoid", "tanh", "relu", "silu", "cross_entropy", "nll")
    with Called() as called:
        everything()
    assert len(called.names) > 20
    assert [each for each in called.names if any(part in each for part in forbidden)] == []
