"""`cnnkit predict`."""

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnkit.cli.evaluate import views
from cnnkit.cli.output import as_json, device, emit
from cnnkit.errors import Failure, Misuse

if TYPE_CHECKING:
    from cnnkit.tasks import Classifier, Segmenter
    from cnnkit.tasks.segmenter import Segmentation
    from cnnkit.tasks.windows import Windows

LEGEND = "legend.png"

#: Seconds that a picture may still take before it is said how many.
PATIENCE = 20.0


@click.command("predict", short_help="Say what is on pictures.")
@click.argument("names", metavar="[RUN] IMAGE...", nargs=-1)
@click.option("--weights", metavar="SOURCE", help="Instead of RUN: a file, torchvision, timm:TAG.")
@click.option("--model", metavar="NAME", help="The network of --weights. [recognised in files]")
@click.option(
    "--top", type=click.IntRange(1), metavar="N", help="Classes an image, where images are classified. [5]"
)
@views
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Folder that masks go to."
)
@click.option("--overwrite", is_flag=True, help="Replace what --out has of an earlier time.")
@click.option(
    "--window",
    type=click.IntRange(32),
    metavar="N",
    help="Side of what is labelled at once. [up to 704 x 704]",
)
@click.option("--crf", is_flag=True, help="Let labels follow the picture's edges (dense CRF).")
@device
@as_json
def command(
    names: tuple[str, ...],
    weights: str | None,
    model: str | None,
    top: int | None,
    views: str,
    out: Path | None,
    overwrite: bool,
    window: int | None,
    crf: bool,
    device: str,
    as_json: bool,
) -> None:
    """Say what is on pictures: files, folders of them, or patterns in quotes.

    \b
    Examples:
      cnnkit predict runs/classify/resnet18-photos picture.jpg
      cnnkit predict best.safetensors 'holiday/*.jpg' --top 1 --json
      cnnkit predict --weights torchvision --model resnet50 picture.jpg
      cnnkit predict runs/segment/unet-streets streets/ --out masks --views flip

    What predicts is a run's folder, an artefact, or weights of others: a state dict of torchvision, timm or
    a network's authors, or a published name. A file that cannot be read is named, the others are predicted,
    and the exit code is 1. --views is explained by `cnnkit evaluate --help`.

    Of a network that labels pixels, the shares of the classes are printed. --out writes for each picture a
    mask, NAME.png, whose pixels are the classes' numbers, and NAME.overlay.jpg to look at; a large picture is
    labelled in windows, so that memory does not grow with it. --crf takes minutes for one of 12 megapixels;
    what is left to do is said after the first window.
    """
    source, images = (names[0], names[1:]) if weights is None and names else (weights, names)
    if source is None or not images:
        raise click.UsageError(f"Missing argument '{'RUN' if source is None else 'IMAGE...'}'.")
    paths = list(_files(images))
    written = _planned(paths, out, overwrite) if out else {}
    from cnnkit.tasks import Segmenter, load

    network = load(source, device, model=model)
    if isinstance(network, Segmenter):
        from cnnkit.tasks.segment import windows_of

        if top is not None:
            raise Misuse(f"--top is of classified images, and {source} labels pixels")
        windows = replace(windows_of(views, crf), size=window)
        found, bad = _segment(network, paths, windows, written, silent=as_json)
        if out is None and not as_json:
            click.echo("\nmasks and overlays are written with --out FOLDER", err=True)
    else:
        if out is not None or overwrite or window is not None or crf:
            raise Misuse(
                f"--out, --overwrite, --window and --crf are of masks, and {source} classifies images"
            )
        found, bad = _classify(network, paths, views, top or 5, silent=as_json)
    if as_json:
        emit(found)
    if bad:
        raise Failure(f"{bad} of {len(paths)} pictures could not be read")


