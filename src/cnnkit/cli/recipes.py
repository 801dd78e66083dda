"""`cnnkit recipes`: what ways of training come with the package."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from cnnkit.cli.output import as_json, emit
from cnnkit.parts import Part
from cnnkit.train.recipe import known_parts
from cnnkit.train.recipes import Entry, entries, source_of


@click.command("recipes", short_help="List the recipes there are.")
@click.argument("name", required=False)
@click.option("--parts", is_flag=True, help="All parts that a recipe can name, with their settings.")
@as_json
def command(name: str | None, parts: bool, as_json: bool) -> None:
    """List the recipes that `cnnkit train --recipe NAME` takes, or print one as TOML.

    \b
    Examples:
      cnnkit recipes
      cnnkit recipes resnet20_cifar10 > mine.toml
      cnnkit recipes --parts
    """
    if parts:
        _show(known_parts(), as_json)
        return
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


def _show(known: Mapping[str, Mapping[str, type[Part]]], as_json: bool) -> None:
    """Parts by the setting that takes them."""
    if as_json:
        emit(
            {
                setting: {
                    name: {"meaning": kind.meaning(), "settings": _settings(kind)}
                    for name, kind in kinds.items()
                }
                for setting, kinds in known.items()
            }
        )
        return
    for setting, kinds in known.items():
        click.echo(setting)
        for name, kind in kinds.items():
            click.echo(click.wrap_text(f"{name}: {kind.meaning()}", 110, "  ", "      "))
            for inner, (default, meaning) in _settings(kind).items():
                click.echo(click.wrap_text(f"{inner} = {default}: {meaning}", 110, "      ", "          "))


def _settings(kind: type[Part]) -> dict[str, tuple[Any, str]]:
    return {f.name: (f.default, f.metadata["help"]) for f in dataclasses.fields(kind)}  # type: ignore[arg-type]


def _row(entry: Entry) -> dict[str, Any]:
    about = {"name": entry.name, "title": entry.title, "source": entry.source, "reaches": entry.reaches}
    return about | {"settings": dict(entry.settings)}
