"""Charts for reports: matplotlib figures without a window or global state."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2")


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list]:  # type: ignore[type-arg]
    """An empty figure of so many inches with its axes in the house style."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = list(made.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(MUTED)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return made, axes


def curves(charts: Mapping[str, Mapping[str, Sequence[float]]], x: Sequence[float], xlabel: str) -> Figure:
    """Charts side by side, each with named lines over the same x."""
    made, axes = figure(5.2 * len(charts), 3.2, len(charts))
    for axis, (title, lines) in zip(axes, charts.items(), strict=True):
        for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
            axis.plot(x, values, color=colour, label=name, linewidth=1.8, marker="o" if len(x) < 3 else None)
        axis.set_title(title, fontsize=11, color=INK, loc="left")
        axis.set_xlabel(xlabel, fontsize=9, color=INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize=9)
    return made


def tried(
    title: str, x: Sequence[float], y: Sequence[float], chosen: float, labels: tuple[str, str]
) -> Figure:
    """What was tried, over a logarithmic axis, and a line at what was chosen."""
    made, (axis,) = figure(5.2, 3.2)
    axis.plot(x, y, color=COLOURS[0], linewidth=1.8, marker="o" if len(x) < 20 else None)
    axis.axvline(chosen, color=COLOURS[1], linewidth=1.4, linestyle="--")
    axis.annotate(
        f" {chosen:g}", (chosen, 1), xycoords=("data", "axes fraction"), color=COLOURS[1], fontsize=9
    )
    axis.set_xscale("log")
    axis.set_title(title, fontsize=11, color=INK, loc="left")
    axis.set_xlabel(labels[0], fontsize=9, color=INK)
    axis.set_ylabel(labels[1], fontsize=9, color=INK)
    return made


def counts(number: int, share: float) -> str:
    """What a cell of a confusion matrix says: how many, where there are any."""
    return f"{number:,}" if number else ""


def percents(number: int, share: float) -> str:
    """What a cell says where numbers are too long: the share of the row in percent, where it is not 0."""
    return f"{100 * share:.0f}" if share >= 0.005 else ""


def confusion(matrix: Tensor, classes: Sequence[str], say: Callable[[int, float], str] = counts) -> Figure:
    """A confusion matrix: rows are true classes, colours shares of the row. Shape: (classes, classes)

    Args:
        say: what a cell says, of its number and its share of the row.
    """
    count = len(classes)
    side = min(11.0, max(3.4, 1.6 + 0.42 * count))
    made, (axis,) = figure(side, side)
    shares = matrix.double() / matrix.sum(dim=1, keepdim=True).clamp(min=1)
    axis.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    axis.set_xlabel("predicted", fontsize=10, color=INK)
    axis.set_ylabel("true", fontsize=10, color=INK)
    if count <= 40:
        axis.set_xticks(range(count), classes, rotation=90 if max(map(len, classes)) > 2 else 0, fontsize=9)
        axis.set_yticks(range(count), classes, fontsize=9)
    if count <= 20:
        for i in range(count):
            for j in range(count):
                if words := say(int(matrix[i, j]), float(shares[i, j])):
                    colour = "white" if shares[i, j] > 0.5 else INK
                    axis.text(j, i, words, ha="center", va="center", fontsize=8, color=colour)
    return made
