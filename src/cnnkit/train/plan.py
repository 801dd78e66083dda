"""Planning a run: the data opened and looked at, every choice made, the folder begun; nothing trained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from cnnkit import data as datasets
from cnnkit.data import DataSet, Examination
from cnnkit.data.batches import batches, fitted
from cnnkit.errors import Failure, Misuse
from cnnkit.models import specs
from cnnkit.registry import Spec, unknown
from cnnkit.tasks.classify import Classify, outputs
from cnnkit.train.changing import arguments, check
from cnnkit.train.directory import Directory, environment
from cnnkit.train.distributed import check_shared, in_parts, job, restarted, shared
from cnnkit.train.measure import choose
from cnnkit.train.recipe import SHORT, Recipe, make, merged
from cnnkit.train.resolve import resolve
from cnnkit.train.transfer import Transfer, carry, hold, nearest_classes
from cnnkit.weights.preprocessing import Preprocessing
from cnnkit.weights.sources import Loaded, load

#: Settings that a run may be resumed with other values of; epochs can only be raised.
CAN_CHANGE = {"epochs", "device", "workers", "threads", "cache"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that is ready to start.

    Attributes:
        directory: where it goes.
        data: split.
        recipe: resolved.
        preprocessing: resolved.
        config: both, and where the data come from, as they are stored.
        transfer: what was taken over of other weights.
        start: those weights, with a head for these classes; nothing where a checkpoint has newer ones.

    The first of several processes plans; `shared` is what the others need to `follow` it.
    """

    directory: Directory
    data: DataSet
    recipe: Recipe
    preprocessing: Preprocessing
    config: Mapping[str, Any]
    transfer: Transfer | None = None
    start: nn.Module | None = None

    @property
    def shared(self) -> tuple[Path, Mapping[str, Any], Mapping[str, list[str]], Preprocessing]:
        """The folder, the configuration, the split, and how images become the input."""
        return self.directory.path, self.config, self.directory.split, self.preprocessing


def new(
    source: str | Path | None,
    output: str | Path | None,
    *,
    overwrite: bool,
    data_dir: Path,
    skip_bad: bool,
    console: Console,
    settings: Mapping[str, Any],
) -> Plan:
    """A new run. What can be refused is refused before anything is written.

    Raises:
        Misuse: a name, a path or a setting is wrong, or the folder is taken.
        Failure: the data cannot be trained on.
    """
    recipe = make(settings, "settings")
    source = source or recipe.data
    if source is None:
        raise Misuse("name the data to train on: a folder of images, or digits, mnist, cifar10 ...")
    start = load(recipe.weights, recipe.model) if recipe.weights else None
    if start is not None:
        recipe = replace(recipe, model=start.name)
    check_weights(recipe)
    spec = find(recipe.model)
    data = datasets.open(source, data_dir=data_dir, share=recipe.share)
    directory = Directory(Path(output) if output else default_folder(spec, data.name))
    if restarted() and directory.job == job():
        if directory.is_begun:
            return resumed(source, directory.path, settings)
        overwrite = True
    directory.check(overwrite=overwrite)
    seen, data = usable(data, skip_bad, console)
    data = data.split()
    check_classes(data)
    recipe, preprocessing = resolve(recipe, spec, data, seen, start)
    check_shared(recipe)
    transfer = None
    if start is not None:
        torch.manual_seed(recipe.seed)  # the new head depends on it
        rows = alike(start, data, preprocessing, recipe) if recipe.head == "mapped" else ()
        transfer = carry(start, str(recipe.weights), data.classes, rows)
        hold(start.model, recipe.freeze)
    check(recipe, data, preprocessing, transfer)
    recipe, told = _measured(recipe, spec, data, preprocessing, start.model if start else None)
    if told:
        console.print(told, highlight=False, soft_wrap=True)
    config = {
        "data": {
            "source": str(Path(source).resolve()) if Path(source).is_dir() else str(source),
            "data_dir": str(data_dir.resolve()),
            "layout": data.layout,
            "classes": list(data.classes),
            "left_out": list(seen.unreadable),
            "parts": {name: len(part) for name, part in data.parts.items()},
        },
        "recipe": recipe.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        **({"transfer": transfer.to_dict()} if transfer else {}),
        **({"job": job()} if job() else {}),
    }
    directory.begin()
    directory.write_config(config)
    directory.write("environment.txt", environment())
    directory.write_json("split.json", data.set_aside)
    directory.write_learned(preprocessing)
    return Plan(directory, data, recipe, preprocessing, config, transfer, start.model if start else None)


#: Settings that say something of carried-over weights, and what they are without any.
OF_WEIGHTS = {
    **dict.fromkeys(("freeze", "backbone_factor", "stage_factor", "unfreeze", "cached_features")),
    "head": "new",
}


def check_weights(recipe: Recipe) -> None:
    """Refuse settings of carried-over weights where there are none, and of random ones where there are some.

    Raises:
        Misuse: naming the setting.
    """
    for name, without in OF_WEIGHTS.items():
        if recipe.weights is None and getattr(recipe, name) != without:
            raise Misuse(f"--{name.replace('_', '-')} is about weights that are carried over; give --weights")
    if recipe.weights is not None and recipe.arguments:
        raise Misuse("arguments build a new network, and --weights carries one over; give one of them")
    if recipe.weights is not None and recipe.init:
        raise Misuse("--init sets weights anew, and --weights carries them over; give one of them")


