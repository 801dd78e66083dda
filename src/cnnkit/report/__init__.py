"""The report: one HTML file that needs nothing else to open, made of the panels that it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from cnnkit.draw.encode import png, svg


@dataclass(frozen=True, slots=True)
class Panel:
    """One section of a report.

    Attributes:
        title: its heading.
        body: HTML.
        note: a sentence below the heading.
        wide: whether it takes the whole width.
        folded: whether it opens only when clicked.
    """

    title: str
    body: Markup
    note: str = ""
    wide: bool = True
    folded: bool = False


@cache
def _template(name: str) -> Template:
    return Environment(loader=PackageLoader("cnnkit", "report"), autoescape=True).get_template(name)


def page(title: str, subtitle: str, figures: Mapping[str, str], panels: Sequence[Panel]) -> str:
    """The whole page: a heading, a row of key figures, then the panels in order."""
    return _template("page.html").render(title=title, subtitle=subtitle, figures=figures, panels=panels)


def chart(made: Figure) -> Markup:
    """A chart as a panel's body."""
    return Markup('<div class="chart">{}</div>').format(Markup(svg(made)))


def table(rows: Sequence[Mapping[str, object]]) -> Markup:
    """Rows as a table whose columns are the keys of the first; numbers to the right."""
    if not rows:
        return Markup("<p>none</p>")
    head = Markup("").join(
        Markup('<th class="number">{}</th>' if isinstance(value, int | float) else "<th>{}</th>").format(name)
        for name, value in rows[0].items()
    )
    lines = (
        Markup("<tr>{}</tr>").format(Markup("").join(_cell(value) for value in row.values())) for row in rows
    )
    return Markup(
        '<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, Markup("").join(lines))


def _cell(value: object) -> Markup:
    if isinstance(value, float):
        return Markup('<td class="number">{}</td>').format(
            f"{value:.4g}" if abs(value) > 1 else f"{value:.3f}"
        )
    if isinstance(value, int):
        return Markup('<td class="number">{}</td>').format(f"{value:,}")
    return Markup("<td>{}</td>").format(value)


def pictures(found: Sequence[tuple[Image.Image, str]], width: int = 120) -> Markup:
    """Pictures in rows, each above its caption; a line break in a caption is kept."""
    cell = Markup('<figure style="width:{}px"><img src="{}" alt="{}"><figcaption>{}</figcaption></figure>')
    cells = (
        cell.format(width, png(picture), caption, Markup("<br>").join(map(escape, caption.split("\n"))))
        for picture, caption in found
    )
    return Markup('<div class="pictures">{}</div>').format(Markup("").join(cells))


def heading(content: str) -> Markup:
    """A heading inside a panel."""
    return Markup("<h3>{}</h3>").format(content)


def text(content: str) -> Markup:
    """Text as it stands."""
    return Markup("<pre>{}</pre>").format(content)