def _classify(
    network: "Classifier", paths: Sequence[Path], views: str, top: int, silent: bool
) -> tuple[list[dict[str, Any]], int]:
    """What is on pictures, and how many of them could not be read."""
    if views != "center":
        from cnnkit.tasks.views import Viewer

        network = Viewer(network, views)
    found, bad = [], 0
    for path in paths:
        try:
            prediction = network.predict(path, top)
        except Failure as error:
            click.echo(f"error: {error}", err=True)
            bad += 1
            continue
        found.append(prediction.to_json())
        if not silent:
            click.echo(str(prediction))
    return found, bad


def _segment(
    network: "Segmenter", paths: Sequence[Path], windows: "Windows", written: dict[Path, Path], silent: bool
) -> tuple[list[dict[str, Any]], int]:
    """Shares of classes, and how many pictures could not be read; masks go to where they are planned."""
    found, bad = [], 0
    for path in paths:
        try:
            prediction = network.predict(path, windows, _patience(path, windows))
        except Misuse:
            raise
        except Failure as error:
            click.echo(f"error: {error}", err=True)
            bad += 1
            continue
        row = prediction.to_json()
        if path in written:
            row |= _write(prediction, path, written[path])
        found.append(row)
        if not silent:
            click.echo(str(prediction))
    if found and written:
        _write_legend(network.classes, next(iter(written.values())).parent)
    return found, bad


def _patience(path: Path, windows: "Windows") -> Callable[[float], None]:
    """Says once, after the first window of a picture, what the others will take, where that is long."""
    began, told = time.monotonic(), False
    remedy = (
        "leave --crf out, or give a smaller picture" if windows.refine else "a smaller picture takes less"
    )

    def tick(share: float) -> None:
        nonlocal told
        left = (time.monotonic() - began) * (1 - share) / share
        if not told and left > PATIENCE:
            click.echo(f"{path}: about {left:,.0f} s more; {remedy}", err=True)
        told = True

    return tick


def _overlay_of(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}.overlay.jpg")


def _planned(paths: Sequence[Path], out: Path, overwrite: bool) -> dict[Path, Path]:
    """The mask of each picture, before any is made.

    Raises:
        Misuse: two pictures want the same file, or something is there already.
    """
    planned: dict[Path, Path] = {}
    claimed: dict[Path, Path | str] = {out / LEGEND: "the legend"}
    pictures = {path.resolve() for path in paths}
    for path in dict.fromkeys(paths):
        mask = planned[path] = out / f"{path.stem}.png"
        for file in (mask, _overlay_of(mask)):
            if file in claimed:
                raise Misuse(
                    f"{path} and {claimed[file]} would both be written to {file}; predict them apart"
                )
            claimed[file] = path
    for file in claimed:
        if file.resolve() in pictures:
            raise Misuse(f"{file} is a picture to predict and would be overwritten; take another --out")
        if file.exists() and not overwrite:
            raise Misuse(f"{file} exists; --overwrite replaces it, or take another --out")
    return planned


def _write(prediction: "Segmentation", picture: Path, mask: Path) -> dict[str, str]:
    """Mask and overlay of one picture, each all or nothing."""
    from cnnkit.data.pictures import read
    from cnnkit.draw.masks import colours, indexed, overlay

    palette = colours(len(prediction.classes))
    _save(indexed(prediction.mask, palette), mask)
    _save(overlay(read(picture), prediction.mask, palette), _overlay_of(mask), quality=92, subsampling=0)
    return {"mask": str(mask), "overlay": str(_overlay_of(mask))}


def _write_legend(classes: Sequence[str], out: Path) -> None:
    from cnnkit.draw.masks import colours, legend

    _save(legend(classes, colours(len(classes))), out / LEGEND)


def _save(picture: Any, path: Path, **how: Any) -> None:
    from cnnkit.weights.files import atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as scratch:
            picture.save(scratch, "JPEG" if path.suffix == ".jpg" else "PNG", **how)
    except OSError as error:
        raise Failure(f"{path} could not be written: {error}") from None


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
