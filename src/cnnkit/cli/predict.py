"""`cnnkit predict`."""

import glob
from collections.abc import Iterator
from pathlib import Path

import click

from cnnkit.cli.output import as_json, device, emit
from cnnkit.errors import Failure, Misuse


@click.command("predict", short_help="Say what is on pictures.")
@click.argument("run", metavar="RUN_OR_ARTEFACT")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes an image.")
@device
@as_json
def command(run: str, images: tuple[str, ...], top: int, device: str, as_json: bool) -> None:
    """Say what is on pictures: files, folders of them, or patterns in quotes.

    \b
    Examples:
      cnnkit predict runs/classify/resnet18-photos picture.jpg
      cnnkit predict best.safetensors 'holiday/*.jpg' --top 1 --json

    A file that cannot be read is named, the others are predicted, and the exit code is 1.
    """
    paths = list(_files(images))
    from cnnkit.tasks.classify import load

    network, found, bad = load(run, device), [], 0
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
