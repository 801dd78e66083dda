"""`cnnkit predict`."""

import glob
from collections.abc import Iterator
from pathlib import Path

import click

from cnnkit.cli.evaluate import views
from cnnkit.cli.output import as_json, device, emit
from cnnkit.errors import Failure, Misuse


@click.command("predict", short_help="Say what is on pictures.")
@click.argument("names", metavar="[RUN] IMAGE...", nargs=-1)
@click.option("--weights", metavar="SOURCE", help="Instead of RUN: a file, torchvision, timm:TAG.")
@click.option("--model", metavar="NAME", help="The network of --weights. [recognised in files]")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes an image.")
@views
@device
@as_json
def command(
    names: tuple[str, ...],
    weights: str | None,
    model: str | None,
    top: int,
    views: str,
    device: str,
    as_json: bool,
) -> None:
    """Say what is on pictures: files, folders of them, or patterns in quotes.

    \b
    Examples:
      cnnkit predict runs/classify/resnet18-photos picture.jpg
      cnnkit predict best.safetensors 'holiday/*.jpg' --top 1 --json
      cnnkit predict --weights torchvision --model resnet50 picture.jpg

    What predicts is a run's folder, an artefact, or weights of others: a state dict of torchvision, timm or
    a network's authors, or a published name. A file that cannot be read is named, the others are predicted,
    and the exit code is 1. --views is explained by `cnnkit evaluate --help`.
    """
    source, images = (names[0], names[1:]) if weights is None and names else (weights, names)
    if source is None or not images:
        raise click.UsageError(f"Missing argument '{'RUN' if source is None else 'IMAGE...'}'.")
    paths = list(_files(images))
    from cnnkit.tasks.classify import load

    network, found, bad = load(source, device, model=model), [], 0
    if views != "center":
        from cnnkit.tasks.views import Viewer

        network = Viewer(network, views)
    for path in paths:
        try:
            prediction = network.predict(path, top)
        except Failure as error:
            click.echo(f"error: {error}", err=True)
            bad += 1
            continue
        found.append(prediction.to_json())
        if not as_json:
            click.echo(str(prediction))
    if as_json:
        emit(found)
    if bad:
        raise Failure(f"{bad} of {len(paths)} pictures could not be read")


def _files(names: tuple[str, ...]) -> Iterator[Path]:
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
            if not inside:
                raise Misuse(f"{path} holds no file")
            yield from inside
        elif path.exists():
            yield path
        elif matches := sorted(glob.glob(name, recursive=True)):
            yield from (Path(match) for match in matches if Path(match).is_file())
        else:
            raise Misuse(f"there is no file, folder or match for {name}")
