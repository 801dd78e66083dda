"""`cnnkit evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnnkit.cli.output import as_json, device, emit, table
from cnnkit.errors import Misuse

if TYPE_CHECKING:
    from cnnkit.train.evaluate import Evaluation, Fusion

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
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where built-in data sets are.")
@device
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode photos."
)
@as_json
def command(
    names: tuple[str, ...],
    split: str | None,
    views: str,
    data_dir: str | None,
    device: str,
    workers: int,
    as_json: bool,
) -> None:
    """Score trained networks on DATA: accuracy, and precision and recall of each class.

    \b
    Examples:
      cnnkit evaluate runs/classify/lenet5-digits digits
      cnnkit evaluate best.safetensors photos/ --split val
      cnnkit evaluate runs/a runs/b runs/c cifar10 --views flip

    On the data of the run itself its own split is used, so that nothing is scored that the network has seen.
    Of several networks the mean of their probabilities is scored too; each has its own preprocessing.

    \b
    --views      of each image
      flip         2: as fitted, and mirrored
      translate    6: moved by a pixel both ways, and mirrored (airbench)
      ten_crop     10: corners and centre, and mirrored (AlexNet)
      multi_crop   150: 5 x 5 crops at three scales, and mirrored (VGG)
      dense        all positions of the whole image, and mirrored (VGG)
      multi_scale  the same at three scales
    """
    *runs, source = names
    if not runs:
        raise click.UsageError("Missing argument 'DATA'.")
    if (Path(source) / "best.safetensors").is_file():
        raise Misuse(f"{source} is a run; name the data last")
    from cnnkit.train.evaluate import fuse

    found = fuse(runs, source, split=split, views=views, data_dir=data_dir, device=device, workers=workers)
    if as_json:
        emit(found.to_json() if len(runs) > 1 else found.together.to_json())
        return
    _show_classes(found.together)
    if len(runs) > 1:
        _show_networks(found)
    scored, (figure, value) = found.together, next(iter(found.together.scores.to_json().items()))
    word = f"together {figure}" if len(runs) > 1 else figure
    looked = "" if views == "center" else f", {views}"
    click.echo(f"\n{word} {value:.2%} on {scored.part}, {scored.images:,} images{looked}")
    if scored.remark:
        click.echo(scored.remark)


def _show_classes(found: "Evaluation") -> None:
    rows = found.scores.per_class()
    name, *columns = rows[0]
    shown = [
        [row[name], *(f"{row[c]:,}" if isinstance(row[c], int) else f"{row[c]:.3f}" for c in columns)]
        for row in rows
    ]
    table([name, *columns], shown, right=" ".join(columns))


def _show_networks(found: "Fusion") -> None:
    scored = {**found.alone, "together": found.together}
    figures = {name: one.scores.to_json() for name, one in scored.items()}
    rows = [[name, f"{f['accuracy']:.2%}", f"{f['loss']:.4f}"] for name, f in figures.items()]
    click.echo()
    table(["network", "accuracy", "loss"], rows, right="accuracy loss")
