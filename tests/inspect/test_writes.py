"""Writes into memory whose numbers a trace knows, or that is the network's own."""

import random
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnkit.inspect.axes import Axis
from cnnkit.inspect.check import check
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.lines import Line
from cnnkit.inspect.overlay import by_index, by_memory, part_of
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.table import table
from cnnkit.inspect.trace import trace


class Writing(nn.Module):
    """A function of the module itself and an image, with a buffer and a convolution to use."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("cache", torch.zeros(1, 6, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def parts(net: Writing, x: Tensor) -> Tensor:
    made = torch.zeros(1, 6, 8, 8)
    made[:, :3] = x
    made[:, 3:] = net.conv(x)
    return made


def views(net: Writing, x: Tensor) -> Tensor:
    made = torch.zeros(1, 6, 8, 8)
    behind = made[:, 3:].add_(x)
    behind[:, 0] = net.conv(x)[:, 0]
    return made[:, 1:4] + 0


def cached(net: Writing, x: Tensor) -> Tensor:
    net.cache[:, 3:] = net.conv(x)
    net.cache[:, :3] = x
    return net.cache * 2


def wide(net: Writing, x: Tensor) -> Tensor:
    made = torch.zeros(1, 1, 8, 8)
    everywhere = made.expand(1, 3, 8, 8)
    made[:, 0] = net.conv(x)[:, 0]
    return everywhere * 2


def added(net: Writing, x: Tensor) -> Tensor:
    made = torch.zeros(1, 3, 8, 8)
    made += net.conv(x)
    return made


@pytest.mark.parametrize("function", [parts, views, cached, wide, added])
def test_what_is_written_into_zeros_and_buffers_is_seen(function: Callable[..., Tensor]) -> None:
    traced = trace(Writing(function), torch.zeros(1, 3, 8, 8))
    found = fields(traced)
    assert found is not None
    assert traced.root.outs[0] in found.of
    assert [span.most for span in table(traced, depth=0).rows[0].spans] == [3, 3]
    verdicts = check(Writing(function), torch.zeros(1, 3, 8, 8))
    assert verdicts
    assert all(v.agrees for v in verdicts)
    assert trace(Writing(function), torch.zeros(1, 3, 8, 8), run=True).peak == traced.peak


def test_numbers_that_were_overwritten_decide_nothing() -> None:
    def decides(net: Writing, x: Tensor) -> Tensor:
        made = torch.zeros(3)
        made[0] = x.mean()
        return x if made.sum() > 0 else net.conv(x)

    with pytest.raises(TraceError, match="decides by the numbers"):
        trace(Writing(decides), torch.ones(1, 3, 8, 8))


def test_numbers_that_are_known_decide_after_a_write_of_known_numbers() -> None:
    def decides(net: Writing, x: Tensor) -> Tensor:
        made = torch.zeros(8)
        made[2:4] = 1
        return net.conv(x) if made.sum() == 2 else x

    assert [n.op for n in trace(Writing(decides), torch.ones(1, 3, 8, 8)).nodes][-1] == "conv2d"


def test_known_numbers_do_not_outlive_their_tensors_at_the_peak() -> None:
    def masks(net: Writing, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x.masked_fill(torch.ones(8, 8).triu(1).bool(), 0.0)
        return x

    image = torch.zeros(1, 3, 8, 8)
    assert trace(Writing(masks), image).peak == trace(Writing(masks), image, run=True).peak


def test_a_real_forward_leaves_the_buffers_as_they_were() -> None:
    model = Writing(cached)
    trace(model, torch.ones(1, 3, 8, 8), run=True)
    assert not model.cache.any()


# -- parts of views --------------------------------------------------------------------------------


def some_view(whole: Tensor, dice: random.Random) -> Tensor:
    """A view of a tensor: narrowed, selected, transposed, flattened, in steps."""
    view = whole
    for _ in range(dice.randint(0, 3)):
        if not view.ndim:
            break
        dim, what = dice.randrange(view.ndim), dice.random()
        if what < 0.4:
            start = dice.randrange(view.shape[dim])
            view = view.narrow(dim, start, dice.randint(1, view.shape[dim] - start))
        elif what < 0.55:
            view = view.select(dim, dice.randrange(view.shape[dim]))
        elif what < 0.7:
            view = view.transpose(dim, dice.randrange(view.ndim))
        elif what < 0.8:
            view = view[::2]
        elif what < 0.9:
            view = view.unsqueeze(0)
        elif view.is_contiguous():
            view = view.view(-1)
    return view


def some_axis(shape: tuple[int, ...], dice: random.Random, numbers: np.random.Generator) -> Axis | None:
    """Any intervals along some of the dimensions, or nothing seen."""
    if dice.random() < 0.2:
        return None
    dims = [d for d in range(len(shape)) if dice.random() < 0.5]
    dice.shuffle(dims)
    lo = np.asarray(numbers.integers(0, 9, [shape[d] for d in dims]), np.int32)
    return Axis(tuple(dims), Line.of(lo, np.asarray(lo + numbers.integers(0, 9, lo.shape), np.int32)))


def test_a_part_by_its_index_is_what_the_memory_says() -> None:
    dice, numbers, compared = random.Random(0), np.random.default_rng(0), 0
    for _ in range(1000):
        whole = torch.empty([dice.randint(1, 4) for _ in range(dice.randint(1, 4))])
        one, other = some_view(whole, dice), some_view(whole, dice)
        if one.ndim and dice.random() < 0.2:  # some of it twice
            one = one.unfold(0, min(2, one.shape[0]), 1) if dice.random() < 0.5 else one.expand(2, *one.shape)
        view, written = ((tuple(t.shape), t.stride(), int(t.storage_offset())) for t in (one, other))
        before, new = (some_axis(place[0], dice, numbers) for place in (view, written))
        if part_of(view, view) is None:  # what lies at one place sees the same
            before = None
        part = part_of(view, written)
        if part is None or (before is None and new is None):
            continue
        compared += 1
        quick, sure = by_index(before, new, view[0], part), by_memory(before, new, view, written)
        assert all(map(torch.equal, quick.full(view[0]), sure.full(view[0])))
    assert compared > 300


# -- what is left as it is -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_function_is_called_as_it_was_written() -> None:
    asked: list[int] = []

    def backend(graph: nn.Module, inputs: list[Tensor]) -> Callable[..., Tensor]:
        asked.append(1)
        return graph.forward

    twice = torch.compile(lambda x: x * 2, backend=backend)
    assert "torch._dynamo" in sys.modules
    traced = trace(Writing(lambda net, x: twice(net.conv(x))), torch.zeros(1, 3, 8, 8))
    assert [node.op for node in traced.nodes] == ["conv2d", "mul"]
    assert not asked
