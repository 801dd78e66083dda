"""What is refused before a run begins: settings that say nothing, and data that cannot be trained on."""

from typing import Any

from rich.console import Console

from cnnkit import data as datasets
from cnnkit.data import DataSet, Examination
from cnnkit.data.balance import balance
from cnnkit.errors import Failure, Misuse
from cnnkit.registry import Spec
from cnnkit.train.recipe import Recipe

#: Settings that say something of carried-over weights, and what they are without any.
OF_WEIGHTS = {
    **dict.fromkeys(("freeze", "backbone_factor", "stage_factor", "unfreeze", "cached_features")),
    "head": "new",
}

#: Regularisers that put noise before the head in every step, where cached features are made once.
BEFORE_THE_HEAD = {"dropblock", "spatial_dropout", "stochastic_depth"}

#: Settings that say something of one task alone, and what they are without.
OF_TASK: dict[str, dict[str, Any]] = {
    "classify": {
        **{"mix": (), "disturb_labels": 0.0, "label_noise": 0.0, "head": "new"},
        **dict.fromkeys(("cached_features", "unfreeze", "stage_factor", "cache")),
    },
    "segment": dict.fromkeys(("classes", "ignore", "backbone_weights", "mask_share")),
}

#: What data of a task look like.
SHAPES = {
    "classify": "a folder of images for each class",
    "segment": "images with masks: images/ + masks/, train/ + trainannot/, JPEGImages/ + SegmentationClass/",
}


def check_task(recipe: Recipe, spec: Spec, data: DataSet) -> None:
    """Refuse a network on the data of another task, and settings that say nothing of this one or its classes.

    Raises:
        Misuse: naming both.
    """
    if spec.task != data.task:
        raise Misuse(
            f"{spec.name} is a network to {spec.task} and wants {SHAPES[spec.task]}; {data.source} is "
            f"{data.layout}"
        )
    for task, settings in OF_TASK.items():
        for name, without in settings.items():
            if task != data.task and getattr(recipe, name) != without:
                raise Misuse(f"--{name.replace('_', '-')} says nothing to {data.task}; leave it out")
    for loss in recipe.loss:
        if data.task == "segment" and not loss.of_pixels:
            raise Misuse(f"the loss {loss.name} is not for networks to {data.task}; leave it out")
        loss.check(len(data.classes))


def check_weights(recipe: Recipe) -> None:
    """Refuse settings of carried-over weights where there are none, and of random ones where there are some.

    Raises:
        Misuse: naming the setting.
    """
    if recipe.weights is not None and recipe.backbone_weights is not None:
        raise Misuse("--weights has all of a network and --backbone-weights a part; give one of them")
    for name, without in OF_WEIGHTS.items():
        if not (recipe.weights or recipe.backbone_weights) and getattr(recipe, name) != without:
            raise Misuse(f"--{name.replace('_', '-')} is about weights that are carried over; give --weights")
    if recipe.freeze == "features" and recipe.unfreeze is not None:
        raise Misuse(
            "--freeze features keeps all but the head as it is to the end, and --unfreeze has nothing to "
            "wake then; give --unfreeze alone"
        )
    noise = [part.name for part in recipe.regularise if part.name in BEFORE_THE_HEAD]
    if recipe.cached_features is not None and noise:
        raise Misuse(f"{noise[0]} is noise in what --cached-features runs only once; leave one of them out")
    if recipe.weights is not None and recipe.arguments:
        raise Misuse("arguments build a new network, and --weights carries one over; give one of them")
    if recipe.weights is not None and recipe.init:
        raise Misuse("--init sets weights anew, and --weights carries them over; give one of them")


def usable(data: DataSet, skip_bad: bool, console: Console) -> tuple[Examination, DataSet]:
    """Look at every image; refuse those that cannot be read, or leave them out where that was asked for.

    Raises:
        Failure: some cannot be read.
    """
    with console.status("looking at every image") as status:
        seen = datasets.examine(
            data, lambda done, total: status.update(f"looking at image {done:,} of {total:,}")
        )
    bad = [f for f in seen.findings if f.kind == "unreadable"]
    if bad and not skip_bad:
        raise Failure(
            f"{len(bad)} of the images cannot be used, the first: {bad[0].message}; "
            f"`cnnkit check {data.source}` names them all, --skip-bad trains without them"
        )
    for finding in seen.findings:
        if finding.kind != "classes":
            word = "left out" if finding.kind == "unreadable" else "warning"
            console.print(f"{word}: {finding.message}", style="yellow", highlight=False, soft_wrap=True)
    return seen, data.without(seen.unreadable)


def check_classes(data: DataSet, recipe: Recipe) -> None:
    """Refuse data that cannot be trained on.

    Raises:
        Failure: no training part, an empty part or one whose pixels are all ignored, one class only, or a
            class without training images.
    """
    if "train" not in data.parts:
        raise Failure(f"{data.source} has no training part, only {', '.join(data.parts)}")
    if len(data.classes) < 2:
        raise Failure(f"{data.source} has only one class, {data.classes[0]!r}; a network needs two")
    for name, part in data.parts.items():
        if not len(part):
            remedy = "add some, or remove the folder" if recipe.share is None else "leave --share out"
            raise Failure(f"the {name} part of {data.source} has no image; {remedy}")
        if part.masks is not None and all(balance(part, data.classes).empty):
            raise Failure(
                f"no pixel of the {name} part of {data.source} counts, all are ignored; look at its masks, "
                f"and at what their values mean"
            )
    if data.task != "classify":
        return
    if absent := set(range(len(data.classes))) - set(data.parts["train"].labels):
        missing = data.classes[min(absent)]
        remedy = "add some, or remove that class" if recipe.share is None else "leave --share out"
        raise Failure(f"{data.source} has no training image of {missing!r}; {remedy}")
