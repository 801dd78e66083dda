"""Pictures and charts as text that stands inside an HTML page."""

import base64
import io

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor


def png(picture: Image.Image) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def svg(chart: Figure) -> str:
    """A chart as an SVG element; its text stays text."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnnkit"}):
        chart.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def grey(values: Tensor) -> Image.Image:
    """A map of any numbers from black (its least) to white (its greatest). Shape: (H, W)"""
    values = values.detach().float()
    span = (values.max() - values.min()).clamp(min=1e-12)
    scaled = ((values - values.min()) / span * 255).round().to(torch.uint8)
    return Image.fromarray(scaled.cpu().numpy())


def enlarged(picture: Image.Image, least: int) -> Image.Image:
    """A picture whose short side is scaled by a whole factor to at least so many pixels, unsmoothed."""
    factor = -(-least // min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def thumbnail(picture: Image.Image, side: int = 160) -> Image.Image:
    """A picture small enough for a page, or enlarged in whole pixels where it is tiny."""
    picture = enlarged(picture, side // 2)
    picture.thumbnail((side, side))
    return picture
