"""What verbs share: JSON and tables on stdout, progress on stderr, a flag for each."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cnnkit import canon
from cnnkit.errors import Misuse
from cnnkit.registry import unknown

if TYPE_CHECKING:
    from rich.console import Console

as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet = click.option("--quiet", is_flag=True, help="No progress; warnings and the result only.")
data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    default="data",
    show_default=True,
    help="Where built-in data sets are, or are downloaded to.",
)
device = click.option(
    "--device", metavar="NAME", default="cpu", show_default=True, help="cpu, cuda, cuda:1 or mps."
)


def require_known(model: str | None) -> None:
    """Refuse a name that no network has, before torch is imported.

    Raises:
        Misuse: with the nearest names.
    """
    names = [entry.name for family in canon.families() for entry in canon.entries(family)]
    if model is not None and model not in names:
        raise Misuse(unknown(model, names))


def emit(value: Any) -> None:
    """A value as JSON on stdout."""
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


def progress(silent: bool) -> "Console":
    """Where progress goes: standard error, or nowhere."""
    from rich.console import Console

    return Console(stderr=True, quiet=silent)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> None:
    """Rows under their headings on stdout, as wide as they are; the columns named in `right` to the right."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    flush = [name in right.split() for name in columns]
    for row in [columns, *rows]:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, flush, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
