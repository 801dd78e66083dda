"""A drawing as SVG text: rectangles, polygons, lines and words, without a window and without a library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

Point = tuple[float, float]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif"


def plain(value: float) -> str:
    """A coordinate with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


class Canvas:
    """Shapes in order, and how much room they take. Colours are CSS; y runs downwards."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.left = self.top = float("inf")
        self.right = self.bottom = float("-inf")

    def cover(self, points: Iterable[Point]) -> None:
        """Make room for these points."""
        for x, y in points:
            self.left, self.right = min(self.left, x), max(self.right, x)
            self.top, self.bottom = min(self.top, y), max(self.bottom, y)

    def _add(self, tag: str, inside: str = "", **attributes: object) -> None:
        given = "".join(
            f" {name.rstrip('_').replace('_', '-')}={quoteattr(plain(v) if isinstance(v, float) else str(v))}"
            for name, v in attributes.items()
            if v is not None
        )
        self.shapes.append(f"<{tag}{given}>{inside}</{tag}>" if inside else f"<{tag}{given}/>")

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        stroke: str | None = None,
        radius: float = 0,
        title: str = "",
    ) -> None:
        """A rectangle by its upper left corner; the title shows when one points at it."""
        self.cover([(x, y), (x + width, y + height)])
        inside = f"<title>{escape(title)}</title>" if title else ""
        self._add(
            "rect",
            inside,
            x=float(x),
            y=float(y),
            width=float(width),
            height=float(height),
            rx=float(radius) if radius else None,
            fill=fill,
            stroke=stroke,
        )

    def polygon(self, points: Sequence[Point], *, fill: str, stroke: str | None = None) -> None:
        """A closed shape."""
        self.cover(points)
        written = " ".join(f"{plain(x)},{plain(y)}" for x, y in points)
        self._add("polygon", points=written, fill=fill, stroke=stroke, stroke_linejoin="round")

    def line(
        self,
        points: Sequence[Point],
        *,
        stroke: str,
        width: float = 1.2,
        corners: float = 0,
        arrow: bool = False,
    ) -> None:
        """A line through points, with a head at its end if wanted.

        Args:
            points: where it passes.
            stroke: its colour.
            width: how thick it is.
            corners: radius of its corners; without one it swings from point to point, upright at each.
            arrow: whether a head points down at its end.
        """
        self.cover(points)
        path = f"M{plain(points[0][0])} {plain(points[0][1])}"
        if corners:
            path += "".join(
                _corner(*three, corners) for three in zip(points, points[1:], points[2:], strict=False)
            )
            path += f"L{plain(points[-1][0])} {plain(points[-1][1])}"
        else:
            path += "".join(_bend(*two) for two in pairwise(points))
        self._add(
            "path",
            d=path,
            fill="none",
            stroke=stroke,
            stroke_width=float(width),
        )
        if arrow:
            x, y = points[-1]
            self.polygon([(x - 3, y - 5), (x + 3, y - 5), (x, y)], fill=stroke)

    def circle(self, x: float, y: float, radius: float, *, fill: str, stroke: str | None = None) -> None:
        """A circle by its centre."""
        self.cover([(x - radius, y - radius), (x + radius, y + radius)])
        self._add("circle", cx=float(x), cy=float(y), r=float(radius), fill=fill, stroke=stroke)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 11,
        fill: str = "#1f2933",
        anchor: str = "middle",
        bold: bool = False,
        turned: bool = False,
    ) -> None:
        """Words whose base line begins, has its middle or ends at a point."""
        width = breadth(words, size)
        start = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        if turned:
            self.cover([(x - size, y - width / 2), (x, y + width / 2)])
        else:
            self.cover([(start, y - size), (start + width, y + 0.3 * size)])
        self._add(
            "text",
            escape(words),
            x=float(x),
            y=float(y),
            font_size=float(size),
            fill=fill,
            text_anchor=anchor,
            font_weight="600" if bold else None,
            transform=f"rotate(-90 {plain(x)} {plain(y)})" if turned else None,
        )

    def svg(self, *, margin: float = 16, background: str = "#ffffff") -> str:
        """The whole drawing as one SVG element."""
        x, y = self.left - margin, self.top - margin
        width, height = self.right - self.left + 2 * margin, self.bottom - self.top + 2 * margin
        box = " ".join(map(plain, (x, y, width, height)))
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{plain(width)}" '
            f'height="{plain(height)}" font-family="{FONT}">'
        )
        ground = f'<rect x="{plain(x)}" y="{plain(y)}" width="100%" height="100%" fill="{background}"/>'
        return "\n".join([head, ground, *self.shapes, "</svg>\n"])


def _bend(start: Point, stop: Point) -> str:
    (x0, y0), (x1, y1) = start, stop
    if abs(x0 - x1) < 0.5:
        return f"L{plain(x1)} {plain(y1)}"
    half = (y0 + y1) / 2
    return f"C{plain(x0)} {plain(half)} {plain(x1)} {plain(half)} {plain(x1)} {plain(y1)}"


def _corner(before: Point, at: Point, after: Point, radius: float) -> str:
    """A straight line to near a corner, and a quarter round."""
    ends = []
    for x, y in (before, after):
        far = max(abs(x - at[0]), abs(y - at[1]), 1e-9)
        share = min(1.0, radius / far, 0.5)
        ends.append((at[0] + (x - at[0]) * share, at[1] + (y - at[1]) * share))
    (x0, y0), (x1, y1) = ends
    return f"L{plain(x0)} {plain(y0)}Q{plain(at[0])} {plain(at[1])} {plain(x1)} {plain(y1)}"


def breadth(words: str, size: float) -> float:
    """About how wide words are in a sans-serif type, rather more than less."""
    narrow = sum(c in " ,./:;il|'()jtf" for c in words)
    return size * (0.635 * (len(words) - narrow) + 0.36 * narrow)
