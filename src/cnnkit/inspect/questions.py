"""The questions that `cnnkit inspect` answers of networks, each as tables to read and as values for JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cnnkit.data.pictures import fit, read
from cnnkit.errors import Misuse
from cnnkit.inspect import influence
from cnnkit.inspect.check import Verdict, check
from cnnkit.inspect.compare import as_dense, dense_text, side, side_record, sides_text, without_pooling
from cnnkit.inspect.effective import effective
from cnnkit.inspect.graph import Call, Trace, Value
from cnnkit.inspect.inputs import arguments
from cnnkit.inspect.published import Published, against_canon
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.sight import Sight, drawn, sight
from cnnkit.inspect.subject import Subject
from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace
from cnnkit.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to a question.

    Attributes:
        record: ready for JSON.
        parts: sentences and tables of rich, to print one after the other.
        warnings: what the reader should not miss.
        passed: False where a check did not pass.
        picture: drawn on request.
    """

    record: Any
    parts: Sequence[Any]
    warnings: Sequence[str] = field(default_factory=list)
    passed: bool = True
    picture: Figure | Image.Image | None = None


def traced(one: Subject, batch: int, *, run: bool = False) -> tuple[nn.Module, Trace]:
    """The network and its trace, for its own inputs."""
    inputs, keywords = arguments(one.forms, batch, "cpu" if run else "meta")
    module = one.real() if run else one.hollow()
    return module, trace(module, *inputs, run=run, **keywords)


def counted(
    one: Subject, batch: int, *, run: bool = False, depth: int | None = None
) -> tuple[Table, list[Published]]:
    """The table of a network, and what the canon says of it."""
    made = table(traced(one, batch, run=run)[1], depth=depth, name=one.name)
    return made, against_canon(made, one.entry) if one.entry is not None else []


# -- what it costs, and what it would cost ---------------------------------------------------------


def compared(some: Sequence[Subject], batch: int, *, run: bool = False) -> Answer:
    """Networks side by side."""
    sides = [side(counted(one, batch, run=run)[0]) for one in some]
    return Answer([side_record(one) for one in sides], [sides_text(sides)])


def unpooled(one: Subject, batch: int) -> Answer:
    """A network beside itself without its poolings."""
    inputs, keywords = arguments(one.forms, batch)
    module = one.hollow()
    own = side(table(trace(module, *inputs, **keywords), name=one.name))
    bare = side(without_pooling(module, *inputs, name="without pooling", **keywords))
    return Answer([side_record(own), side_record(bare)], [sides_text([own, bare])])


def dense(one: Subject, layer: str, *, run: bool = False) -> Answer:
    """A convolution beside a locally and a fully connected layer."""
    found = as_dense(counted(one, 1, run=run)[0], layer)
    return Answer(asdict(found), [dense_text(found)])


# -- what it sees ----------------------------------------------------------------------------------


def ends(made: Trace) -> list[str]:
    """The layer that each resolution ends with, by the outermost module that returns it.

    Inside modules that lead to another resolution one looks only for what there is nowhere else.
    """
    found = fields(made)
    best: dict[tuple[int, ...], tuple[int, Value]] = {}

    def look(call: Call, inside: tuple[tuple[int, ...], ...]) -> None:
        out = call.outs[0] if call.path and len(call.outs) == 1 else None
        counts = found is not None and out in found.of and len(out.shape) == len(found.image.shape) > 2
        for item in call.items:
            if isinstance(item, Call):
                look(item, (*inside, out.shape[2:]) if counts and out is not None else inside)
        if counts and out is not None:
            strange = sum(size != out.shape[2:] for size in inside)
            if strange <= best.get(out.shape[2:], (strange, out))[0]:
                best[out.shape[2:]] = strange, out

    look(made.root, ())
    order = sorted((out for _, out in best.values()), key=lambda out: -math.prod(out.shape[2:]))
    return [next(c.path for c in made.root.calls() if c.path and c.outs == (out,)) for out in order]


def checked(one: Subject, layers: Sequence[str], told: Told) -> Answer:
    """Receptive fields against the support of the gradient, to the pixel."""
    module, made = traced(one, 1)
    names = wanted(made, layers)
    inputs, keywords = arguments(one.forms, 1)
    verdicts: list[Verdict] = []
    for i, name in enumerate(names):
        told(f"layer {i + 1} of {len(names)}: {name}")
        verdicts += check(module, *inputs, layers=[name], **keywords)
    if not verdicts:
        raise Misuse(f"{one.name} has no layer that sees a part of an image, so there is nothing to check")
    wrong = [v for v in verdicts if not v.agrees]
    told_of = [
        f"{v.layer}, axis {v.axis}, unit {v.index}: pixels {v.computed} by rule, {v.measured} by gradient"
        for v in wrong
    ]
    layered = len({v.layer for v in verdicts})
    count = f"{len(verdicts)} units of {layered} layer{'s' if layered > 1 else ''}"
    verdict = (
        f"{count}: arithmetic and gradient agree to the pixel"
        if not wrong
        else f"{count}: {len(wrong)} do not agree"
    )
    record = [{**asdict(v), "agrees": v.agrees} for v in verdicts]
    return Answer(record, [verdicts_text(verdicts), verdict], told_of, passed=not wrong)