def alike(start: Loaded, data: DataSet, to: Preprocessing, recipe: Recipe) -> list[int]:
    """The old classes that respond to the training images of the new ones."""
    feed = batches(data.parts["train"], to, recipe.batch_size or 1, workers=recipe.workers or 0)
    found = nearest_classes(outputs(start.model, feed, to, recipe.device), len(data.classes))
    start.model.cpu()
    return found


def _measured(
    recipe: Recipe, spec: Spec, data: DataSet, to: Preprocessing, start: nn.Module | None
) -> tuple[Recipe, str]:
    """The recipe with its arithmetic chosen on this machine, and what to say of it."""
    part, size = data.parts["train"], recipe.batch_size or 1
    network = start or spec.build(**arguments(recipe, data, to, None))
    recipe = shared(recipe, sum(p.numel() for p in network.parameters()))
    if recipe.distribute == "fsdp":
        return in_parts(recipe), ""
    chosen = range(min(size, len(part)))
    labels = torch.tensor([part.labels[i] for i in chosen], device=recipe.device)
    task = Classify(data.classes, recipe.loss, recipe.label_smoothing)
    return choose(
        recipe,
        network,
        to.normalise(fitted(part, to, chosen)),
        lambda output: task.loss(output, labels[: len(task.logits(output))]),
        math.ceil(len(part) / size) * recipe.epochs,
    )


def resumed(source: str | Path | None, output: str | Path | None, settings: Mapping[str, Any]) -> Plan:
    """The plan of a run that was begun, with more epochs, another device or other workers where asked for.

    Raises:
        Misuse: there is no such run, or a setting differs that may not.
        Failure: the data have changed.
    """
    if output is None:
        if source is None or settings.get("model") is None:
            raise Misuse("name the run to resume with --output, or by its data and --model")
        folder = default_folder(find(settings["model"]), Path(source).resolve().name)
    else:
        folder = Path(output)
    directory = Directory(folder)
    directory.require()
    config = directory.config
    stored = make(config["recipe"], str(folder / "config.toml"))
    recipe = _changed(stored, settings, directory)
    check_shared(recipe)
    config = {**config, "recipe": recipe.to_dict(), **({"job": job()} if job() else {})}
    plan = follow(folder, config, directory.split, directory.preprocessing)
    directory.write_config(config)
    if plan.transfer is None or directory.last.exists():
        return plan
    loaded = load(plan.transfer.source, recipe.model)  # nothing was learnt yet: nothing else has the weights
    torch.manual_seed(recipe.seed)
    carry(loaded, plan.transfer.source, plan.data.classes, plan.transfer.rows)
    return replace(plan, start=loaded.model)


def follow(
    folder: Path, config: Mapping[str, Any], split: Mapping[str, list[str]], preprocessing: Preprocessing
) -> Plan:
    """The plan that a configuration describes, without the weights that it starts from.

    Raises:
        Failure: the data have changed.
    """
    where = config["data"]
    recipe = make(config["recipe"], str(folder / "config.toml"))
    data = datasets.open(
        where["source"], data_dir=Path(where["data_dir"]), without=where["left_out"], share=recipe.share
    ).split(split)
    if list(data.classes) != where["classes"]:
        raise Failure(f"{data.source} has other classes now than when {folder} was started")
    transfer = Transfer(**config["transfer"]) if "transfer" in config else None
    return Plan(Directory(folder), data, recipe, preprocessing, config, transfer)


def _changed(stored: Recipe, settings: Mapping[str, Any], directory: Directory) -> Recipe:
    """The stored recipe with what may change and was asked for."""
    asked = make(merged(stored.to_dict(), settings), "settings")
    for name in settings:
        outer, _, inner = SHORT.get(name, name).partition(".")
        before, now = (getattr(recipe, outer) for recipe in (stored, asked))
        if outer in CAN_CHANGE or before == now:
            continue
        if hasattr(before, inner) and type(before) is type(now):
            before, now = getattr(before, inner), getattr(now, inner)
        raise Misuse(f"{directory.path} was started with {name} = {before!s}; {now!s} needs a new run")
    if asked.epochs < stored.epochs:
        raise Misuse(f"{directory.path} was started for {stored.epochs} epochs; --epochs can only be raised")
    return asked


def default_folder(spec: Spec, data: str) -> Path:
    """Where a run goes unless it is told."""
    return Path("runs") / spec.task / f"{spec.name}-{data}"


def find(name: str | None) -> Spec:
    """A classifier by name.

    Raises:
        Misuse: there is none; the sentence has the nearest names.
    """
    known = {spec.name: spec for spec in specs()}
    if name is None:
        raise Misuse("name a network with --model; `cnnkit models` lists them")
    if name not in known:
        raise Misuse(unknown(name, [spec.name for spec in specs(task="classify")]))
    if known[name].task != "classify":
        raise Misuse(
            f"{name} is a network to {known[name].task}; what is trained here classifies whole images"
        )
    return known[name]


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


def check_classes(data: DataSet) -> None:
    """Refuse data that a classifier cannot be trained on.

    Raises:
        Failure: no training part, an empty part, one class only, or a class without training images.
    """
    if "train" not in data.parts:
        raise Failure(f"{data.source} has no training part, only {', '.join(data.parts)}")
    if len(data.classes) < 2:
        raise Failure(f"{data.source} has only one class, {data.classes[0]!r}; a classifier needs two")
    for name, part in data.parts.items():
        if not len(part):
            raise Failure(f"the {name} part of {data.source} has no image; add some, or remove the folder")
    if absent := set(range(len(data.classes))) - set(data.parts["train"].labels):
        missing = data.classes[min(absent)]
        raise Failure(f"{data.source} has no training image of {missing!r}; add some, or remove that class")
