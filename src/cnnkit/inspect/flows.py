"""What was measured of gradients, as tables, a chart and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnkit.inspect.gradients import Flow

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table as Grid

#: What is measured of a layer, with its heading.
TITLES = {
    "activation": "activation (root mean square)",
    "gradient": "gradient of the loss by it",
    "weight": "gradient of the weights / weights",
}
#: How a line is broken that belongs to a later moment.
LATER = (0, (4, 2))


def text(flows: Sequence[Flow]) -> Grid:
    """Every layer of one network at all moments, or a line for each of several networks and moments."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False)
    names = list(dict.fromkeys(one.name for one in flows))
    if len(names) == 1:
        grid.title, grid.title_justify = names[0], "left"
        grid.add_column("layer", no_wrap=True)
        for what in ("activation", "gradient", "weights' gradient"):
            for one in flows:
                grid.add_column(f"{what if one is flows[0] else ''}\n{one.moment}", justify="right")
        for rows in zip(*(one.layers for one in flows), strict=True):
            grid.add_row(rows[0].path, *(f"{getattr(row, what):.2e}" for what in TITLES for row in rows))
        return grid
    for title in (
        "network",
        "",
        "loss",
        "activation\nfirst",
        "\nlast",
        "gradient\nfirst",
        "\nlast",
        "\nfirst / last",
    ):
        grid.add_column(title, justify="right" if title not in ("network", "") else "left")
    for one in flows:
        ends = one.body[0], one.body[-1]
        told = [f"{getattr(end, what):.1e}" for what in ("activation", "gradient") for end in ends]
        grid.add_row(one.name, one.moment, f"{one.loss:.3f}", *told, f"{one.ratio:.1e}")
    return grid


def chart(flows: Sequence[Flow]) -> Figure:
    """Activations and gradients against depth, on a logarithmic axis; later moments are dashed."""
    from cnnkit.draw.charts import COLOURS, INK, MUTED, figure

    names = list(dict.fromkeys(one.name for one in flows))
    first = {name: min(one.step for one in flows if one.name == name) for name in names}
    made, axes = figure(12.5, 3.9, 3)
    for axis, what in zip(axes, TITLES, strict=True):
        for one in flows:
            values = [max(getattr(found, what), 1e-38) for found in one.layers]
            axis.plot(
                range(1, len(values) + 1),
                values,
                color=COLOURS[names.index(one.name) % len(COLOURS)],
                label=one.name if one.step == first[one.name] else None,
                linestyle="-" if one.step == first[one.name] else LATER,
                linewidth=1.6,
            )
        axis.set_yscale("log")
        axis.set_xlabel("layer with weights", fontsize=9, color=INK)
        axis.set_title(TITLES[what], fontsize=10, color=INK, loc="left")
    for moment in dict.fromkeys(one.moment for one in flows if one.step != first[one.name]):
        axes[-1].plot([], [], color=MUTED, label=f"dashed: {moment}", linestyle=LATER, linewidth=1.6)
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return made


def record(flows: Sequence[Flow]) -> list[dict[str, Any]]:
    """Everything, ready for JSON."""
    return [
        {
            "name": one.name,
            "step": one.step,
            "loss": one.loss,
            "ratio": one.ratio,
            "warning": one.warning,
            "layers": [
                {"layer": x.path, "activation": x.activation, "gradient": x.gradient, "weight": x.weight}
                for x in one.layers
            ],
        }
        for one in flows
    ]
