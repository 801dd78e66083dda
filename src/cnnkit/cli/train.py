"""`cnnkit train`: every flag but a few is a field of the recipe."""

import dataclasses
import os
import tomllib
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from cnnkit.cli.output import as_json, data_dir, emit, progress, quiet, require_known
from cnnkit.train.recipe import SHORT, Recipe, merged
from cnnkit.train.recipes import find

#: Spellings that people bring from elsewhere.
ALIASES = {"image_size": ("--imgsz",), "batch_size": ("--batch",)}

F = TypeVar("F", bound=Callable[..., Any])


class Names(click.ParamType[tuple[str, ...]]):
    """Names between commas, or `none`."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`shift,flip` -> ("shift", "flip")"""
        return tuple(value.split(",")) if value != "none" else ()


#: Headings of the help, each with the first setting below it.
SECTIONS = {
    "model": "Network and its start",
    "epochs": "Steps",
    "label_smoothing": "Regularisation",
    "augment": "Images",
    "seed": "Machine",
    "recipe_name": "Run",
}


class Sectioned(click.Command):
    """A command whose many flags are listed below headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All flags, in their order."""
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        for parameter in self.get_params(ctx):
            if parameter.name in SECTIONS:
                sections.append((SECTIONS[parameter.name], []))
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections[-1][1].append(record)
        for title, records in sections:
            with formatter.section(title):
                formatter.write_dl(records)


def recipe_flags(function: F) -> F:
    """A flag for each field of `Recipe`, in its order; None where it was not given."""
    hints = get_type_hints(Recipe)
    for setting in reversed(dataclasses.fields(Recipe)):
        if setting.name in {"data", "arguments"}:
            continue  # the argument DATA, and what only `--set` can say
        text = setting.metadata["help"]
        if setting.default is not None and setting.default not in (False, ()):
            text += f" [{_named(setting.default)}]"
        for short, whole in reversed(SHORT.items()):
            if whole.partition(".")[0] == setting.name:
                function = _short(short, whole)(function)
        if setting.metadata.get("many"):
            text += f" Any of: {', '.join(setting.metadata['choices'])}."
        kind, metavar = _kind(hints[setting.name], setting.metadata)
        names = (_flag(setting.name), *ALIASES.get(setting.name, ()), setting.name)
        if kind is bool:
            function = click.option(*names, is_flag=True, default=None, help=text)(function)
        else:
            function = click.option(*names, type=kind, default=None, help=text, metavar=metavar)(function)
    return function


def _named(default: Any) -> Any:
    """A default as it is given on the command line."""
    if isinstance(default, tuple):
        return ",".join(part.name for part in default)
    return getattr(default, "name", default)


def _short(name: str, whole: str) -> Callable[[F], F]:
    """The flag of one setting of a part."""
    outer, _, inner = whole.partition(".")
    kinds = next(f for f in dataclasses.fields(Recipe) if f.name == outer).metadata["choices"]
    settings = {
        part: field
        for part, kind in kinds.items()
        for field in dataclasses.fields(kind)
        if field.name == inner
    }
    defaults = ", ".join(f"{field.default:g} for {part}" for part, field in settings.items())
    text = f"{next(iter(settings.values())).metadata['help']} [{defaults}]"
    return click.option(_flag(name), name, type=float, default=None, help=text, metavar="X")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _kind(hint: Any, known: Mapping[str, Any]) -> tuple[Any, str | None]:
    if known.get("many"):
        return Names(), "NAME,..."
    if "choices" in known:
        return click.Choice(list(known["choices"])), "|".join(known["choices"])
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint)), "|".join(get_args(hint))
    if get_origin(hint) is tuple:
        return Names(), "NAME,..."
    return hint, {int: "N", float: "X", str: "NAME", bool: None}[hint]


def assignments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`optimizer.lr=0.4` -> {"optimizer.lr": 0.4}; the value is TOML, or a plain word.

    Raises:
        click.UsageError: there is no equals sign.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--set {pair!r} needs NAME=VALUE, like --set optimizer.lr=0.4")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value.strip()
    return found


@click.command("train", cls=Sectioned, short_help="Train a network on your images.")
@click.argument("source", metavar="[DATA]", required=False)
@recipe_flags
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME|FILE",
    help="Settings to start from: a name of `cnnkit recipes` or a TOML file; flags win.",
)
@click.option(
    "--set", "pairs", multiple=True, metavar="NAME=VALUE", help="Any one setting, like optimizer.lr=0.4."
)
@click.option("--output", type=click.Path(), metavar="DIR", help="Run directory. [runs/TASK/MODEL-DATA]")
@data_dir
@click.option("--resume", is_flag=True, help="Go on with the run that is there; --epochs may be raised.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is there.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be read.")
@as_json
@quiet
def command(
    source: str | None,
    recipe_name: str | None,
    pairs: tuple[str, ...],
    output: str | None,
    data_dir: str,
    resume: bool,
    overwrite: bool,
    skip_bad: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train a network on DATA and leave its weights, metrics and report in a run directory.

    \b
    Examples:
      cnnkit train photos/ --model resnet18 --epochs 30
      cnnkit train digits --model lenet5
      cnnkit train photos/ --model resnet50 --weights torchvision --freeze features
      cnnkit train streets/ --model unet_padded_bn --loss cross_entropy,dice
      cnnkit train --recipe resnet20_cifar10 --set optimizer.lr=0.05

    DATA is a folder with one folder of images a class, or with train/, val/ and test/ above those; a folder
    with images/ and masks/, train/ and trainannot/ or JPEGImages/ and SegmentationClass/, for networks that
    label pixels; or one of digits, mnist, fashion_mnist, cifar10.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with a run and --overwrite deletes it; give one of them")
    given = {name: value for name, value in flags.items() if value is not None}
    settings = merged(find(recipe_name) if recipe_name else {}, {**given, **assignments(pairs)})
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, this one speaks
    if first:
        require_known(settings.get("model"))
    from cnnkit.train.fit import fit

    run = fit(
        source,
        output=output,
        resume=resume,
        overwrite=overwrite,
        data_dir=data_dir,
        skip_bad=skip_bad,
        console=progress(quiet),
        **settings,
    )
    if not first:
        return
    summary = run.summary
    if as_json:
        emit(summary | {"run": str(run.path), "best": str(run.best), "report": str(run.report)})
        return
    figure = summary["chosen_by"].partition(" ")[0]
    for part in ("test", "val"):
        if part in summary:
            chose = "  (this part chose the checkpoint)" if part == "val" else ""
            click.echo(f"{f'{part} {figure}':15}{summary[part][figure]:.2%}{chose}")
    click.echo(f"{'network':15}{run.best}\n{'report':15}{run.report}")
