"""PyTorch's modules, computing forward and backward with the functions of `ops`.

`MODULES` maps each kind to a subclass of it that has another `forward` and nothing else: parameters, buffers,
names and hooks are as they were, and so are PyTorch's conventions (alpha over the size in
`LocalResponseNorm`, the weight of the new batch in BatchNorm's momentum).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cnnkit.layers import ResponseNorm
from cnnkit.ops import activations, losses, normalisation, pooling, pyramid
from cnnkit.ops.convolution import bias_gradient, correlate, images_gradient, kernels_gradient
from cnnkit.ops.fully_connected import linear, linear_backward
from cnnkit.ops.masks import dropout
from cnnkit.ops.shapes import Axis, transposed_size
from cnnkit.ops.transposed import correlate_transposed, correlate_transposed_backward

#: The inputs to the value, and what the gradient needs to know again.
Value = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
#: The residual and what was kept to the gradients of the inputs, in their order; None where nobody asks.
Gradients = Callable[..., tuple[Tensor | None, ...]]


class Derived(torch.autograd.Function):
    """An operator with its derived gradient: `Derived.apply(value, gradients, *inputs)`."""

    @staticmethod
    def forward(ctx: Any, value: Value, gradients: Gradients, *inputs: Tensor) -> Tensor:
        result, kept = value(*inputs)
        ctx.gradients = gradients
        ctx.save_for_backward(*kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, residual: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.gradients(residual, *ctx.saved_tensors)


def _convolution(self: Any, x: Tensor) -> Tensor:
    _require_rank(self, x)
    options = _sliding(self)
    reads = x.requires_grad  # the first layer's images want no gradient
    bias = [] if self.bias is None else [self.bias]

    def value(x: Tensor, kernels: Tensor, *bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return correlate(x, kernels, *bias, **options), (x, kernels)

    def gradients(residual: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor | None, ...]:
        below = images_gradient(residual, kernels, x.shape[2:], **options) if reads else None
        own = kernels_gradient(residual, x, kernels.shape[2:], **options)
        return below, own, *(bias_gradient(residual) for _ in bias)

    return Derived.apply(value, gradients, x, self.weight, *bias)


def _transposed_convolution(self: Any, x: Tensor, output_size: list[int] | None = None) -> Tensor:
    _require_rank(self, x)
    options = _sliding(self)
    options["output_padding"] = self._output_padding(
        x, output_size, self.stride, self.padding, self.kernel_size, x.dim() - 2, self.dilation
    )
    bias = [] if self.bias is None else [self.bias]

    def value(x: Tensor, kernels: Tensor, *bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return correlate_transposed(x, kernels, *bias, **options), (x, kernels)

    def gradients(residual: Tensor, x: Tensor, kernels: Tensor) -> tuple[Tensor | None, ...]:
        return correlate_transposed_backward(residual, x, kernels, **options)[: 2 + len(bias)]

    return Derived.apply(value, gradients, x, self.weight, *bias)


def _linear(self: Any, x: Tensor) -> Tensor:
    bias = [] if self.bias is None else [self.bias]

    def gradients(residual: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        return linear_backward(residual, x, weight)[: 2 + len(bias)]

    return Derived.apply(lambda *inputs: (linear(*inputs), inputs[:2]), gradients, x, self.weight, *bias)


def _max_pool(self: Any, x: Tensor) -> Any:
    _require_rank(self, x)
    pooled = pooling.max_pool(
        x.detach(),
        self.kernel_size,
        stride=self.stride,
        padding=self.padding,
        dilation=self.dilation,
        ceil_mode=self.ceil_mode,
    )
    return _chosen(x, pooled, self.return_indices)


def _adaptive_max_pool(self: Any, x: Tensor) -> Any:
    _require_rank(self, x)
    return _chosen(x, pyramid.adaptive_max_pool(x.detach(), _counts(self, x)), self.return_indices)


def _chosen(x: Tensor, pooled: pooling.Pooled, return_indices: bool) -> Any:
    size = x.shape[2:]

    def gradients(residual: Tensor, switches: Tensor) -> tuple[Tensor]:
        return (pooling.max_pool_backward(residual, switches, size),)

    values = Derived.apply(lambda x: (pooled.values, (pooled.switches,)), gradients, x)
    return (values, pooled.switches) if return_indices else values


def _max_unpool(self: Any, x: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
    _require_rank(self, x)
    axes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.padding, strict=True)
    size = (
        [transposed_size(Axis(*axis)) for axis in axes] if output_size is None else output_size[2 - x.dim() :]
    )

    def gradients(residual: Tensor, indices: Tensor) -> tuple[Tensor]:
        return (pooling.unpool_backward(residual, indices),)

    return Derived.apply(lambda x: (pooling.unpool(x, indices, size), (indices,)), gradients, x)


def _average_pool(self: Any, x: Tensor) -> Tensor:
    _require_rank(self, x)
    size = x.shape[2:]
    options: dict[str, Any] = dict(
        kernel=self.kernel_size,
        stride=self.stride,
        padding=self.padding,
        ceil_mode=self.ceil_mode,
        count_padding=self.count_include_pad,
        divisor=getattr(self, "divisor_override", None),
    )
    return Derived.apply(
        lambda x: (pooling.average_pool(x, **options), ()),
        lambda residual: (pooling.average_pool_backward(residual, size, **options),),
        x,
    )


def _adaptive_average_pool(self: Any, x: Tensor) -> Tensor:
    _require_rank(self, x)
    counts, size = _counts(self, x), x.shape[2:]
    return Derived.apply(
        lambda x: (pyramid.adaptive_average_pool(x, counts), ()),
        lambda residual: (pyramid.adaptive_average_pool_backward(residual, size),),
        x,
    )


def _batch_norm(self: Any, x: Tensor) -> Tensor:
    self._check_input_dim(x)
    scale = x.new_ones(self.num_features) if self.weight is None else self.weight
    shift = x.new_zeros(self.num_features) if self.bias is None else self.bias
    options = dict(epsilon=self.eps)
    if self.running_mean is not None and not self.training:
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        values = normalisation.batch_norm_inference(
            x.detach(), scale.detach(), shift.detach(), mean, variance, **options
        )
        gradients = partial(normalisation.batch_norm_inference_backward, **options)
    else:
        values, mean, variance = normalisation.batch_norm(
            x.detach(), scale.detach(), shift.detach(), **options
        )
        gradients = partial(normalisation.batch_norm_backward, **options)
        if self.running_mean is not None:
            _follow(self, normalisation.Normalised(values, mean, variance))
    return Derived.apply(lambda *inputs: (values, (*inputs[:2], mean, variance)), gradients, x, scale, shift)


def _follow(self: Any, batch: normalisation.Normalised) -> None:
    """Move the running averages; without a momentum they are plain means of all batches so far."""
    self.num_batches_tracked += 1
    momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
    moved = normalisation.running_statistics(self.running_mean, self.running_var, batch, momentum=momentum)
    self.running_mean.copy_(moved[0])
    self.running_var.copy_(moved[1])


def _local_response_norm(self: Any, x: Tensor) -> Tensor:
    constants = dict(size=self.size, alpha=self.alpha / self.size, beta=self.beta, k=self.k)
    return Derived.apply(
        lambda x: (normalisation.local_response_norm(x, **constants), (x,)),
        lambda residual, x: (normalisation.local_response_norm_backward(residual, x, **constants),),
        x,
    )


def _response_norm(self: Any, x: Tensor) -> Tensor:
    constants = dict(alpha=self.alpha, k=self.k)
    return Derived.apply(
        lambda x: (normalisation.local_response_norm(x, **constants), (x,)),
        lambda residual, x: (normalisation.local_response_norm_backward(residual, x, **constants),),
        x,
    )


def _dropout(self: Any, x: Tensor) -> Tensor:
    """The mask is drawn as PyTorch draws it: with the same seed, the same units are dropped."""
    if not self.training or self.p == 0:
        return x
    a_map = isinstance(self, nn.Dropout2d)
    mask = (x.new_empty(*x.shape[:2], 1, 1) if a_map else torch.empty_like(x)).bernoulli_(1 - self.p)
    keep = 1 - self.p
    return Derived.apply(
        lambda x: (dropout(x, mask, keep=keep), (mask,)),
        lambda residual, mask: (dropout(residual, mask, keep=keep),),
        x,
    )


def _cross_entropy(self: Any, input: Tensor, target: Tensor) -> Tensor:
    if self.label_smoothing or target.is_floating_point():
        raise ValueError("the loss of `ops` takes class numbers, neither probabilities nor label_smoothing")
    options = dict(weights=self.weight, ignore=self.ignore_index, reduction=self.reduction)
    return Derived.apply(
        lambda logits: (losses.cross_entropy(logits, target, **options), (logits, target)),
        lambda residual, *kept: (losses.cross_entropy_backward(residual, *kept, **options),),
        input,
    )


def _by_values(f: Callable[..., Tensor], backward: Callable[..., Tensor], **options: Any) -> Any:
    """The forward of an activation whose gradient is told by its values."""

    def forward(self: Any, x: Tensor) -> Tensor:
        def value(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            values = f(x, **options)
            return values, (values,)

        return Derived.apply(value, lambda residual, y: (backward(residual, y, **options),), x)

    return forward


def _silu(self: Any, x: Tensor) -> Tensor:
    return Derived.apply(
        lambda x: (activations.silu(x), (x,)),
        lambda residual, x: (activations.silu_backward(residual, x),),
        x,
    )


def _softmax(self: Any, x: Tensor) -> Tensor:
    if self.dim is None:
        raise ValueError(f"{type(self).__name__} must say its dim")
    logarithm = isinstance(self, nn.LogSoftmax)
    f = losses.log_softmax if logarithm else losses.softmax
    backward = losses.log_softmax_backward if logarithm else losses.softmax_backward
    return _by_values(f, backward, axis=self.dim)(self, x)


def _sliding(self: Any) -> dict[str, Any]:
    algorithm = self.algorithm
    plain = set(self.kernel_size) == {3} and set(self.stride) == set(self.dilation) == {1}
    if algorithm.startswith("winograd") and not plain:
        algorithm = "im2col"
    return dict(
        stride=self.stride,
        padding=self.padding,
        dilation=self.dilation,
        groups=self.groups,
        algorithm=algorithm,
    )


def _counts(self: Any, x: Tensor) -> tuple[int, ...]:
    sizes = x.shape[2:]
    asked = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * len(sizes)
    return tuple(size if count is None else count for count, size in zip(asked, sizes, strict=True))


def _require_rank(self: Any, x: Tensor) -> None:
    rank = int(type(self).__name__[-2])
    if x.dim() != rank + 2:
        raise ValueError(
            f"{type(self).__name__} takes (N, C, *spatial) of {rank + 2} axes, got {tuple(x.shape)}"
        )


_FORWARDS: dict[type[nn.Module], Any] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d), _transposed_convolution),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _max_pool),
    **dict.fromkeys((nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d), _max_unpool),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average_pool),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), _adaptive_max_pool),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _adaptive_average_pool
    ),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d), _dropout),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), _softmax),
    nn.Linear: _linear,
    nn.LocalResponseNorm: _local_response_norm,
    ResponseNorm: _response_norm,
    nn.ReLU: _by_values(activations.relu, activations.relu_backward),
    nn.ReLU6: _by_values(activations.relu, activations.relu_backward, ceiling=6.0),
    nn.Sigmoid: _by_values(activations.sigmoid, activations.sigmoid_backward),
    nn.Tanh: _by_values(activations.tanh, activations.tanh_backward),
    nn.SiLU: _silu,
    nn.CrossEntropyLoss: _cross_entropy,
}

MODULES: dict[type[nn.Module], type[nn.Module]] = {
    kind: type(kind.__name__, (kind,), {"forward": forward, "__module__": __name__})
    for kind, forward in _FORWARDS.items()
}
