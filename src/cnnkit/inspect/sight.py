"""What one unit sees, drawn on a picture."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from cnnkit.errors import Misuse
from cnnkit.inspect.axes import Axis
from cnnkit.inspect.graph import Trace
from cnnkit.inspect.receptive import fields

COLOUR = (37, 99, 235)


@dataclass(frozen=True, slots=True)
class Sight:
    """The pixels that a unit sees.

    Attributes:
        layer: the module call's path.
        unit: its place in the layer's map.
        box: first and last pixel along each axis of the image, borders respected; None where it sees nothing.
        size: extent of the image.
    """

    layer: str
    unit: tuple[int, ...]
    box: tuple[tuple[int, int], ...] | None
    size: tuple[int, ...]


def sight(trace: Trace, layer: str, unit: tuple[int, ...], *, context: bool = True) -> Sight:
    """What a unit sees, channels united.

    Args:
        trace: the network's trace.
        layer: the module, at its last call.
        unit: its place in the layer's map: (y, x).
        context: whether global context counts.

    Raises:
        Misuse: there is no such layer or unit, or it does not see the image.
    """
    calls = [call for call in trace.root.calls() if call.path == layer and call.outs]
    if not calls:
        known = ", ".join(call.path for call in trace.root.calls() if call.path)
        raise Misuse(f"{layer!r} is no layer that is called; there are {known}")
    out, found = calls[-1].outs[0], fields(trace, context=context)
    if found is None or out not in found.of:
        raise Misuse(f"{layer!r} does not depend on an image")
    places = out.shape[2:] if len(out.shape) > 2 else ()
    if len(unit) != len(places) or any(not 0 <= i < n for i, n in zip(unit, places, strict=False)):
        raise Misuse(f"{layer!r} has a map of {'x'.join(map(str, places)) or 'one unit'}, so no unit {unit}")
    at = dict(zip(range(2, len(out.shape)), unit, strict=True))
    box = [interval(axis, at) for axis in found.of[out]]
    seen = [(lo, hi) for lo, hi in box if lo <= hi]
    return Sight(layer, unit, tuple(seen) if len(seen) == len(box) else None, found.sizes)


def interval(axis: Axis, at: dict[int, int]) -> tuple[int, int]:
    """First and last pixel of the elements at these places of some dimensions, all others united."""
    where = tuple(at.get(dim, slice(None)) for dim in axis.dims)
    return int(axis.line.lo[where].min()), int(axis.line.hi[where].max())


def drawn(picture: Image.Image, found: Sight) -> Image.Image:
    """The picture at the network's size with the unit's box on it; what is not seen is dimmed."""
    height, width = found.size
    base = picture.convert("RGB").resize((width, height))
    zoom = max(1, round(448 / max(height, width)))
    dim = Image.blend(base, Image.new("RGB", base.size, (255, 255, 255)), 0.6)
    dim = dim.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    if found.box is not None:
        (top, bottom), (left, right) = found.box
        part = base.crop((left, top, right + 1, bottom + 1))
        part = part.resize((part.width * zoom, part.height * zoom), Image.Resampling.NEAREST)
        dim.paste(part, (left * zoom, top * zoom))
        edges = (left * zoom, top * zoom, (right + 1) * zoom - 1, (bottom + 1) * zoom - 1)
        ImageDraw.Draw(dim).rectangle(edges, outline=COLOUR, width=max(2, zoom // 8))
    return dim
