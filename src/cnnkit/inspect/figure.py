"""A network drawn: as volumes, like the early papers, where it is a chain; else as blocks and shortcuts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from cnnkit.draw.canvas import Canvas, Point, breadth
from cnnkit.inspect.graph import Trace
from cnnkit.inspect.layout import HEIGHT, ROW, SIZE, Layout, layout
from cnnkit.inspect.plan import Block, Box, Kind, plan

INK, MUTED, LINE, FAINT = "#1f2933", "#616e7c", "#7b8794", "#b4bec9"
#: Fill and edge of each kind of box.
COLOURS: dict[Kind, tuple[str, str]] = {
    "input": ("#eef1f4", "#9aa5b1"),
    "conv": ("#dbe8fd", "#3b74d9"),
    "depthwise": ("#d4f1f4", "#1590a0"),
    "up": ("#dff3e3", "#3a9a55"),
    "pool": ("#fde5cf", "#d9822b"),
    "global": ("#fde5cf", "#d9822b"),
    "linear": ("#e9defa", "#7c4ddb"),
    "attention": ("#fbdfe8", "#c83d74"),
    "join": ("#ffffff", "#4a5568"),
    "other": ("#eef1f4", "#616e7c"),
}
Style = Literal["auto", "volumes", "blocks"]


def drawing(trace: Trace, *, name: str = "", style: Style = "auto") -> str:
    """The network as SVG.

    Args:
        trace: its trace.
        name: the heading; the class of the network if empty.
        style: volumes need a network without branches; `auto` takes them for such a one.
    """
    columns = [rolled(column) for column in plan(trace)]
    chain = all(len(block.boxes) == 1 and block.exit.kind != "join" for column in columns for block in column)
    canvas = Canvas()
    if style == "volumes" or (style == "auto" and chain):
        volumes(canvas, [block for column in columns for block in column])
    else:
        sheet(canvas, columns)
    legend(canvas, [block for column in columns for block in column])
    title = name or type(trace.root.module).__name__
    canvas.text(canvas.left, canvas.top - 18, title, size=17, anchor="start", bold=True)
    return canvas.svg()


def rolled(column: list[Block]) -> list[Block]:
    """Runs of blocks that come again in the same order as one block each: attention and perceptron, say."""
    made: list[Block] = []
    at = 0
    while at < len(column):
        period, times = max(runs(column, at), key=lambda run: (run[1] - 1) * run[0], default=(1, 1))
        if times > 1:
            boxes = [box for block in column[at : at + period] for box in block.boxes]
            made.append(Block(boxes, column[at].entry, times))
        else:
            made.append(column[at])
        at += period * times
    return made


def runs(column: list[Block], at: int) -> Iterator[tuple[int, int]]:
    """How many blocks from here on come again, and how often in a row they come."""
    kinds = [block.signature if block.times == 1 else None for block in column]
    for period in range(2, 5):
        first, times = kinds[at : at + period], 1
        while len(first) == period and None not in first and kinds[at + times * period :][:period] == first:
            times += 1
        if times > 1:
            yield period, times


#: What the legend calls each kind; joins and inputs explain themselves.
KINDS: dict[Kind, str] = {
    "conv": "convolution: kernel /stride, channels",
    "depthwise": "depthwise convolution",
    "up": "enlarging",
    "pool": "pooling",
    "linear": "fully connected",
    "attention": "attention",
}


def legend(canvas: Canvas, found: list[Block]) -> None:
    """The colours that occur, below the drawing."""
    kinds = {"pool" if box.kind == "global" else box.kind for block in found for box in block.boxes}
    x, y = canvas.left, canvas.bottom + 34
    for kind, word in KINDS.items():
        if kind in kinds:
            fill, edge = COLOURS[kind]
            canvas.rectangle(x, y - 10, 14, 12, fill=fill, stroke=edge, radius=3)
            canvas.text(x + 20, y, word, size=11, fill=MUTED, anchor="start")
            x += 42 + breadth(word, 11)


# -- blocks ----------------------------------------------------------------------------------------


def sheet(canvas: Canvas, columns: list[list[Block]]) -> None:
    """Columns of blocks from left to right, one for each resolution."""
    left = 0.0
    end: Point | None = None
    for column in columns:
        parts = [layout(block) for block in column]
        title = heading(column)
        least = max(30.0, breadth(title, 13) / 2 - 10)
        reach = [max(-p.left, p.right, least) + room(b) for p, b in zip(parts, column, strict=True)]
        middle = left + max(reach)
        canvas.text(middle, 0, title, size=13, fill=MUTED, bold=True)
        if end is not None:
            between = left - 18
            turn = end[1] + 26
            way = [end, (end[0], turn), (between, turn), (between, 16.0), (middle, 16.0), (middle, 26.0)]
            canvas.line(way, stroke=FAINT, width=1.6, corners=9)
        y = 26.0 - (ROW - HEIGHT) / 2 - HEIGHT / 2 + 4
        first = True
        for block, part in zip(column, parts, strict=True):
            y = place(canvas, block, part, middle, y, first=first and end is None)
            first = False
        end = (middle, y + HEIGHT / 2)
        left = middle + max(reach) + 40


def room(block: Block) -> float:
    """What the frame of a repeated block and the number beside it take."""
    return breadth(f"×{block.times}", 14) + 8 if block.times > 1 else 0.0


def heading(column: list[Block]) -> str:
    """The resolution that a column ends with, and the lowest inside where it goes down and up again."""
    end = column[-1].exit.size
    if math.prod(end) == 1:
        return "vector"
    mapped = [
        box for block in column for box in block.boxes if box.kind in ("conv", "depthwise", "pool", "up")
    ]
    sizes = [box.size for box in mapped if math.prod(box.size) > 1]
    lowest = min(sizes, key=math.prod, default=end)
    inside = f", inside to {written(lowest)}" if math.prod(lowest) < math.prod(end) else ""
    return written(end) + inside


def written(size: tuple[int, ...]) -> str:
    """A size in words: 7 × 7."""
    return " × ".join(map(str, size))


def place(canvas: Canvas, block: Block, part: Layout, middle: float, top: float, *, first: bool) -> float:
    """Draw a block below a point; returns where its exit is."""
    if block.times > 1:
        x, y = middle + part.left - 12, top + ROW / 2 - 3
        width, height = part.right - part.left + 24, part.height + 6 - ROW / 2 + HEIGHT / 2 + 6
        canvas.rectangle(x, y, width, height, fill="#f7f8fa", stroke="#cbd2d9", radius=8)
        canvas.text(
            x + width + 5, y + height / 2 + 5, f"×{block.times}", size=14, fill=INK, anchor="start", bold=True
        )
    for way in part.lines:
        points = [(middle + x, top + y) for x, y in way]
        start = (points[0][0], points[0][1] + (HEIGHT / 2 if points[0][1] > top or not first else 0))
        stop = (points[-1][0], points[-1][1] - HEIGHT / 2)
        if first and way[0] == (0, 0) and block.boxes[0].kind == "input":
            continue
        canvas.line([start, *points[1:-1], stop], stroke=LINE, arrow=True)
    for box, (x, y) in part.spots:
        draw(canvas, box, middle + x, top + y)
    return top + part.height


def draw(canvas: Canvas, box: Box, x: float, y: float) -> None:
    """One box around a point."""
    fill, edge = COLOURS[box.kind]
    if box.kind == "join" and len(box.label) == 1:
        canvas.circle(x, y, 11, fill=fill, stroke=edge)
        canvas.text(x, y + 5, box.label, size=15, fill=INK)
        return
    width = breadth(box.label, SIZE) + 16
    shape = "×".join(map(str, filter(None, (box.channels, *box.size))))
    title = f"{box.path or box.label}: {shape}" + (f", then {', '.join(box.then)}" if box.then else "")
    canvas.rectangle(
        x - width / 2, y - HEIGHT / 2, width, HEIGHT, fill=fill, stroke=edge, radius=4, title=title
    )
    canvas.text(x, y + 4, box.label, size=SIZE)


# -- volumes ---------------------------------------------------------------------------------------


def volumes(canvas: Canvas, chain: list[Block]) -> None:
    """Maps as bodies in a row: as high as they are large, as thick as they have channels."""
    largest = max((max(b.exit.size) for b in chain if b.exit.size), default=1)
    x = 0.0
    for block in chain:
        box = block.exit
        flat = not box.size or math.prod(box.size) == 1
        side = 0.0 if flat else 16 + 150 * math.sqrt(max(box.size) / largest)
        thick = 4 + 3.2 * math.log2(1 + (box.channels or 1))
        words = box.label + (f"  ×{block.times}" if block.times > 1 else "")
        shape = str(box.channels) if flat else f"{box.channels}@{'×'.join(map(str, box.size))}"
        if flat:
            side, thick = 30 + 9 * math.log2(1 + (box.channels or 1)), 9.0
        slant = 0.0 if flat else 0.32 * side
        body = block.times * thick + (block.times - 1) * 3 + slant
        width = max(body, breadth(words, 10.5), breadth(shape, 10.5))
        start = x + (width - body) / 2
        for i in range(block.times):
            slab(canvas, box, start + i * (thick + 3), thick, side, slant)
        canvas.text(x + width / 2, 118, words, size=10.5, fill=INK)
        canvas.text(x + width / 2, 133, shape, size=10.5, fill=MUTED)
        x += width + 14


def slab(canvas: Canvas, box: Box, x: float, thick: float, side: float, slant: float) -> None:
    """One body seen from the left above, centred on the base line; vectors are bars."""
    fill, edge = COLOURS[box.kind]
    top, bottom = -side / 2, side / 2
    lift = slant * 0.6
    top, bottom = top + lift / 2, bottom + lift / 2
    if slant:
        canvas.polygon(
            [(x, top), (x + slant, top - lift), (x + slant + thick, top - lift), (x + thick, top)],
            fill=shade(fill, 0.5),
            stroke=edge,
        )
        right = [
            (x + thick, top),
            (x + slant + thick, top - lift),
            (x + slant + thick, bottom - lift),
            (x + thick, bottom),
        ]
        canvas.polygon(right, fill=shade(fill, -0.08), stroke=edge)
    canvas.polygon([(x, top), (x + thick, top), (x + thick, bottom), (x, bottom)], fill=fill, stroke=edge)


def shade(colour: str, by: float) -> str:
    """A colour made lighter, or darker by a negative share."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    mixed = [round(c + (255 - c) * by if by > 0 else c * (1 + by)) for c in parts]
    return "#" + "".join(f"{c:02x}" for c in mixed)
