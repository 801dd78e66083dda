"""Receptive fields by a second route: where the gradient of a unit with respect to the image is not zero.

The network runs in float64 with positive random weights. Whatever could hide a dependence is replaced by
something with the same inputs and a positive slope: maxima by means, activations by the identity, saturating
ones by a straight line. So nothing cancels, and the support of the gradient is what the unit is connected to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from cnnkit.inspect.axes import hull_of
from cnnkit.inspect.failure import explain
from cnnkit.inspect.graph import Call
from cnnkit.inspect.lines import Line
from cnnkit.inspect.operators import names
from cnnkit.inspect.receptive import Fields, fields
from cnnkit.inspect.trace import trace, tree

#: Activations without a bound, and what has no say in what is seen: replaced by the identity.
OPEN = names(
    """
    relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu selu_ celu gelu silu mish softplus hardswish prelu
    rrelu threshold logsigmoid dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout clamp
    clamp_ clip abs round floor ceil """
)
#: Activations with bounds: replaced by a straight line within 1.
BOUNDED = names("sigmoid sigmoid_ tanh tanh_ hardsigmoid hardtanh hardtanh_ softsign sign sgn erf")


class Positive(TorchFunctionMode):
    """Nothing that a network computes hides what it depends on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16"):
            return args[0].double()
        args, kwargs = tree_map(widened, (args, kwargs))
        if name in OPEN:
            return args[0]
        if name in BOUNDED:
            return args[0] / (1 + args[0].detach().abs().max())
        if name in ("max_pool1d", "max_pool2d", "max_pool3d"):
            return mean_pool(*args, **kwargs)
        if name.startswith("max_pool") and name.endswith("_with_indices"):
            return mean_pool(*args, **kwargs), func(*args, **kwargs)[1]
        if name in ("max_unpool2d", "max_unpool3d"):
            return mean_unpool(*args, **kwargs)
        if name.startswith("adaptive_max_pool"):
            size = args[1] if len(args) > 1 else kwargs["output_size"]
            return getattr(functional, name.split("_with")[0].replace("max", "avg"))(args[0], size)
        if func is functional.pad:  # a border of zeros would hide what it is multiplied with
            mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
            return func(
                args[0],
                args[1] if len(args) > 1 else kwargs["pad"],
                mode,
                1.0 if mode == "constant" else None,
            )
        if name in ("amax", "amin"):
            return torch.mean(*args, **kwargs)
        if name in ("max", "min") and len(args) > 1 and isinstance(args[1], int):
            return torch.return_types.max((torch.mean(*args, **kwargs), func(*args, **kwargs)[1]))
        return func(*args, **kwargs)


def widened(x: Any) -> Any:
    """A type of floats as float64; anything else unchanged."""
    return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x


def mean_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    """The sum over the windows of a max pooling, as a convolution: only that knows dilation."""
    rank = x.ndim - 2
    kernel, pads, steps = (_each(s, rank) for s in (kernel_size, padding, dilation))
    strides = _each(stride, rank) if stride else kernel
    shape = _max_pool(x, kernel, strides, pads, steps, ceil_mode)
    need = [
        (n - 1) * s + d * (k - 1) + 1 - x.shape[2 + i] - p
        for i, (n, s, d, k, p) in enumerate(zip(shape, strides, steps, kernel, pads, strict=True))
    ]
    border = [b for p, after in zip(reversed(pads), reversed(need), strict=True) for b in (p, after)]
    ones = x.new_full((x.shape[1], 1, *kernel), 1 / math.prod(kernel))
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return convolve(functional.pad(x, border), ones, None, strides, 0, steps, x.shape[1])


