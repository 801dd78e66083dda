"""Every registered network: one route for all operators, the canon's counts, and fields to the pixel."""

from typing import Any

import pytest

from cnnkit import canon
from cnnkit.inspect.check import check
from cnnkit.inspect.graph import Trace, Value
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.table import table
from cnnkit.inspect.trace import trace

from .networks import SPECS, anatomy, built, example, figures, smallest


@pytest.mark.parametrize("name", SPECS)
def test_short_cuts_change_nothing_and_the_counts_are_those_of_the_canon(name: str) -> None:
    model, inputs = built(SPECS[name]), example(SPECS[name])
    quick, pure = trace(model, *inputs), trace(model, *inputs, rules={})
    assert [node.op for node in quick.nodes] == [node.op for node in pure.nodes]
    assert quick.peak == pure.peak
    made = table(quick)
    entry = canon.entry(SPECS[name].canon, name)
    assert made.uncounted == {}
    assert entry.params is None or made.total.trainable == entry.params.value
    assert entry.macs is None or made.total.macs == entry.macs.value
    found = figures(made)
    del made  # the fields of a large image are large
    assert found == figures(table(pure))


#: What these read depends on numbers: what is computed is a bound, and not what a gradient finds.
BOUNDED = {"scatter", "scatter_add", "index_add", "grid_sampler", "grid_sampler_2d"}


def bounded(traced: Trace) -> set[Value]:
    """Everything that is made of their results."""
    found: set[Value] = set()
    for node in traced.nodes:
        if node.op in BOUNDED or not found.isdisjoint(node.data):
            found.update(node.outs)
    return found


#: Of networks that differ in width alone, one is enough.
SEEN: set[tuple[Any, ...]] = set()
#: The first of each family; the others take a minute and a half together.
FIRST = {spec.canon: name for name, spec in reversed(SPECS.items())}.values()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in SPECS]
)
def test_every_registered_network_by_both_routes(name: str) -> None:
    model, images = smallest(SPECS[name])
    made = anatomy(model, images)
    if made in SEEN:
        return
    SEEN.add(made)
    traced = trace(model, images)
    found = fields(traced)
    assert found is not None
    assert found.unknown == set()
    loose = bounded(traced)
    seeing = [
        call.path
        for call in traced.calls
        if call.outs
        and call.outs[0] not in loose
        and call.outs[0] in found.of
        and found.of[call.outs[0]][0].dims
    ]
    compared = check(model, images, layers=[seeing[len(seeing) // 2], seeing[-1]], units=2)
    assert compared
    assert [verdict for verdict in compared if not verdict.agrees] == []
