"""A network's table as text, CSV, JSON and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnkit.inspect.geometry import Geometry, geometry
from cnnkit.inspect.published import Published
from cnnkit.inspect.spans import Span
from cnnkit.inspect.table import Row, Table

if TYPE_CHECKING:
    from rich.console import Group


def short(number: float, unit: str = "") -> str:
    """A number in three figures: 25.6 M, 4.09 G; powers of a thousand, of bytes too."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{number:.0f}" + (f" {unit}" if unit else "")


def axes(values: Sequence[Any]) -> str:
    """One value for all axes of the image, or one each."""
    written = [str(value) for value in values]
    return written[0] if len(set(written)) == 1 else "x".join(written)


def number(value: Fraction | None) -> str:
    """A fraction as a decimal, nothing where there is none."""
    return "" if value is None else f"{float(value):g}"


def window(row: Row) -> Geometry | None:
    """The window of the row's first operator that has one."""
    return next((found for node in row.nodes if (found := geometry(node)) is not None), None)


def settings(row: Row) -> str:
    """Kernel, stride, padding, dilation and groups of a row that is one module or operator."""
    single = row.module is None or not row.module._modules
    return str(window(row) or "") if single else ""


def output(row: Row) -> str:
    """The shapes of what it returned, the batch left out."""
    if not row.outs:
        return ""
    first = "x".join(map(str, row.outs[0].shape[1:])) or "1"
    return first if len(row.outs) == 1 else f"{first} +{len(row.outs) - 1}"


def field(spans: Sequence[Span]) -> str:
    """Size of a receptive field."""
    return axes(spans) if spans else ""


