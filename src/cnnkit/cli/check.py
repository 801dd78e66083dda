"""`cnnkit check`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnnkit.cli.output import as_json, data_dir, emit, progress, quiet, table

if TYPE_CHECKING:
    from cnnkit.data import Examination


@click.command("check", short_help="Find what would spoil a training run.")
@click.argument("source", metavar="DATA")
@click.option(
    "--classes", metavar="NAME,...", help="What masks hold: sky,road by number, cell=255, or road=#804080."
)
@click.option("--ignore", metavar="NAME,...", help="Classes or values of masks that count nowhere.")
@data_dir
@as_json
@quiet
def command(
    source: str, classes: str | None, ignore: str | None, data_dir: str, as_json: bool, quiet: bool
) -> None:
    """Look at every image of DATA and name what would spoil a training run; exit code 3 where there is
    something.

    \b
    Examples:
      cnnkit check photos/
      cnnkit check photos/ --json

    Found are images that cannot be read, classes that a part lacks, the same image in two parts, and classes
    with less than a twentieth of the images of another. Of masks: those that are not of their picture's size,
    hold values without a class, or nothing but ignored pixels, and classes with less than a thousandth of the
    pixels of another.
    """
    from cnnkit import data

    found = data.open(
        source,
        data_dir=Path(data_dir),
        classes=None if classes is None else classes.split(","),
        ignore=None if ignore is None else ignore.split(","),
    )
    with progress(quiet).status("looking at every image") as status:
        seen = data.examine(found, lambda done, total: status.update(f"image {done:,} of {total:,}"))
    if as_json:
        emit({"layout": found.layout, **seen.to_json()})
    else:
        click.echo(f"{source}: {found.layout}")
        rows = [[label, *(_shown(seen, part, label) for part in seen.counts)] for label in found.classes]
        if seen.pixels:
            click.echo("share of the pixels that count, and images that show the class")
        table(["class", *seen.counts], rows, right=" ".join(seen.counts))
        for finding in seen.findings:
            click.echo(f"{finding.kind}: {finding.message}")
        if not seen.findings:
            click.echo("nothing was found that would spoil a run")
    sys.exit(3 if seen.findings else 0)


def _shown(seen: "Examination", part: str, label: str) -> str:
    """How often a class is in a part."""
    images = f"{seen.counts[part][label]:,}"
    if part not in seen.pixels:
        return images
    return f"{seen.pixels[part][label] / (sum(seen.pixels[part].values()) or 1):.2%} in {images}"
