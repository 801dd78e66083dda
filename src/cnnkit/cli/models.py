"""`cnnkit models`: reads the canon and the packaged ledger alone, no torch."""

from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

import click

from cnnkit import canon
from cnnkit.canon.published import error
from cnnkit.cli.output import as_json, emit, table
from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.verify import ledger

#: Folder of the canon -> what its networks do.
TASKS = {"classification": "classify", "segmentation": "segment"}


@click.command("models", short_help="List the networks there are.")
@click.argument("pattern", default="*")
@click.option("--task", type=click.Choice(list(TASKS.values())), help="Only networks that do this.")
@as_json
def command(pattern: str, task: str | None, as_json: bool) -> None:
    """List the networks whose name matches PATTERN, with what is published of them.

    \b
    Examples:
      cnnkit models
      cnnkit models 'resnet*' --json
      cnnkit models --task segment

    Parameters and multiply-adds are of the published form, at the input size shown. The error is the paper's
    in percent, of the first answer and of the first five, with how it was measured; where it is not the
    paper's, whose it is comes first; what was not read in a source is unknown. The rung is how far the
    network is verified: see `cnnkit verify --help`.
    """
    entries = [entry for family in canon.families() for entry in canon.entries(family)]
    entries = [entry for entry in entries if task in (None, _task(entry))]
    found = sorted((e for e in entries if fnmatch(e.name, pattern)), key=lambda e: (e.paper.year, e.name))
    if not found:
        raise Misuse(unknown(pattern, [e.name for e in entries]))
    if as_json:
        emit([_record(entry) for entry in found])
        return
    rows = [
        [
            e.name,
            str(e.paper.year),
            "x".join(map(str, e.input)),
            _count(e.params),
            _count(e.macs),
            str(ledger.rung(e.name)),
            _short(str(error(e.published) or "unknown"), 50),
            _short(e.paper.title, 60),
        ]
        for e in found
    ]
    columns = ["name", "year", "input", "parameters", "MACs", "rung", "published error, %", "paper"]
    table(columns, rows, right="parameters MACs rung")


def _task(entry: canon.Entry) -> str:
    return TASKS[entry.family.partition("/")[0]]


def _count(count: canon.Count | None) -> str:
    return "unknown" if count is None else f"{count.value:,}"


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _record(entry: canon.Entry) -> dict[str, Any]:
    published = error(entry.published)
    return {
        "name": entry.name,
        "family": entry.family,
        "task": _task(entry),
        "input": entry.input,
        "parameters": entry.params and entry.params.value,
        "parameters_by": entry.params and entry.params.by,
        "macs": entry.macs and entry.macs.value,
        "macs_by": entry.macs and entry.macs.by,
        "rung": ledger.rung(entry.name),
        "error": published and asdict(published),
        "published": dict(entry.published),
        "paper": entry.paper.title,
        "authors": entry.paper.authors,
        "year": entry.paper.year,
        "arxiv": entry.paper.arxiv,
    }
