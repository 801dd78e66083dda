"""Planning a run: the data opened and looked at, every choice made, the folder begun; nothing trained."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit import data as datasets
from cnnkit.data import DataSet
from cnnkit.data.batches import Batch, batches, fitted
from cnnkit.errors import Failure, Misuse
from cnnkit.models import specs
from cnnkit.registry import Spec, unknown
from cnnkit.tasks.classify import outputs
from cnnkit.tasks.task import Task, first
from cnnkit.tasks.task import choose as choose_task
from cnnkit.train.changing import arguments, check, fresh
from cnnkit.train.checks import check_classes, check_task, check_weights, usable
from cnnkit.train.directory import Directory, environment
from cnnkit.train.distributed import check_shared, in_parts, job, may_skip, restarted, shared
from cnnkit.train.find import beginning
from cnnkit.train.measure import choose
from cnnkit.train.recipe import SHORT, Recipe, make, merged
from cnnkit.train.resolve import resolve
from cnnkit.train.transfer import Transfer, begin, carry, hold, nearest_classes
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
    backbone = load(recipe.backbone_weights) if recipe.backbone_weights else None
    spec = find(recipe.model)
    data = opened(source, data_dir, recipe)
    check_task(recipe, spec, data)
    directory = Directory(Path(output) if output else default_folder(spec, data.name))
    if restarted() and directory.job == job():
        if directory.is_begun:
            return resumed(source, directory.path, settings)
        overwrite = True
    directory.check(overwrite=overwrite)
    seen, data = usable(data, skip_bad, console)
    data = data.split()
    check_classes(data, recipe)
    recipe, preprocessing = resolve(recipe, spec, data, seen, start, backbone)
    check_shared(recipe)
    network, transfer = None, None
    torch.manual_seed(recipe.seed)  # what is new depends on it
    if start is not None:
        rows = alike(start, data, preprocessing, recipe) if recipe.head == "mapped" else ()
        network, transfer = carry(start, str(recipe.weights), data.classes, rows)
    elif backbone is not None:
        network, transfer = begin(
            spec, arguments(recipe, data, preprocessing, None), backbone, str(recipe.backbone_weights)
        )
    if network is not None and transfer is not None:
        hold(network, recipe.freeze, transfer.filled)
    check(recipe, data, preprocessing, transfer)
    _check_weak(recipe, data, preprocessing, transfer)
    recipe, told = _measured(recipe, data, preprocessing, transfer, network)
    if told:
        console.print(told, highlight=False, soft_wrap=True)
    config = {
        "data": {
            "source": str(Path(source).resolve()) if Path(source).is_dir() else str(source),
            "data_dir": str(data_dir.resolve()),
            "task": data.task,
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
    return Plan(directory, data, recipe, preprocessing, config, transfer, network)


def opened(source: str | Path, data_dir: Path, recipe: Recipe, without: Collection[str] = ()) -> DataSet:
    """The data, as the recipe wants them read."""
    return datasets.open(
        source,
        data_dir=data_dir,
        without=without,
        share=recipe.share,
        classes=recipe.classes,
        ignore=recipe.ignore,
    )


def alike(start: Loaded, data: DataSet, to: Preprocessing, recipe: Recipe) -> list[int]:
    """The old classes that respond to the training images of the new ones."""
    feed = batches(data.parts["train"], to, recipe.batch_size or 1, workers=recipe.workers or 0)
    found = nearest_classes(outputs(start.model, feed, to, recipe.device), len(data.classes))
    start.model.cpu()
    return found


def task_of(data: DataSet, recipe: Recipe) -> Task:
    """What the network is trained for."""
    return choose_task(
        data.task, classes=data.classes, losses=recipe.loss, label_smoothing=recipe.label_smoothing
    )


def margin_of(recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None) -> int:
    """What the network loses of its input on each side."""
    with torch.device("meta"):
        return int(getattr(fresh(recipe, data, to, transfer), "margin", 0))


def _check_weak(recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None) -> None:
    """Refuse images without masks where the network says nothing of whole images.

    Raises:
        Misuse: the network names no classes.
    """
    if recipe.mask_share is None:
        return
    with torch.device("meta"):
        network = fresh(recipe, data, to, transfer)
    if getattr(network, "aux", None) is not True:
        raise Misuse(
            f"--mask-share leaves images whose classes alone are known, and {recipe.model} names none; use "
            f"decouplednet or co_cnn_iccv2015 with --set arguments.aux=true"
        )


def weigher(recipe: Recipe, data: DataSet) -> Callable[[Tensor], Tensor] | None:
    """What makes of masks the weights of their pixels, where a loss wants such a map."""
    return next((map for loss in recipe.loss if (map := loss.weigh(data.classes))), None)


def _some(recipe: Recipe, data: DataSet, to: Preprocessing, margin: int) -> Batch:
    """A batch of the training part, not augmented beyond what makes all images one size."""
    part, size = data.parts["train"], recipe.batch_size or 1
    if part.masks is not None:
        feed = batches(part, to, size, seed=recipe.seed, margin=margin, weigh=weigher(recipe, data))
        return next(iter(feed))
    chosen = range(min(size, len(part)))
    return {"images": fitted(part, to, chosen), "labels": torch.tensor([part.labels[i] for i in chosen])}


def _measured(
    recipe: Recipe, data: DataSet, to: Preprocessing, transfer: Transfer | None, start: nn.Module | None
) -> tuple[Recipe, str]:
    """The recipe with its arithmetic chosen on this machine, and what to say of it."""
    network = start if start is not None else fresh(recipe, data, to, transfer)
    recipe = shared(recipe, sum(p.numel() for p in network.parameters()), may_skip(network, recipe))
    if recipe.distribute == "fsdp":
        return in_parts(recipe), ""
    batch = _some(recipe, data, to, getattr(network, "margin", 0))
    there = {name: tensor.to(recipe.device) for name, tensor in batch.items()}
    task = task_of(data, recipe)
    return choose(
        recipe,
        network,
        to.normalise(batch["images"]),
        lambda output: task.loss(output, beginning(there, len(first(output)))),
        math.ceil(len(data.parts["train"]) / (recipe.batch_size or 1)) * recipe.epochs,
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
    # nothing was learnt yet: nothing else has the weights
    loaded = load(plan.transfer.source, None if recipe.backbone_weights else recipe.model)
    torch.manual_seed(recipe.seed)
    if recipe.backbone_weights:
        network, _ = begin(find(recipe.model), plan.transfer.arguments, loaded, plan.transfer.source)
    else:
        network, _ = carry(loaded, plan.transfer.source, plan.data.classes, plan.transfer.rows)
    return replace(plan, start=network)


def follow(
    folder: Path, config: Mapping[str, Any], split: Mapping[str, list[str]], preprocessing: Preprocessing
) -> Plan:
    """The plan that a configuration describes, without the weights that it starts from.

    Raises:
        Failure: the data have changed.
    """
    where = config["data"]
    recipe = make(config["recipe"], str(folder / "config.toml"))
    data = opened(where["source"], Path(where["data_dir"]), recipe, where["left_out"]).split(split)
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
    """A network by name.

    Raises:
        Misuse: there is none; the sentence has the nearest names.
    """
    known = {spec.name: spec for spec in specs()}
    if name is None:
        raise Misuse("name a network with --model; `cnnkit models` lists them")
    if name not in known:
        raise Misuse(unknown(name, known))
    return known[name]
