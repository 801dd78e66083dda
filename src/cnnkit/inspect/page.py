"""A network's table as a page that needs nothing else to open; its rows fold by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from cnnkit.inspect.figure import drawing
from cnnkit.inspect.graph import Call
from cnnkit.inspect.published import Published
from cnnkit.inspect.render import COLUMNS, summary
from cnnkit.inspect.table import ADDITIVE, Row, Table

#: So many rows are open at first.
OPEN = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the page.

    Attributes:
        row: its figures; for a module with rows below their sum.
        level: how deep, from 0.
        holds: whether there are rows below it.
        name: the module's name within the one that it is in.
    """

    row: Row
    level: int
    holds: bool
    name: str


def lines(made: Table) -> list[Line]:
    """The rows of a table, each module that has several of them before these."""
    rows = {id(row.source): row for row in made.rows}

    def below(call: Call, level: int) -> list[Line]:
        found: list[Line] = []
        for item in call.items:
            if id(item) in rows:
                found.append(line(rows.pop(id(item)), level, call.path))
            elif isinstance(item, Call):
                inner = below(item, level + 1)
                if inner:
                    parts = [part.row for part in inner if not part.holds]
                    found += [line(summed(item, level, parts), level, call.path, holds=True), *inner]
        return found

    root = made.trace.root
    found = [line(rows.pop(id(root)), 0, "")] if id(root) in rows else below(root, 0)
    return found + [line(row, 0, "") for row in rows.values()]


def line(row: Row, level: int, parent: str, *, holds: bool = False) -> Line:
    """A row with the name that it has below its parent; an operator has none."""
    name = row.path.removeprefix(f"{parent}." if parent else "")
    return Line(row, level, holds, "" if row.module is None and row.path == parent else name)


def summed(call: Call, level: int, parts: Sequence[Row]) -> Row:
    """The sum of rows, with the receptive field of what the module returns."""
    last = next((row for row in reversed(parts) if call.outs and call.outs[0] in row.outs), None)
    sums = {name: sum(map(attrgetter(name), parts)) for name in ADDITIVE}
    made = Row(call, level, **sums)
    if last is not None:
        made.spans, made.local = last.spans, last.local
    return made


def as_html(made: Table, published: Sequence[Published] = ()) -> str:
    """The page."""
    found = lines(made)
    shown = [c for c in COLUMNS if any(c.cell(one.row) for one in found)]
    deepest = max((one.level for one in found), default=0)
    at = [sum(one.level <= level for one in found) for level in range(deepest + 1)]
    shares = {"params": made.total.params, "macs": made.total.macs}
    rows = [
        {
            "level": one.level,
            "holds": one.holds,
            "path": one.row.path,
            "name": one.name,
            "cells": [c.cell(one.row) for c in shown[1:]],
            "share": {
                c.title: getattr(one.row, what) / total
                for c in shown
                for what, total in shares.items()
                if c.title.lower() == what and total
            },
        }
        for one in found
    ]
    template = Environment(loader=PackageLoader("cnnkit", "inspect"), autoescape=True).get_template(
        "table.html"
    )
    return template.render(
        name=made.name,
        columns=shown,
        rows=rows,
        total=[c.cell(made.total) if c.adds_up else "" for c in shown[1:]],
        lines=[line.split(None, 1) for line in summary(made, published)],
        deepest=deepest,
        open=max((level for level in range(deepest + 1) if at[level] <= OPEN), default=0),
        figure=Markup(drawing(made.trace, name=made.name)),
    )