def wanted(made: Trace, layers: Sequence[str]) -> list[str]:
    """The layers that were asked for, `all` of them, or the last of each resolution.

    Raises:
        Misuse: one is not there.
    """
    paths = list(dict.fromkeys(call.path for call in made.root.calls() if call.path))
    if list(layers) == ["all"]:
        return paths
    for name in layers:
        if name not in paths:
            raise Misuse(f"{name!r} is no layer that is called; there are {', '.join(paths)}")
    return list(layers) or ends(made)


def verdicts_text(verdicts: Sequence[Verdict]) -> Any:
    """A line for each layer and axis."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(
        "layer", "axis", "units", "pixels of the middle one", "", box=box.SIMPLE_HEAD, show_edge=False
    )
    lines: dict[tuple[str, int], list[Verdict]] = {}
    for verdict in verdicts:
        lines.setdefault((verdict.layer, verdict.axis), []).append(verdict)
    for (layer, axis), some in lines.items():
        places = dict.fromkeys(str(v.index) for v in some)  # a layer that is called twice has them twice
        units = "all alike" if some[0].index is None else " ".join(places)
        middle = some[len(places) // 2].computed
        seen = "none" if middle is None else f"{middle[0]} to {middle[1]}"
        grid.add_row(layer, str(axis), units, seen, "agree" if all(v.agrees for v in some) else "DIFFER")
    return grid


def used(one: Subject, layers: Sequence[str], draws: int, told: Told) -> Answer:
    """Effective receptive fields beside the theoretical ones."""
    made = traced(one, 1)[1]
    found, form = [], one.forms[0]
    names = [n for n in wanted(made, layers) if layers or has_places(made, n)]
    if not names or len(form.shape) != 3:
        raise Misuse(f"{one.name} has no layer with a map of units over an image")
    for name in names:
        models = (one.real(seed).eval() for seed in counting(draws, name, told))
        found.append(effective(models, form.shape, layer=name))
    return Answer(
        [influence.record(e) for e in found], [influence.text(found)], picture=influence.chart(found)
    )


def has_places(made: Trace, layer: str) -> bool:
    """Whether a layer's map has more than one unit."""
    calls = [call for call in made.root.calls() if call.path == layer]
    return calls[-1].outs[0].numel > calls[-1].outs[0].shape[0] * calls[-1].outs[0].shape[1]


def counting(draws: int, name: str, told: Told) -> Any:
    """Seeds, each announced."""
    for seed in range(draws):
        told(f"{name}: draw {seed + 1} of {draws}")
        yield seed


def looked_at(
    one: Subject, layer: str, unit: tuple[int, ...], image: Path | None, *, run: bool = False
) -> Answer:
    """What one unit sees, drawn on a picture if there is one."""
    made = traced(one, 1, run=run)[1]
    whole, found = sight(made, layer, unit), sight(made, layer, unit, context=False)
    lines = [sight_text(found)]
    if whole.box != found.box:
        lines.append("by global context it depends on the whole image; this is its field without that")
    picture = None
    if image is not None:
        if len(found.size) != 2:
            raise Misuse(f"{one.name} does not see a picture, so no box can be drawn on {image}")
        to = one.preprocessing or Preprocessing(size=(found.size[0], found.size[1]), keep=1.0)
        picture = drawn(fit(read(image), to), found)
    return Answer(asdict(found), lines, picture=picture)


def sight_text(found: Sight) -> str:
    """One unit in a sentence."""
    unit = ",".join(map(str, found.unit))
    size = "x".join(map(str, found.size))
    if found.box is None:
        return f"{found.layer} at {unit} sees nothing of the {size} image but its border"
    names = (
        ("rows", "columns") if len(found.size) == 2 else [f"axis {i} from" for i in range(len(found.size))]
    )
    sides = [f"{name} {a} to {b}" for name, (a, b) in zip(names, found.box, strict=True)]
    extent = "x".join(str(b - a + 1) for a, b in found.box)
    return f"{found.layer} at {unit} sees {' and '.join(sides)} of the {size} image: {extent}"