def placed(row: Row, what: str) -> str:
    """Jump or centre of a receptive field, without global context where that differs."""
    return axes([number(getattr(span, what)) for span in row.local or row.spans]) if row.spans else ""


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title: its heading.
        cell: what stands in it.
        rank: the greater, the sooner it is left out where there is no room.
        told: what it is, in a sentence.
        is_word: whether it holds words, which begin at the left.
        adds_up: whether there is a total.
    """

    title: str
    cell: Callable[[Row], str]
    rank: int
    told: str
    is_word: bool = False
    adds_up: bool = False


COLUMNS = (
    Column(
        "layer", lambda r: r.path or ".", 0, "the module's name; of an operator the module it is in", True
    ),
    Column("kind", lambda r: r.kind, 0, "the module's class, or the operator", True),
    Column("window", settings, 1, "kernel, /stride, p padding, d dilation, g groups", True),
    Column("output", output, 0, "shape without the batch"),
    Column(
        "params",
        lambda r: f"{r.params:,}" if r.params else "",
        0,
        "parameters not counted above",
        False,
        True,
    ),
    Column("MACs", lambda r: short(r.macs) if r.macs else "", 0, "multiply-adds", False, True),
    Column("FLOPs", lambda r: short(r.flops) if r.flops else "", 5, "two for each multiply-add", False, True),
    Column("other", lambda r: short(r.other) if r.other else "", 4, "all other operations", False, True),
    Column(
        "memory", lambda r: short(r.activations, "B") if r.activations else "", 3, "new memory", False, True
    ),
    Column(
        "traffic", lambda r: short(r.moved, "B") if r.moved else "", 7, "bytes read and written", False, True
    ),
    Column("op/B", lambda r: f"{r.intensity:.1f}" if r.moved else "", 6, "operations a byte", False, True),
    Column("field", lambda r: field(r.spans), 1, "pixels that a unit sees along an axis"),
    Column("local", lambda r: field(r.local), 2, "the same without global context"),
    Column("jump", lambda r: placed(r, "jump"), 2, "pixels from one unit's field to the next one's"),
    Column("centre", lambda r: placed(r, "centre"), 6, "pixel in the middle of the first unit's field"),
    Column("note", lambda r: r.note, 4, "what is unusual", True),
)


def summary(made: Table, published: Sequence[Published] = ()) -> list[str]:
    """What concerns the network as a whole, in lines."""
    total, train = made.total, made.training
    lines = [
        f"parameters    {total.params:,}, {total.trainable:,} trainable",
        f"multiply-adds {total.macs:,} = {total.flops:,} FLOPs of convolutions, linear layers and products",
        f"other         {total.other:,} operations of everything else",
        f"layers        {made.weighted} with weights on the longest way, {made.weighted_all} in all",
        f"activations   {short(made.trace.peak, 'B')} at the peak of inference, "
        f"{short(train.kept, 'B')} kept for training, {short(train.peak, 'B')} at its peak",
        f"weights       {short(sum(p.nbytes for p in made.trace.parameters), 'B')}",
    ]
    lines += [f"canon         {line}" for line in published]
    if made.uncounted:
        names = ", ".join(f"{name} ({n}x)" for name, n in sorted(made.uncounted.items()))
        lines.append(f"not counted   {names}")
    if made.fields is not None and made.fields.unknown:
        lines.append(f"fields        {', '.join(sorted(made.fields.unknown))} taken to read everything")
    if made.fields is not None and made.fields.has_context:
        lines.append("fields        `all` by global context; `local` is the field without it")
    return lines + [f"note          {note}" for note in made.trace.notes]


def text(made: Table, published: Sequence[Published] = (), *, width: int = 200) -> Group:
    """The table for a terminal of so many columns; what has no room is left out, least important first."""
    from rich import box
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    rows = [*made.rows, made.total]
    cells = {c: [c.cell(row) if i < len(rows) - 1 else "" for i, row in enumerate(rows)] for c in COLUMNS}
    for column in COLUMNS:
        if column.adds_up:
            cells[column][-1] = column.cell(made.total)
    shown = [c for c in COLUMNS if any(cells[c])]
    while len(shown) > 2 and sum(max(map(len, [c.title, *cells[c]])) + 2 for c in shown) > width:
        shown.remove(max(shown, key=lambda c: c.rank))
    grid = Grid(
        title=made.name, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False
    )
    for column in shown:
        grid.add_column(column.title, justify="left" if column.is_word else "right", no_wrap=True)
    for i in range(len(rows)):
        line = [Text(cells[c][i]) for c in shown]
        if i == len(made.rows):
            grid.add_section()
            line[0] = Text("total")
        grid.add_row(*line)
    return Group(grid, Text(""), *map(Text, summary(made, published)))


def plain(row: Row) -> dict[str, Any]:
    """A row in numbers, as JSON and CSV have it."""
    single = window(row) if row.module is None or not row.module._modules else None
    record: dict[str, Any] = {
        "layer": row.path,
        "kind": row.kind,
        "module": row.module is not None,
        "level": row.level,
        **{
            name: list(getattr(single, name)) if single is not None else None
            for name in ("kernel", "stride", "padding", "dilation")
        },
        "groups": single.groups if single is not None else None,
        "output": [list(out.shape) for out in row.outs],
        "parameters": row.params,
        "trainable": row.trainable,
        "macs": row.macs,
        "flops": row.flops,
        "other_operations": row.other,
        "activation_bytes": row.activations,
        "moved_bytes": row.moved,
        "intensity": round(row.intensity, 4),
        "receptive_field": [span(s) for s in row.spans],
        "receptive_field_without_context": [span(s) for s in row.local],
        "note": row.note,
    }
    return record


def span(found: Span) -> dict[str, Any]:
    """A receptive field along one axis, in numbers."""
    return {
        "size": found.most,
        "least": found.least,
        "jump": None if found.jump is None else float(found.jump),
        "centre": None if found.centre is None else float(found.centre),
        "whole": found.whole,
    }


def record(made: Table, published: Sequence[Published] = ()) -> dict[str, Any]:
    """Everything, ready for JSON."""
    total = made.total
    return {
        "name": made.name,
        "inputs": [{"name": v.name, "shape": list(v.shape), "type": str(v.dtype)} for v in made.trace.inputs],
        "parameters": total.params,
        "trainable": total.trainable,
        "macs": total.macs,
        "flops": total.flops,
        "other_operations": total.other,
        "activation_bytes": total.activations,
        "moved_bytes": total.moved,
        "intensity": round(total.intensity, 4),
        "peak_inference_bytes": made.trace.peak,
        "kept_for_training_bytes": made.training.kept,
        "peak_training_bytes": made.training.peak,
        "weight_bytes": sum(p.nbytes for p in made.trace.parameters),
        "weighted_layers": made.weighted,
        "weighted_layers_in_all": made.weighted_all,
        "receptive_field_in": None if made.fields is None else made.fields.image.name,
        "uncounted": made.uncounted,
        "fields_unknown": [] if made.fields is None else sorted(made.fields.unknown),
        "canon": [
            {
                "what": p.what,
                "ours": p.ours,
                "canon": p.theirs,
                "difference": p.difference,
                "by": p.by,
                "source": p.source,
            }
            for p in published
        ],
        "notes": made.trace.notes,
        "rows": [plain(row) for row in made.rows],
    }


def as_csv(made: Table) -> str:
    """The rows, one a line, with a heading."""
    lines = [_flat(plain(row)) for row in made.rows]
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in line.items():
        if key.startswith("receptive_field"):
            for what in ("size", "jump", "centre"):
                found[f"{key}_{what}"] = axes([s[what] for s in value]) if value else ""
        elif key == "output":
            found[key] = " ".join("x".join(map(str, shape)) for shape in value)
        elif isinstance(value, list):
            found[key] = "x".join(map(str, value))
        else:
            found[key] = "" if value is None else value
    return found
