"""`cnnkit augment`."""

from pathlib import Path
from typing import Any

import click

from cnnkit.cli.output import as_json, emit
from cnnkit.data.augment import AUGMENTATIONS, Augmentation, parse
from cnnkit.errors import Misuse

#: The side at which photos are shown whose network is not known, and below which an image keeps its own.
USUAL, SMALL = 224, 64


@click.command("augment", short_help="Show what augmentation does to an image.")
@click.argument("image", metavar="IMAGE", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where the picture goes."
)
@click.option(
    "--mask",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="IMAGE's mask, to be changed along with it.",
)
@click.option("--recipe", metavar="NAME|FILE", help="Show this recipe's augmentation.")
@click.option("--augment", metavar="NAME,...", help="Show these instead. [all there are]")
@click.option(
    "--image-size", type=click.IntRange(1, 4096), metavar="N", help="Side of the network's input. [224]"
)
@click.option(
    "--versions",
    type=click.IntRange(1, 50),
    metavar="N",
    default=6,
    show_default=True,
    help="Versions a row.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Of what is random."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE where it exists.")
@as_json
def command(
    image: Path,
    out: Path,
    mask: Path | None,
    recipe: str | None,
    augment: str | None,
    image_size: int | None,
    versions: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Draw IMAGE as training would change it: a row for each augmentation, and one for all together.

    \b
    Examples:
      cnnkit augment bee.jpg --recipe resnet20_cifar10 --out grid.png
      cnnkit augment bee.jpg --augment crop,flip,colour_jitter --out grid.png
      cnnkit augment street.png --mask street_mask.png --augment window,flip --out grid.png

    Without --recipe and --augment every augmentation there is has a row. Numbers that training takes from the
    data (colours of pca_colour, cutout) are taken from IMAGE.
    """
    if recipe is not None and augment is not None:
        raise click.UsageError("--recipe and --augment both say what to show; give one of them")
    if out.exists() and not overwrite:
        raise Misuse(f"{out} exists; name another file, or add --overwrite")
    if not out.parent.is_dir():
        raise Misuse(f"there is no folder {out.parent} to draw {out.name} in; make it first")
    changes, size, how, title = _asked(recipe, augment)
    kinds = _kinds()
    if out.suffix.lower() not in kinds:
        raise Misuse(f"--out {out} is no kind of picture that can be written; end it in .png or .jpg")
    from cnnkit.data.pictures import read
    from cnnkit.data.preview import preview
    from cnnkit.weights.files import atomic
    from cnnkit.weights.preprocessing import Preprocessing

    picture = read(image)
    short = min(picture.size)
    side = image_size or size or (short if short <= SMALL else USUAL)
    grey = picture.mode == "L"
    if mask is not None and how != "window":
        how = "squash"
    to = Preprocessing(
        (side, side),
        fit=how,
        keep=0.875 if short > side else 1.0,
        mean=(0.5,) * (1 if grey else 3),
        std=(1.0,) * (1 if grey else 3),
        channels="L" if grey else "RGB",
    )
    if recipe is None and augment is None:
        changes = tuple(
            change
            for change in changes
            if len(to.mean) in change.channels and (mask is None or change.for_masks)
        )
    together = recipe is not None or augment is not None
    sheet = preview(
        image, to, changes, mask=mask, title=title, versions=versions, seed=seed, together=together
    )
    with atomic(out) as scratch:
        sheet.save(scratch, kinds[out.suffix.lower()])
    if as_json:
        emit({"out": str(out), "image_size": side, "augment": [change.plain() for change in changes]})
        return
    for change in changes:
        click.echo(str(change))
    click.echo(f"drawn in {out}")


def _asked(recipe: str | None, augment: str | None) -> tuple[tuple[Augmentation, ...], int | None, Any, str]:
    """What to show, at which size and fit where the recipe says, and a title."""
    if recipe is not None:
        from cnnkit.train.recipe import make
        from cnnkit.train.recipes import find

        made = make(find(recipe), recipe)
        if not made.augment:
            raise Misuse(f"{recipe} names no augmentation; show some with --augment crop,flip")
        return made.augment, made.image_size, made.fit or "crop", f"recipe {recipe}"
    names = AUGMENTATIONS if augment is None else augment.split(",")
    return parse(names), None, "crop", ""


def _kinds() -> dict[str, str]:
    """Endings of picture files that can be written, and what Pillow calls their format."""
    from PIL import Image

    return {end: kind for end, kind in Image.registered_extensions().items() if kind in Image.SAVE}
