"""`cnnkit check`."""

import sys
from pathlib import Path

import click

from cnnkit.cli.output import as_json, data_dir, emit, progress, quiet, table


@click.command("check", short_help="Find what would spoil a training run.")
@click.argument("source", metavar="DATA")
@data_dir
@as_json
@quiet
def command(source: str, data_dir: str, as_json: bool, quiet: bool) -> None:
    """Look at every image of DATA and name what would spoil a training run; exit code 3 where there is
    something.

    \b
    Examples:
      cnnkit check photos/
      cnnkit check photos/ --json

    Found are images that cannot be read, classes that a part lacks, the same image in two parts, and classes
    with less than a twentieth of the images of another.
    """
    from cnnkit import data

    found = data.open(source, data_dir=Path(data_dir))
    with progress(quiet).status("looking at every image") as status:
        seen = data.examine(found, lambda done, total: status.update(f"image {done:,} of {total:,}"))
    if as_json:
        emit({"layout": found.layout, **seen.to_json()})
    else:
        click.echo(f"{source}: {found.layout}")
        rows = [
            [label, *(f"{seen.counts[part][label]:,}" for part in seen.counts)] for label in found.classes
        ]
        table(["class", *seen.counts], rows, right=" ".join(seen.counts))
        for finding in seen.findings:
            click.echo(f"{finding.kind}: {finding.message}")
        if not seen.findings:
            click.echo("nothing was found that would spoil a run")
    sys.exit(3 if seen.findings else 0)
