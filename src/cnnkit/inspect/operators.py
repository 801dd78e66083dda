"""What there is to know of an operator before its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from cnnkit.inspect.shapes import Rule


def names(text: str) -> frozenset[str]:
    """Names written one after another."""
    return frozenset(text.split())


#: They move numbers to other places, or only rename the places.
MOVES = names(
    """
    _reshape_alias _to_copy _unsafe_view alias as_strided block_diag broadcast_to cat channel_shuffle chunk
    clone concat concatenate constant_pad_nd contiguous copy detach diagonal expand expand_as flatten flip
    gather im2col index index_select lift lift_fresh mT meshgrid movedim narrow pad permute pixel_shuffle
    pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as roll rot90 select slice split
    split_with_sizes squeeze stack swapaxes swapdims t take_along_dim tensor_split tile to transpose type_as
    unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view view_as
    """
)

#: Their result does not depend on the numbers of their arguments.
FORGETS = names(
    """
    _shape_as_tensor arange bernoulli empty empty_like empty_strided eye fill full full_like linspace
    logspace new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like rand rand_like
    randint randint_like randn randn_like randperm scalar_tensor tril_indices triu_indices uniform zero zeros
    zeros_like
    """
)

#: They are element-wise, though PyTorch does not tag them so.
UNTAGGED = names("_prelu_kernel floor_divide hardswish masked_fill prelu where")


def name_of(func: Any) -> str:
    """An operator's name without namespace, overload and in-place mark: `relu` for aten.relu_.default."""
    name: str = func.overloadpacket.__name__
    if func._overloadname == "other" and name in ("max", "min"):  # element by element, unlike their namesakes
        return name + "imum"
    return name if name.startswith("__") else name.rstrip("_")


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as the recorder needs it.

    Attributes:
        func: the operator.
        name: as in `Node.op`.
        shape: the rule that answers it, or None.
        mutates: whether it writes to an argument.
        writes: those arguments, by number and by name.
        aliases: whether a result may lie in an argument's memory.
        pointwise: whether each result reads the elements at its own place.
        random: whether it draws random numbers.
        reads: whether its result is a plain number.
        composite: whether it is taken apart.
    """

    func: Any
    name: str
    shape: Rule | None = None
    mutates: bool = False
    writes: frozenset[int | str] = frozenset()
    aliases: bool = False
    pointwise: bool = False
    random: bool = False
    reads: bool = False
    composite: bool = False


@lru_cache(4096)
def operator(func: Any, shape: Rule | None, known: frozenset[str]) -> Operator:
    """Look an operator up.

    Args:
        func: the operator.
        shape: the rule that answers it, if there is one.
        known: names of composite operators that are kept whole.
    """
    name, tags = name_of(func), func.tags
    pointwise = torch.Tag.pointwise in tags or name in UNTAGGED
    arguments = func._schema.arguments
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    return Operator(
        func=func,
        name=name,
        shape=shape,
        mutates=func._schema.is_mutable and name != "detach",  # which changes no numbers
        writes=frozenset(key for i, a in enumerate(arguments) if a.is_write for key in (i, a.name)),
        aliases=func.is_view or any(r.alias_info is not None for r in func._schema.returns),
        pointwise=pointwise,
        random=torch.Tag.nondeterministic_seeded in tags,
        reads=torch.Tag.data_dependent_output in tags,
        composite=composite and not pointwise and name not in known,
    )


#: A write to one view of memory, as another view sees it.
OVERLAY = Operator(None, "overlay", mutates=True, aliases=True)
