"""`cnnkit recipes`: what ways of training come with the package."""

from typing import Any

import click

from cnnkit.cli.output import as_json, emit
from cnnkit.train.recipe import Entry, entries, source_of


@click.command("recipes", short_help="List the recipes there are.")
@click.argument("name", required=False)
@as_json
def command(name: str | None, as_json: bool) -> None:
    """List the recipes that `cnnkit train --recipe NAME` takes, or print one as TOML.

    \b
    Examples:
      cnnkit recipes
      cnnkit recipes resnet20_cifar10 > mine.toml
    """
    if name is not None:
        click.echo(source_of(name), nl=False)
        return
    found = entries()
    if as_json:
        emit([_row(entry) for entry in found])
        return
    width = max(len(entry.name) for entry in found)
    for entry in found:
        click.echo(f"{entry.name:{width}}  {entry.title}")
        for line in filter(None, (entry.source, entry.reaches)):
            click.echo(click.wrap_text(line, 110, " " * (width + 2), " " * (width + 2)))


def _row(entry: Entry) -> dict[str, Any]:
    about = {"name": entry.name, "title": entry.title, "source": entry.source, "reaches": entry.reaches}
    return about | {"settings": dict(entry.settings)}
