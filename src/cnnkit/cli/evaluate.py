"""`cnnkit evaluate`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnkit.cli.output import as_json, device, emit, table
from cnnkit.errors import Misuse

if TYPE_CHECKING:
    from cnnkit.train.evaluate import Borders, Evaluation, Fusion

views = click.option(
    "--views",
    type=click.Choice(["center", "flip", "translate", "ten_crop", "multi_crop", "dense", "multi_scale"]),
    default="center",
    show_default=True,
    help="Views of each image whose predictions are averaged.",
)


@click.command("evaluate", short_help="Score trained networks on a data set.")
@click.argument("names", metavar="RUN_OR_ARTEFACT... DATA", nargs=-1, required=True)
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]), help="Which part of the data.")
@views
@click.option("--crf", is_flag=True, help="Let labels of pixels follow the picture's edges (dense CRF).")
@click.option(
    "--borders", is_flag=True, help="Compare ways to look at the pictures by the borders they give."
)
@click.option(
    "--most",
    type=click.IntRange(1),
    metavar="N",
    help="Of --borders: so many images of a larger part, evenly spread. [20]",
)
@click.option(
    "--data-dir", type=click.Path(file_okay=False), metavar="DIR", help="Where built-in data sets are."
)
@device
@click.option(
    "--workers",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Processes that decode photos.",
)
@as_json
def command(
    names: tuple[str, ...],
    split: str | None,
    views: str,
    crf: bool,
    borders: bool,
    most: int | None,
    data_dir: str | None,
    device: str,
    workers: int,
    as_json: bool,
) -> None:
    """Score trained networks on DATA: accuracy or mean IoU, and what is right of each class.

    \b
    Examples:
      cnnkit evaluate runs/classify/lenet5-digits digits
      cnnkit evaluate best.safetensors photos/ --split val
      cnnkit evaluate runs/a runs/b runs/c cifar10 --views flip
      cnnkit evaluate runs/fcn32s runs/fcn8s streets/ --borders

    On the data of the run itself its own split is used, so that nothing is scored that the network has seen.
    Each network has its own preprocessing. Of several classifiers the mean of their probabilities is scored
    too; networks that label pixels are not fused, but stand beside each other.

    --borders lets each network look at the same pictures as they are, with flip, with multi_scale, and with a
    dense CRF behind, and prints mean IoU, F1 of borders (within 0.75 % of the diagonal, Csurka et al. 2013)
    and seconds a picture. Runs with and without skip connections show what those are worth.

    \b
    --views      of each image
      flip         2: as fitted, and mirrored
      translate    6: moved by a pixel both ways, and mirrored (airbench)
      ten_crop     10: corners and centre, and mirrored (AlexNet)
      multi_crop   150: 5 x 5 crops at three scales, and mirrored (VGG)
      dense        all positions of the whole image, and mirrored (VGG)
      multi_scale  the same at three scales

    Pixels are labelled with flip, or multi_scale: three scales, each mirrored too.
    """
    *runs, source = names
    if not runs:
        raise click.UsageError("Missing argument 'DATA'.")
    if (Path(source) / "best.safetensors").is_file():
        raise Misuse(f"{source} is a run; name the data last")
    if borders and (crf or views != "center"):
        raise Misuse("--borders looks in all ways itself; leave out --views and --crf")
    if most is not None and not borders:
        raise Misuse("--most is of --borders; other scores are of all images")
    from cnnkit.tasks.borders import MOST
    from cnnkit.train import evaluate

    if borders:
        where: dict[str, Any] = {"split": split, "data_dir": data_dir, "device": device}
        seen = evaluate.borders(runs, source, most=most or MOST, **where)
        emit(seen.to_json()) if as_json else _show_borders(seen)
        return
    found = evaluate.fuse(
        runs, source, split=split, views=views, crf=crf, data_dir=data_dir, device=device, workers=workers
    )
    if as_json:
        emit(found.to_json() if len(runs) > 1 else next(iter(found.alone.values())).to_json())
    elif found.together is None:
        _show_beside(found)
    else:
        _show(found, found.together)


def _show(found: "Fusion", scored: "Evaluation") -> None:
    """Classes, and the score of one network or of several together."""
    _show_classes(scored)
    if len(found.alone) > 1:
        click.echo()
        rows = {**found.alone, "together": scored}
        _show_networks(rows, accuracy="{:.2%}", loss="{:.4f}")
    figure, value = next(iter(scored.scores.to_json().items()))
    word = f"together {figure}" if len(found.alone) > 1 else figure
    click.echo(f"\n{word} {value:.2%} {_on(scored)}")
    if scored.remark:
        click.echo(scored.remark)


def _show_beside(found: "Fusion") -> None:
    """A row for each network that labels pixels."""
    _show_networks(found.alone, miou="{:.2%}", boundary_f1="{:.2%}", accuracy="{:.2%}")
    click.echo(f"\n{_on(next(iter(found.alone.values())))}")
    for run, one in found.alone.items():
        if one.remark:
            click.echo(f"{run}: {one.remark}")


def _on(scored: "Evaluation") -> str:
    looked = "" if scored.views == "center" else f", {scored.views}"
    return f"on {scored.part}, {scored.images:,} images{looked}"


def _show_borders(seen: "Borders") -> None:
    """A row for each network and way."""
    rows = [
        [run, one.way, f"{one.miou:.2%}", f"{one.boundary_f1:.2%}", f"{one.seconds:.2f}"]
        for run, looks in seen.looks.items()
        for one in looks
    ]
    columns = ["network", "looked at", "miou", "boundary_f1", "seconds"]
    table(columns, rows, right="miou boundary_f1 seconds")
    some = (
        f"{seen.images:,} of {seen.of:,} images, evenly spread"
        if seen.images < seen.of
        else f"{seen.of:,} images"
    )
    click.echo(f"\non {seen.part}, {some}")
    if seen.remark:
        click.echo(seen.remark)


def _show_classes(found: "Evaluation") -> None:
    rows = found.scores.per_class()
    name, *columns = rows[0]
    shown = [
        [row[name], *(f"{row[c]:,}" if isinstance(row[c], int) else f"{row[c]:.3f}" for c in columns)]
        for row in rows
    ]
    table([name, *columns], shown, right=" ".join(columns))


def _show_networks(scored: Mapping[str, "Evaluation"], **figures: str) -> None:
    """Some figures of each network, in these formats."""
    found = {name: one.scores.to_json() for name, one in scored.items()}
    rows = [
        [name, *(shape.format(of[figure]) for figure, shape in figures.items())] for name, of in found.items()
    ]
    table(["network", *figures], rows, right=" ".join(figures))
