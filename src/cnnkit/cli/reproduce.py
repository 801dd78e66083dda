"""`cnnkit reproduce`: the papers' claims, listed and run."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import click

from cnnkit.cli.output import as_json, data_dir, emit, progress, quiet, table
from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.reproduce.experiment import Experiment, Size, experiment, experiments


@click.group("reproduce", short_help="Try the papers' claims.")
def command() -> None:
    """Try claims of papers: train what they compare, and say what came out beside what they report.

    \b
    Examples:
      cnnkit reproduce list
      cnnkit reproduce run relu_tanh --scale tiny
    """


@command.command("list", short_help="List the experiments there are.")
@click.argument("name", required=False)
@as_json
def list_(name: str | None, as_json: bool) -> None:
    """List the experiments, or say all there is to know of one.

    \b
    Examples:
      cnnkit reproduce list
      cnnkit reproduce list degradation
    """
    if name is not None:
        found = experiment(name)
        if as_json:
            emit(dataclasses.asdict(found))
        else:
            _tell(found)
        return
    if as_json:
        emit([dataclasses.asdict(found) for found in experiments().values()])
        return
    rows = [[e.name, e.title, f"{e.paper.venue}, {e.paper.where}"] for e in experiments().values()]
    table(["experiment", "question", "paper"], rows)


def _tell(found: Experiment) -> None:
    """One experiment in words."""
    paper = found.paper
    click.echo(found.title)
    _say("paper", f"{paper.authors}, {paper.title}, {paper.venue}, {paper.where}")
    _say("read", paper.read)
    for claim in found.claims:
        _say("claim", f"{claim.says} The paper: {claim.paper}")
    for name, arm in found.arms.items():
        _say(f"arm {name}", arm.about)
    for size, scale in found.scales.items():
        _say(f"scale {size}", f"{scale.time}; seeds {scale.seeds}")
        for difference in scale.differences:
            click.echo(click.wrap_text(f"- {difference}", 110, "    ", "      "))


def _say(what: str, text: str) -> None:
    click.echo(click.wrap_text(f"{what}: {text}", 110, "  ", "      "))


@command.command("run", short_help="Run one.")
@click.argument("name")
@click.option(
    "--scale",
    type=click.Choice(get_args(Size)),
    default="tiny",
    show_default=True,
    help="tiny tests that it runs, small takes a CPU core an hour or two, full is the paper's protocol.",
)
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Runs of each arm. [as the scale says]")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="[runs/reproduce/NAME-SCALE]")
@click.option("--data", "source", metavar="PATH", help="Data in the place of the scale's own.")
@data_dir
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of arithmetic. [measured]")
@as_json
@quiet
def run(
    name: str,
    scale: Size,
    seeds: int | None,
    output: Path | None,
    source: str | None,
    data_dir: str,
    device: str,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the experiment NAME and leave its runs, table.md, plot.png and result.json in a folder.

    Runs that are there and finished are not run again; an interrupted one is gone on with. A claim is
    reproduced where the difference that it states is larger than its deviation over the seeds, and not
    reproduced where the contrary is; else it is not decided.

    \b
    Examples:
      cnnkit reproduce run relu_tanh
      cnnkit reproduce run batch_norm --scale small --seeds 5 --data-dir ~/data
    """
    found = experiment(name)
    if scale not in found.scales:
        raise Misuse(unknown(scale, list(found.scales), f"scale of {name}"))
    from cnnkit.reproduce.present import rows, write
    from cnnkit.reproduce.run import reproduce

    folder = output or Path("runs") / "reproduce" / f"{name}-{scale}"
    machine: dict[str, Any] = {"device": device} | ({"threads": threads} if threads else {})
    outcome = reproduce(
        found,
        scale,
        folder,
        console=progress(quiet),
        source=source,
        data_dir=data_dir,
        seeds=seeds,
        machine=machine,
    )
    write(outcome, folder)
    if as_json:
        emit(outcome.to_json() | {"output": str(folder)})
        return
    headings, lines = rows(outcome)
    click.echo(f"{found.title}  ({scale}, {Path(outcome.source).name})")
    table(headings, lines, right=" ".join(headings[1:]))
    for claim, judgement in outcome.judgements:
        click.echo(click.wrap_text(f"{judgement.verdict}: {claim.says} ({judgement.reason})", 110, "", "  "))
        click.echo(click.wrap_text(f"the paper: {claim.paper}", 110, "  ", "  "))
    for difference in outcome.differences:
        click.echo(click.wrap_text(f"different: {difference}", 110, "  ", "    "))
    click.echo(f"table, plot and result: {folder}")
