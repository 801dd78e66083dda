"""From what was asked to what will be done: a recipe's open choices made from network and data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cnnkit import canon
from cnnkit.data import DataSet, Examination, augment
from cnnkit.data.balance import frequencies
from cnnkit.data.batches import fits_in_memory, fitted, statistics
from cnnkit.errors import Misuse
from cnnkit.registry import Spec
from cnnkit.train.distributed import cores
from cnnkit.train.recipe import Recipe
from cnnkit.weights.preprocessing import Fit, Preprocessing, fit_preprocessing
from cnnkit.weights.sources import Loaded

#: The smallest input that is chosen unasked, for networks that take any.
SMALLEST = 32


#: Share of the learning rate at which weights learn that were trained before.
BACKBONE_FACTOR = 0.1


def resolve(
    recipe: Recipe,
    spec: Spec,
    data: DataSet,
    seen: Examination,
    start: Loaded | None = None,
    backbone: Loaded | None = None,
) -> tuple[Recipe, Preprocessing]:
    """A recipe without open choices, and how images become the network's input.

    With weights to start from, the input is what they were trained on, where that is known; an image size
    or a fit that is asked for wins. With those of a backbone, its colours are.

    Raises:
        Misuse: the network does not take images of the size that was asked for; the device is not there, or
            does not compute in the precision that was asked for.
    """
    _check_fit(recipe, data)
    device = _device(recipe.device)
    if recipe.precision == "16" and device == "cpu":
        raise Misuse(
            "--precision 16 is for GPUs, a CPU's short numbers are bf16; use --precision bf16 or auto"
        )
    channels = 1 if seen.grey and backbone is None else 3
    arguments = {**(recipe.arguments or {}), "num_classes": len(data.classes), "in_channels": channels}
    if recipe.arguments:
        _can_build(spec, arguments, recipe.arguments)
    if start is not None:
        arguments = {**start.arguments, "num_classes": len(data.classes)}
    if start is not None and start.preprocessing is not None:
        to = start.preprocessing
        if recipe.image_size is not None:
            size = _size(recipe, spec, arguments, seen.side)
            to = replace(to, size=(size, size), whitening=to.whitening if to.size == (size, size) else None)
        to = replace(to, fit=recipe.fit or to.fit)
        if recipe.normalise not in {"dataset", to.normalisation}:
            raise Misuse(
                f"the weights want {to.normalisation!r} images; leave out --normalise {recipe.normalise}"
            )
    else:
        size = _size(recipe, spec, arguments, seen.side)
        to = _preprocessing(recipe, size, arguments["in_channels"], seen, data)
    if backbone is not None and backbone.preprocessing is not None:
        theirs = backbone.preprocessing
        to = replace(to, mean=theirs.mean, std=theirs.std, channels=theirs.channels)
    to = _learned(to, data)
    train = data.parts["train"]
    small = data.task == "classify" and fits_in_memory(len(train), to)
    changes = augment.parse(_usual(recipe, to, small)) if recipe.augment is None else recipe.augment
    batch_size = recipe.batch_size or _batch_size(len(train), to, small)
    if recipe.batch_size == 1 or len(train) == 1:
        _check_single(spec, arguments, to)
    resolved = replace(
        recipe,
        batch_size=batch_size,
        loss=tuple(loss.resolved(lambda: frequencies(train, data.classes)) for loss in recipe.loss),
        augment=augment.resolve(changes, train, to),
        image_size=to.size[0],
        fit=to.fit,
        normalise=to.normalisation,
        cache=None if recipe.cache is None else str(Path(recipe.cache).resolve()),
        device=device,
        workers=recipe.workers if recipe.workers is not None else 0 if small else min(8, cores()),
        backbone_factor=recipe.backbone_factor or BACKBONE_FACTOR if start or backbone else None,
    )
    return resolved, to


def _can_build(spec: Spec, arguments: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse arguments that the network does not take.

    Raises:
        Misuse: with the network's own words.
    """
    try:
        with torch.device("meta"):
            spec.build(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        words = ", ".join(f"{name} = {value!r}" for name, value in asked.items())
        raise Misuse(f"{spec.name} cannot be built with {words}: {str(error).splitlines()[0]}") from None


#: How a picture may get to the network's size; the first is the usual one.
FITS: dict[str, tuple[Fit, ...]] = {"classify": ("crop", "squash", "pad"), "segment": ("window", "squash")}


def _check_fit(recipe: Recipe, data: DataSet) -> None:
    """Refuse what makes no sense for this task.

    Raises:
        Misuse: naming the setting.
    """
    fits = FITS[data.task]
    if recipe.fit not in (None, *fits):
        raise Misuse(f"--fit {recipe.fit} is not for networks to {data.task}; use {' or '.join(fits)}")
    if data.task == "segment" and recipe.normalise in ("zca", "gcn_zca"):
        raise Misuse(
            f"--normalise {recipe.normalise} whitens images of one size; use dataset, image, lcn or pca"
        )


def _usual(recipe: Recipe, to: Preprocessing, small: bool) -> list[str]:
    """The augmentation that is chosen unasked."""
    if recipe.cached_features == 1:
        return []
    if to.fit == "window":
        return ["window", "flip"]
    if small:
        return ["shift"] if to.channels == "L" else ["shift", "flip"]
    return ["crop", "flip"]


def _batch_size(images: int, to: Preprocessing, small: bool) -> int:
    """About forty steps an epoch, in powers of two: from 16 to 128, for photos to 32, for windows 4 to 8."""
    size, most = (4, 8) if to.fit == "window" else (16, 128 if small else 32)
    while size * 2 <= min(most, images // 40):
        size *= 2
    return size


def _size(recipe: Recipe, spec: Spec, arguments: Mapping[str, Any], side: int) -> int:
    """The side that was asked for; else the images' own where the network takes it, at most the paper's."""
    paper = canon.entry(spec.canon, spec.name).input[-1]
    if recipe.image_size is not None:
        if reason := refusal(spec, arguments, recipe.image_size):
            raise Misuse(
                f"{spec.name} does not take {recipe.image_size} x {recipe.image_size} images ({reason}); "
                f"its paper's size is --image-size {paper}"
            )
        return recipe.image_size
    own = _taken(spec, arguments, min(paper, max(SMALLEST, side)))
    return paper if refusal(spec, arguments, own) else own


def _taken(spec: Spec, arguments: Mapping[str, Any], side: int) -> int:
    """The largest side up to this one that a network with steps of its own takes, or its smallest."""
    with torch.device("meta"):
        network = spec.build(**arguments)
    step = getattr(network, "image_step", 1)
    if step == 1:
        return side
    smallest = int(getattr(network, "smallest_image", step))
    return smallest + max(0, side - smallest) // step * step


def _check_single(spec: Spec, arguments: Mapping[str, Any], to: Preprocessing) -> None:
    """Refuse batches of one image where a batch norm would have one value a channel.

    Raises:
        Misuse: with the remedy.
    """
    with torch.device("meta"):
        try:
            spec.build(**arguments).train()(torch.zeros(1, len(to.mean), *to.size))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise Misuse(
                f"{spec.name} has a batch norm over one value a channel when a batch is one image, and one "
                f"value has no variance; use --batch-size 2 or more, and two images or more"
            ) from None


def refusal(spec: Spec, arguments: Mapping[str, Any], size: int) -> str:
    """Why a network does not take images of that size, or nothing; tried without memory or arithmetic."""
    with torch.device("meta"):
        try:
            spec.build(**arguments).eval()(torch.zeros(2, arguments["in_channels"], size, size))
        except (RuntimeError, ValueError) as error:
            return str(error).splitlines()[0].rstrip(".")
    return ""


def _preprocessing(
    recipe: Recipe, size: int, channels: int, seen: Examination, data: DataSet
) -> Preprocessing:
    a_little_smaller = seen.one_size and 0.75 * size <= seen.side < size
    to = Preprocessing(
        size=(size, size),
        fit=recipe.fit or ("pad" if a_little_smaller and data.task == "classify" else FITS[data.task][0]),
        keep=0.875 if seen.side > size and data.task == "classify" else 1.0,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        channels="L" if channels == 1 else "RGB",
    )
    mean, std = statistics(data.parts["train"], to)
    try:
        return replace(to, mean=mean, std=std, normalisation=recipe.normalise)
    except ValueError as error:
        raise Misuse(f"--normalise {recipe.normalise}: {error}") from None


def _learned(to: Preprocessing, data: DataSet) -> Preprocessing:
    """The same with what its normalisation learns of the training part.

    Raises:
        Misuse: there is too little to learn from.
    """
    if not to.values or to.whitening is not None:
        return to
    train = data.parts["train"]
    some = range(0, len(train), max(1, len(train) // 256)) if to.normalisation == "pca" else None
    try:
        return fit_preprocessing(to, lambda: fitted(train, to, some))
    except ValueError as error:
        raise Misuse(f"--normalise {to.normalisation}: {error}") from None


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        raise Misuse(f"--device {asked!r} is not known; use auto, cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise Misuse(f"--device {asked} is not there on this machine; use --device cpu or auto")
    return asked
