"""`cnnkit inspect`: what is in a network, what it costs, what each unit sees."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnkit.cli.output import as_json, data_dir, emit, progress, quiet, require_known
from cnnkit.errors import Failure, Misuse

if TYPE_CHECKING:
    from rich.console import Console

    from cnnkit.inspect.published import Published
    from cnnkit.inspect.questions import Answer
    from cnnkit.inspect.subject import Subject
    from cnnkit.inspect.table import Table

#: Flags that ask something else than the table, and those that belong to them.
QUESTIONS = {
    "compare": (),
    "check": ("layer",),
    "effective": ("layer", "draws", "out"),
    "at": ("image", "out"),
    "as_dense": (),
    "without": (),
    "gradients": ("data", "steps", "against", "out"),
}
TABLE = ("depth", "csv", "html", "figure")
#: A table that nobody reads in a terminal is not cut.
WIDE = 400


class Place(click.ParamType[tuple[str, tuple[int, ...]]]):
    """A layer and a unit of its map: `features.0,10,12`."""

    name = "place"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """`features.0,10,12` -> ("features.0", (10, 12))"""
        found = re.fullmatch(r"([^,]*)((?:,\d+)+)", str(value))
        if found is None:
            self.fail(f"{value!r} is no unit of a layer such as features.0,10,12", param, ctx)
        return found[1], tuple(int(part) for part in found[2].split(",")[1:])


FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("inspect", short_help="Say what a network holds, costs and sees.")
@click.argument("sources", metavar="MODEL...", nargs=-1)
@click.option(
    "--input", "inputs", metavar="SHAPE", multiple=True, help="Of one example, as 3,224,224; see below."
)
@click.option("--batch", type=click.IntRange(1), help="Examples a batch. [1; 8 for --gradients]")
@click.option("--depth", type=click.IntRange(0), help="Sum up modules below this level. [show all]")
@as_json
@click.option("--csv", is_flag=True, help="Print the rows as CSV.")
@click.option("--html", type=FILE, metavar="FILE", help="Write the table as a page whose rows fold.")
@click.option("--figure", type=FILE, metavar="FILE.svg", help="Draw the network.")
@click.option("--run", is_flag=True, help="Trace one real forward, for networks that decide by numbers.")
@click.option("--compare", is_flag=True, help="Several networks side by side.")
@click.option("--check", is_flag=True, help="Hold receptive fields to gradients; exit code 3 if they differ.")
@click.option("--effective", is_flag=True, help="Measure how much of its receptive field a unit uses.")
@click.option(
    "--layer", multiple=True, metavar="NAME", help="For --check, --effective; or all. [each size's last]"
)
@click.option("--draws", type=click.IntRange(1), help="For --effective: draws of the weights. [10]")
@click.option("--at", type=Place(), metavar="LAYER,Y,X", help="Say what this unit sees.")
@click.option("--image", type=FILE, metavar="FILE", help="For --at: draw its box on this picture.")
@click.option("--out", type=FILE, metavar="FILE", help="The picture of --at, --effective or --gradients.")
@click.option("--as-dense", metavar="LAYER", help="What a convolution would cost fully or locally connected.")
@click.option("--without", type=click.Choice(["pooling"]), help="What the network would cost without.")
@click.option("--gradients", is_flag=True, help="Norms of activations and gradients, layer by layer.")
@click.option("--data", metavar="DATA", help="For --gradients: a folder, digits ... [random images]")
@click.option("--steps", type=click.IntRange(0), help="For --gradients: and after so many steps. [10]")
@click.option("--against", multiple=True, metavar="CHANGE", help="For --gradients: beside it changed.")
@data_dir
@quiet
def command(sources: tuple[str, ...], as_json: bool, quiet: bool, **given: Any) -> None:
    """Say what is in a network, what it costs and what its units see, without running it or allocating its
    weights.

    \b
    Examples:
      cnnkit inspect resnet50
      cnnkit inspect net.py:build --input 3,64,64 --depth 2

    MODEL is a name of `cnnkit models`, a run's folder or file of weights, or FILE.py:NAME, where NAME is a
    function or class of your own file that returns a torch.nn.Module; the file is run to get it.

    \b
    --input is given once for each argument, without the batch:
      3,224,224              float32; the default is what the canon or the weights tell
      int64:16               another type; zeros
      question=int64:16      an argument by name
      list:3,480,640         a list with a tensor an example, as detectors take

    \b
    Changes of --against, several at once between commas:
      sigmoid, tanh, relu    another activation
      no-norm, norm          without batch norm, or with one behind each convolution
      no-shortcuts           plain instead of residual
    With --gradients and no MODEL, stacks of 30 equal layers are compared in all these respects.
    """
    question = asked(sources, as_json, given)
    for source in sources:
        if re.fullmatch(r"[\w-]+", source) and not Path(source).exists():
            require_known(source)
    with progress(quiet).status("importing torch") as status:
        from cnnkit.inspect.inputs import Form
        from cnnkit.inspect.questions import counted
        from cnnkit.inspect.subject import subject

        forms = tuple(Form.read(text) for text in given["inputs"])
        networks = [subject(source).called_with(forms) for source in sources]
        status.update("tracing")
        if question is not None:
            answer = answered(question, networks, given, status.update)
        else:
            made, published = counted(
                networks[0], given["batch"] or 1, run=given["run"], depth=given["depth"]
            )
    if question is None:
        overview(made, published, as_json, given)
        return
    say(answer, given["out"], as_json)
    sys.exit(0 if answer.passed else 3)


def asked(sources: tuple[str, ...], as_json: bool, given: dict[str, Any]) -> str | None:
    """The one question that the flags ask, or None for the table.

    Raises:
        Misuse: they ask two, or one stands without what it belongs to.
    """
    flag = {name: "--" + name.replace("_", "-") for name in given}
    there = [
        name for name, value in given.items() if value is not None and value is not False and value != ()
    ]
    questions = [name for name in there if name in QUESTIONS]
    if len(questions) > 1:
        raise Misuse(f"{flag[questions[0]]} and {flag[questions[1]]} are two questions; ask one at a time")
    question = questions[0] if questions else None
    for name in there:
        owners = [q for q, its in QUESTIONS.items() if name in its]
        if owners and question not in owners:
            raise Misuse(f"{flag[name]} belongs to {' or '.join(flag[q] for q in owners)}")
        if name in TABLE and question is not None:
            raise Misuse(f"{flag[name]} is about the table, which {flag[question]} does not show")
    if as_json and given["csv"]:
        raise Misuse("--json and --csv are two forms of one result; give one of them")
    if given["figure"] is not None and given["figure"].suffix != ".svg":
        raise Misuse(f"--figure draws SVG, so {given['figure']} must end in .svg")
    if question == "at" and (given["image"] is None) != (given["out"] is None):
        raise Misuse("--image and --out belong together: the picture, and where it goes with the unit's box")
    if given["run"] and question in ("check", "effective", "without", "gradients"):
        raise Misuse(f"--run is about how a network is traced, and {flag[question]} runs it anyway")
    if given["batch"] is not None and question in ("check", "effective", "at", "as_dense"):
        raise Misuse(f"--batch changes nothing about {flag[question]}, which looks at one example")
    if not sources and (given["inputs"] or given["against"]):
        raise Misuse(f"--{'input' if given['inputs'] else 'against'} is about a network; name one")
    if question == "compare" and len(sources) < 2:
        raise Misuse("--compare sets several networks side by side; name at least two")
    if len(sources) > 1 and question not in ("compare", "gradients"):
        raise Misuse(f"{len(sources)} networks are given; add --compare to see them side by side")
    if not sources and question != "gradients":
        raise Misuse("name a network: one of `cnnkit models`, a file of weights, or FILE.py:NAME")
    return question


def overview(made: "Table", published: "list[Published]", as_json: bool, given: dict[str, Any]) -> None:
    """The table, in the form that was asked for, and what is drawn of it."""
    from cnnkit.inspect import render

    if given["html"] is not None:
        from cnnkit.inspect.page import as_html

        write(given["html"], as_html(made, published))
        click.echo(f"page: {given['html']}", err=True)
    if given["figure"] is not None:
        from cnnkit.inspect.figure import drawing

        write(given["figure"], drawing(made.trace, name=made.name))
        click.echo(f"drawing: {given['figure']}", err=True)
    if as_json:
        emit(render.record(made, published))
    elif given["csv"]:
        click.echo(render.as_csv(made), nl=False)
    elif given["html"] is None and given["figure"] is None:
        console = terminal()
        console.print(render.text(made, published, width=console.width))


def terminal() -> "Console":
    """Standard output; what is piped is not cut to a width."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def answered(question: str, networks: list["Subject"], given: dict[str, Any], told: Any) -> "Answer":
    """What is said to one of `QUESTIONS`."""
    from cnnkit.inspect import questions

    batch, run = given["batch"] or 1, given["run"]
    if question == "compare":
        return questions.compared(networks, batch, run=run)
    if question == "check":
        return questions.checked(networks[0], given["layer"], told)
    if question == "effective":
        return questions.used(networks[0], given["layer"], given["draws"] or 10, told)
    if question == "at":
        return questions.looked_at(networks[0], given["at"][0], given["at"][1], given["image"], run=run)
    if question == "as_dense":
        return questions.dense(networks[0], given["as_dense"], run=run)
    if question == "without":
        return questions.unpooled(networks[0], batch)
    from cnnkit import data
    from cnnkit.inspect.descent import descended
    from cnnkit.inspect.otherwise import CHANGES

    changes = [tuple(names.split(",")) for names in given["against"]]
    for name in (name for names in changes for name in names if name not in CHANGES):
        raise Misuse(f"--against {name}: there is no such change; there are {', '.join(CHANGES)}")
    images = data.open(given["data"], data_dir=Path(given["data_dir"])).split() if given["data"] else None
    steps = 10 if given["steps"] is None else given["steps"]
    return descended(networks, changes, images, steps=steps, batch=given["batch"] or 8, told=told)


def say(answer: "Answer", out: Path | None, as_json: bool) -> None:
    """An answer on stdout, its warnings on stderr, its picture in a file."""
    from PIL import Image

    if as_json:
        emit(answer.record)
    else:
        console = terminal()
        for part in answer.parts:
            console.print(part, soft_wrap=isinstance(part, str), markup=False)
    for warning in answer.warnings:
        click.echo(f"warning: {warning}", err=True)
    if out is not None:
        try:
            if isinstance(answer.picture, Image.Image):
                answer.picture.save(out)
            elif answer.picture is not None:
                answer.picture.savefig(out, dpi=110)
        except (OSError, ValueError, KeyError) as error:
            raise Failure(f"{out} could not be written: {error}") from None


def write(path: Path, text: str) -> None:
    """A file, all at once.

    Raises:
        Failure: it cannot be written.
    """
    from cnnkit.weights.files import atomic

    try:
        with atomic(path) as scratch:
            scratch.write_text(text, "utf-8")
    except OSError as error:
        raise Failure(f"{path} could not be written: {error.strerror}") from None
