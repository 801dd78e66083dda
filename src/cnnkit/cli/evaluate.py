"""`cnnkit evaluate`."""

import click

from cnnkit.cli.output import as_json, device, emit, table


@click.command("evaluate", short_help="Score a trained network on a data set.")
@click.argument("run", metavar="RUN_OR_ARTEFACT")
@click.argument("source", metavar="DATA")
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]), help="Which part of the data.")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Where built-in data sets are.")
@device
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode photos."
)
@as_json
def command(
    run: str, source: str, split: str | None, data_dir: str | None, device: str, workers: int, as_json: bool
) -> None:
    """Score a trained network on DATA: accuracy, and precision and recall of each class.

    \b
    Examples:
      cnnkit evaluate runs/classify/lenet5-digits digits
      cnnkit evaluate best.safetensors photos/ --split val

    On the data of the run itself its own split is used, so that nothing is scored that the network has seen.
    """
    from cnnkit.train.evaluate import evaluate

    found = evaluate(run, source, split=split, data_dir=data_dir, device=device, workers=workers)
    if as_json:
        emit(found.to_json())
        return
    columns = ["class", "images", "precision", "recall", "f1"]
    rows = [
        [row["class"], f"{row['images']:,}", *(f"{row[name]:.3f}" for name in columns[2:])]
        for row in found.scores.per_class()
    ]
    table(columns, rows, right="images precision recall f1")
    click.echo(f"\naccuracy {found.scores.accuracy:.2%} on {found.part}, {found.images:,} images")
    if found.remark:
        click.echo(found.remark)
