"""Effective receptive fields beside the theoretical ones, as a table, a chart and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnkit.inspect.effective import Effective
from cnnkit.inspect.render import axes, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def text(found: Sequence[Effective]) -> Any:
    """A line for each layer."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False)
    for title in ("layer", "unit", "theoretical", "effective", "share", "deviation", "Gaussian", ""):
        grid.add_column(title, justify="left" if title in ("layer", "") else "right")
    for e in found:
        share = (e.side**2 / max(1, *(s.most for s in e.theory)) ** 2) if e.theory else 0.0
        grid.add_row(
            e.layer,
            ",".join(map(str, e.unit)),
            axes(e.theory),
            f"{e.side:.1f}",
            f"{share:.0%}",
            axes([f"{s:.1f}" for s in e.std]),
            f"{e.fit:.0%}",
            "larger than the image: cut off" if e.cut else "",
        )
    return grid


def record(e: Effective) -> dict[str, Any]:
    """One layer, ready for JSON."""
    return {
        "layer": e.layer,
        "unit": list(e.unit),
        "theoretical": [span(s) for s in e.theory],
        "effective_side": e.side,
        "deviation": list(e.std),
        "gaussian_fit": e.fit,
        "larger_than_image": e.cut,
    }


def chart(found: Sequence[Effective]) -> Figure:
    """The influence of each pixel, in squares of the theoretical (dashed) and the effective size."""
    from matplotlib.patches import Rectangle

    from cnnkit.draw.charts import COLOURS, INK, figure

    made, axes_of = figure(2.6 * len(found), 3.0, len(found))
    for axis, e in zip(axes_of, found, strict=True):
        height, width = e.influence.shape
        axis.imshow(e.influence.sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
        middle = [
            float(s.centre or 0) + i * float(s.jump or 0) for s, i in zip(e.theory, e.unit, strict=True)
        ]
        for side, style in ((e.theory[0].most, (0, (3, 2))), (e.side, "-")):
            corner = middle[1] - side / 2, middle[0] - side / 2
            box = Rectangle(
                corner, side, side, fill=False, edgecolor=COLOURS[1], linestyle=style, linewidth=1.4
            )
            axis.add_patch(box)
        axis.set_xlim(-0.5, width - 0.5)
        axis.set_ylim(height - 0.5, -0.5)
        axis.grid(visible=False)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"{e.layer}\n{e.side:.0f} of {axes(e.theory)}", fontsize=9, color=INK, loc="left")
    return made
