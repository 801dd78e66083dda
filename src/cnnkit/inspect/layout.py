"""Where the boxes of a block go: in layers from top to bottom, each under what it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from cnnkit.draw.canvas import Point, breadth
from cnnkit.inspect.plan import Block, Box

ROW, GAP, HEIGHT, SIZE = 42.0, 14.0, 24.0, 11.0


@dataclass(slots=True, eq=False)
class Spot:
    """A place in a layer: a box, or where a line passes through.

    Attributes:
        box: the box; None where a line passes.
        width: the room that it takes.
        above: the spots of the layer above that it is tied to.
        x: its middle.
    """

    box: Box | None
    width: float
    above: list[Spot] = field(default_factory=list)
    x: float = 0.0


@dataclass(slots=True)
class Layout:
    """A block, laid out: its entry is at (0, 0).

    Attributes:
        spots: each box with its middle.
        lines: from box to box, through points.
        left: how far it reaches to the left.
        right: and to the right.
        height: the middle of its exit.
    """

    spots: list[tuple[Box, Point]]
    lines: list[list[Point]]
    left: float
    right: float
    height: float


def width_of(box: Box) -> float:
    """The room that a box takes."""
    return 22.0 if box.kind == "join" and len(box.label) == 1 else breadth(box.label, SIZE) + 18


def layout(block: Block) -> Layout:
    """Lay a block out."""
    depth = depths(block)
    layers: list[list[Spot]] = [[] for _ in range(max(depth.values()) + 1)]
    own = {id(block.entry): Spot(None, 0.0)}
    for box in block.boxes:
        own[id(box)] = Spot(box, width_of(box))
    ways: list[list[Spot]] = []
    for box in block.boxes:
        spot = own[id(box)]
        for source in box.inputs or [block.entry]:
            if id(source) not in own or source is box:
                continue
            way = [own[id(source)]]
            for level in range(depth[id(source)] + 1, depth[id(box)]):
                passing = Spot(None, 6.0, [way[-1]])
                layers[level].append(passing)
                way.append(passing)
            spot.above.append(way[-1])
            ways.append([*way, spot])
        layers[depth[id(box)]].append(spot)
    for layer in layers[1:]:
        arrange(layer)
    straighten(layers)
    level_of = {id(spot): i for i, layer in enumerate(layers) for spot in layer}
    lines = [[(s.x, ROW * level_of.get(id(s), 0)) for s in way] for way in ways]
    spots = [(b, (own[id(b)].x, ROW * depth[id(b)])) for b in block.boxes]
    edges = [(s.x - s.width / 2, s.x + s.width / 2) for layer in layers for s in layer]
    left, right = min(a for a, _ in edges), max(b for _, b in edges)
    return Layout(spots, lines, left, right, ROW * (len(layers) - 1))


def depths(block: Block) -> dict[int, int]:
    """The layer of each box: one below the lowest that it reads."""
    depth = {id(block.entry): 0}
    for box in block.boxes:
        depth[id(box)] = 1 + max([depth.get(id(b), 0) for b in box.inputs if b is not box], default=0)
    return depth


def straighten(layers: list[list[Spot]]) -> None:
    """Put what follows one after another in one line, side by side with what stands beside it."""
    below: dict[int, int] = {}
    for layer in layers:
        for spot in layer:
            for above in spot.above:
                below[id(above)] = below.get(id(above), 0) + 1
    lanes: dict[int, list[Spot]] = {}
    for layer in layers[1:-1]:
        for spot in layer:
            alone = len(spot.above) == 1 and below[id(spot.above[0])] == 1 and id(spot.above[0]) in lanes
            lanes[id(spot)] = lanes[id(spot.above[0])] if alone else []
            lanes[id(spot)].append(spot)
    for lane in lanes.values():
        middle = sum(s.x for s in lane) / len(lane)
        for spot in lane:
            spot.x = middle
    for _ in range(4):
        for layer in layers[1:-1]:
            for a, b in pairwise(layer):
                lack = a.x + a.width / 2 + GAP + b.width / 2 - b.x
                if lack > 0:
                    for spot in lanes[id(b)]:
                        spot.x += lack
    inner = [s for layer in layers[1:-1] for s in layer if s.box is not None]
    if inner:
        boxes = [s for s in inner if s.box is not None and s.above and s.above[0].width == 0.0] or inner
        centre = (min(s.x for s in boxes) + max(s.x for s in boxes)) / 2
        for layer in layers[1:-1]:
            for spot in layer:
                spot.x -= centre
    for spot in layers[-1]:
        spot.x = 0.0


def arrange(layer: list[Spot]) -> None:
    """Put the spots of a layer side by side, boxes as near as may be to what they read, lines beside them."""

    def wanted(spot: Spot) -> float:
        ties = spot.above
        boxes = [t.x for t in ties if t.box is not None or t.width == 0.0] or [t.x for t in ties]
        return sum(boxes) / len(boxes) if boxes else 0.0

    straight = [s for s in layer if s.box is None and all(t.width == 0.0 for t in s.above)]
    order = sorted(layer, key=lambda s: (s in straight, wanted(s)))
    edge = float("-inf")
    shift = weight = 0.0
    for spot in order:
        spot.x = max(wanted(spot), edge + GAP + spot.width / 2)
        edge = spot.x + spot.width / 2
        share = 1.0 if spot.box is not None else 0.001
        shift += share * (spot.x - wanted(spot))
        weight += share
    for spot in order:
        spot.x -= shift / weight
    layer[:] = order