def mean_unpool(
    x: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> Tensor:
    """Each number spread over the window that its maximum may have been anywhere in."""
    rank = x.ndim - 2
    kernel, pads = _each(kernel_size, rank), _each(padding, rank)
    strides = _each(stride, rank) if stride else kernel
    ones = x.new_ones((x.shape[1], 1, *kernel))
    spread = (functional.conv_transpose2d, functional.conv_transpose3d)[rank - 2]
    out = spread(x, ones, None, strides, pads, groups=x.shape[1])
    size = out.shape[2:] if output_size is None else output_size[-rank:]
    need = [n - m for n, m in zip(size, out.shape[2:], strict=True)]
    return functional.pad(out, [b for after in reversed(need) for b in (0, after)])


def _max_pool(x: Tensor, kernel: Any, strides: Any, pads: Any, steps: Any, ceil: bool) -> Sequence[int]:
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[x.ndim - 3]
    return pool(x.detach()[:1, :1], kernel, strides, pads, steps, ceil).shape[2:]


def _each(setting: Any, rank: int) -> tuple[int, ...]:
    return (setting,) * rank if isinstance(setting, int) else tuple(setting)


def positive(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A parameter or buffer of the same shape that keeps signals positive and near 1."""
    if not tensor.dtype.is_floating_point:
        return tensor
    if name.endswith("running_mean"):
        return torch.zeros(tensor.shape, dtype=torch.float64)
    if name.endswith("running_var"):
        return torch.ones(tensor.shape, dtype=torch.float64)
    numbers = torch.rand(tensor.shape, dtype=torch.float64, generator=generator) + 0.5
    return numbers / max(1, math.prod(tensor.shape[1:]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """One unit, by both routes.

    Attributes:
        layer: the module call's path.
        axis: the axis of the image, from 0.
        index: the unit's index along it; None for a layer that sees the same everywhere.
        computed: first and last pixel by arithmetic; None for nothing.
        measured: first and last pixel with a gradient.
    """

    layer: str
    axis: int
    index: int | None
    computed: tuple[int, int] | None
    measured: tuple[int, int] | None

    @property
    def agrees(self) -> bool:
        """Whether they are equal to the pixel."""
        return self.computed == self.measured


def check(
    module: nn.Module,
    *inputs: Any,
    layers: Sequence[str] | None = None,
    units: int = 5,
    seen: str | None = None,
    seed: int = 0,
    **keywords: Any,
) -> list[Verdict]:
    """Compare the receptive fields of a network with the support of gradients.

    Args:
        module: the network; it stays as it is, its weights are not used.
        inputs: what it is called with; of tensors of floats only the shape counts.
        layers: module calls to look at; none means all.
        units: how many places to look at along each axis, borders included.
        seen: name of the input that is meant, if not the first that looks like an image.
        seed: of the random weights.
        keywords: keyword arguments of the network.

    Raises:
        LookupError: none of the layers is called.
        TraceError: the network fails on these inputs, or with float64 numbers.
    """
    traced = trace(module, *inputs, **keywords)
    found = fields(traced, image=seen)
    if found is None:
        return []
    calls = list(traced.root.calls())
    wanted = [i for i, call in enumerate(calls) if layers is None or call.path in layers]
    if not wanted:
        raise LookupError(
            f"no layer of {layers} is called; there are {', '.join(call.path for call in calls)}"
        )
    generator = torch.Generator().manual_seed(seed)
    used = {v.name for call in calls[: wanted[-1] + 1] for node in call.nodes() for v in node.inputs}
    tensors = {**{k: p for k, p in module.named_parameters() if k in used}, **dict(module.named_buffers())}
    state = {name: positive(name, tensor, generator) for name, tensor in tensors.items()}
    given = tree_map(lambda x: numbered(x, generator), (inputs, keywords))
    which = [i for i, value in enumerate(traced.inputs) if value is found.image]
    picture = [x for x in tree_leaves(given) if isinstance(x, Tensor)][which[0]].requires_grad_()
    with recording(module, wanted[-1]) as outs, doubles(), Positive(), suppress(Enough):
        try:
            torch.func.functional_call(module, state, *given)
        except Enough:
            raise
        except Exception as error:
            raise explain(error, "", module, given, real=True) from error
    verdicts: list[Verdict] = []
    for i in wanted:
        tensor = outs[i]
        if tensor is not None and tensor.requires_grad:
            verdicts += verdicts_of(calls[i], tensor, picture, found, units, generator)
    return verdicts


@contextmanager
def doubles() -> Iterator[None]:
    """What a network makes of numbers of its own is float64 meanwhile."""
    was = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(was)


class Enough(Exception):
    """The last layer that is wanted has run."""


def numbered(x: Any, generator: torch.Generator) -> Any:
    """Positive numbers for a tensor of floats; whole ones stay, or become 0 where there are none."""
    if not isinstance(x, Tensor):
        return x
    if not x.dtype.is_floating_point:
        return torch.zeros(x.shape, dtype=x.dtype) if x.is_meta else x.cpu()
    return torch.rand(x.shape, dtype=torch.float64, generator=generator) + 0.5


@contextmanager
def recording(module: nn.Module, last: int) -> Iterator[list[Tensor | None]]:
    """What each module call up to the last returns, where that is one tensor, in order of beginning."""
    outs: list[Tensor | None] = []
    open_calls: list[int] = []

    def before(part: nn.Module, args: Any) -> None:
        open_calls.append(len(outs))
        outs.append(None)

    def after(part: nn.Module, args: Any, out: Any) -> None:
        index = open_calls.pop()
        outs[index] = out if isinstance(out, Tensor) else None
        if index == last:
            raise Enough

    was = [(part, part.training) for _, part in tree(module)]
    hooks = []
    try:
        for part, _ in was:
            part.training = False
            hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
        yield outs
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in was:
            part.training = training


def verdicts_of(
    call: Call, out: Tensor, picture: Tensor, found: Fields, units: int, generator: torch.Generator
) -> Iterator[Verdict]:
    """All units of one layer that are looked at, by both routes."""
    field = found.of.get(call.outs[0])
    seed = torch.rand(out.shape, dtype=out.dtype, generator=generator) + 0.5
    for i, dim in enumerate(found.axes):
        axis = None if field is None else field[i]
        line = hull_of([axis]) if axis is not None and axis.dims else None
        size = 1 if line is None else line.lo.shape[0]
        for index in sorted({round(u * (size - 1) / max(1, units - 1)) for u in range(units)}):
            computed = None if axis is None else interval(axis.line if line is None else line, index)
            some = seed if line is None or axis is None else torch.zeros_like(seed)
            if some is not seed and axis is not None:
                at = (slice(None),) * axis.dims[-1] + (index,)
                some[at] = seed[at]
            (gradient,) = torch.autograd.grad(out, picture, some, retain_graph=True, allow_unused=True)
            place = None if line is None else index
            yield Verdict(call.path, i, place, computed, support(gradient, dim))


def interval(line: Line, index: int) -> tuple[int, int] | None:
    """First and last pixel of one index, or None where it sees nothing."""
    lo, hi = (int(ends[index]) if ends.ndim else int(ends) for ends in (line.lo, line.hi))
    return None if lo > hi else (lo, hi)


def support(gradient: Tensor | None, dim: int) -> tuple[int, int] | None:
    """First and last index along a dimension at which anything is not zero."""
    if gradient is None:
        return None
    others = [d for d in range(gradient.ndim) if d != dim]
    places = (gradient != 0).movedim(dim, 0).flatten(1).any(1).nonzero() if others else gradient.nonzero()
    return None if len(places) == 0 else (int(places[0]), int(places[-1]))
