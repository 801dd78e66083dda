"""From a data set and a recipe to a run directory."""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cnnkit.data.batches import Batches, Order, batches, derive, fitted
from cnnkit.data.cache import Tick
from cnnkit.data.splits import hold_out
from cnnkit.tasks import load
from cnnkit.tasks.task import Scores, observed
from cnnkit.train.cached import Features, cut, run_once
from cnnkit.train.callbacks import Keeper, Live, best_of, gave_up
from cnnkit.train.changing import arguments, change, fresh
from cnnkit.train.directory import Directory
from cnnkit.train.distributed import ALONE, World, cores, may_skip, together
from cnnkit.train.find import settle
from cnnkit.train.guards import clear_words, stoppable, without_advice
from cnnkit.train.mix import noisy
from cnnkit.train.module import Training
from cnnkit.train.panels import write_report
from cnnkit.train.parted import weights_of
from cnnkit.train.plan import Plan, find, follow, margin_of, new, resumed, task_of, weigher
from cnnkit.train.recipe import Recipe
from cnnkit.train.synchronised import synchronised
from cnnkit.train.trainer import make_trainer
from cnnkit.train.transfer import Unfreezer, hold, levels, shares
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card


def fit(
    source: str | Path | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    data_dir: str | Path = "data",
    skip_bad: bool = False,
    console: Console | None = None,
    **settings: Any,
) -> Directory:
    """Train a network and leave a run directory: `fit("digits", model="lenet5_relu", epochs=20)`.

    Args:
        source: a folder of images or a built-in data set; not needed to resume.
        output: the run directory, by default `runs/<task>/<model>-<data>`.
        resume: go on with the run that is there, from the end of its last epoch.
        overwrite: replace the run that is there.
        data_dir: where built-in data sets are looked for and downloaded to.
        skip_bad: leave out images that cannot be read instead of refusing to start.
        console: where progress goes, by default standard error.
        settings: fields of `Recipe`.

    Raises:
        Misuse: what was asked for makes no sense: a name, a path, a setting.
        Failure: it could not be done: data, disk, memory, numbers.
        Stopped: it was interrupted; what was done is saved.
    """
    began = time.perf_counter()
    threads = torch.get_num_threads()
    with together() as world:
        console = (console or Console(stderr=True)) if world.first else Console(quiet=True)
        if not world.first:
            plan = follow(*world.received())
        elif resume:
            plan = resumed(source, output, settings)
        else:
            plan = new(
                source,
                output,
                overwrite=overwrite,
                data_dir=Path(data_dir),
                skip_bad=skip_bad,
                console=console,
                settings=settings,
            )
        torch.set_num_threads(plan.recipe.threads or threads)
        try:
            with clear_words(plan), stoppable(plan), plan.directory.held() if world.first else nullcontext():
                if world.first:
                    _tell(plan, world, console)
                    plan = _settled(plan, console)
                    world.send(plan.shared)
                history = descend(plan, console, world)
                if world.first:
                    _finish(plan, history, time.perf_counter() - began)
        finally:
            torch.set_num_threads(threads)
    return plan.directory


def _tell(plan: Plan, world: World, console: Console) -> None:
    """Say what is going to be trained."""
    recipe = plan.recipe
    console.print(_opening(plan, world), highlight=False, soft_wrap=True)
    if plan.transfer is not None:
        told = plan.transfer.told(str(recipe.model), recipe.freeze, recipe.backbone_factor or 1.0)
        console.print(told, highlight=False, soft_wrap=True)


def _opening(plan: Plan, world: World) -> str:
    recipe, data = plan.recipe, plan.data
    return (
        f"{recipe.model} on {data.name}: {len(data.parts['train']):,} training images, "
        f"{len(data.classes)} classes, {recipe.image_size} px, batch {recipe.batch_size}, "
        f"lr {recipe.optimizer.lr:g}, seed {recipe.seed}, {recipe.device}"
        + (f", shared by {world.size} processes" if world.size > 1 else "")
    )


def _settled(plan: Plan, console: Console) -> Plan:
    """The plan with what was to be found by trying, which is stored; a run that has begun knows it."""
    if not plan.recipe.find:
        return plan
    network, _ = build(plan)
    task = task_of(plan.data, plan.recipe)
    rates = _rates(plan, _levels(plan, network))

    def feed(recipe: Recipe) -> Batches:
        return feeds(replace(plan, recipe=recipe))[0]

    recipe, tried = settle(plan.recipe, network, feed, plan.preprocessing, task.loss, rates)
    config = {**plan.config, "recipe": recipe.to_dict()}
    plan.directory.write_json("found.json", tried)
    plan.directory.write_config(config)
    told = {"lr": f"lr {recipe.optimizer.lr:g}", "batch_size": f"batch {recipe.batch_size}"}
    console.print(f"found by trying: {', '.join(told[name] for name in tried)}", highlight=False)
    return replace(plan, recipe=recipe, config=config)


def build(plan: Plan) -> tuple[nn.Module, Card]:
    """The network, with the weights that it starts from or that its seed gives, and its document."""
    recipe, data, transfer = plan.recipe, plan.data, plan.transfer
    spec = find(recipe.model)
    provenance: dict[str, Any] = {
        "data": data.name,
        "images": len(data.parts["train"]),
        "seed": recipe.seed,
    }
    if transfer is not None:
        provenance["weights"] = transfer.provenance
    torch.manual_seed(recipe.seed)
    network = plan.start
    if network is None:
        network = fresh(recipe, data, plan.preprocessing, transfer)
    looks = any(start.looks for start in recipe.init)
    surgery = list(transfer.surgery) if transfer else []
    surgery += change(network, recipe, plan.preprocessing, _first_images(plan) if looks else None)
    hold(network, recipe.freeze, transfer.filled if transfer else ())
    card = Card(
        model=spec.name,
        task=data.task,
        classes=list(data.classes),
        preprocessing=plan.preprocessing,
        arguments=arguments(recipe, data, plan.preprocessing, transfer),
        surgery=surgery,
        recipe=recipe.to_dict(),
        provenance=provenance,
        licence=transfer.licence or None if transfer else None,
    )
    return network, card


def _first_images(plan: Plan) -> Tensor:
    """A normalised batch of the training part."""
    part, to = plan.data.parts["train"], plan.preprocessing
    return to.normalise(fitted(part, to, range(min(len(part), plan.recipe.batch_size or 1))))


def feeds(plan: Plan, tick: Tick = lambda done, total: None) -> tuple[Batches, Batches]:
    """Batches of the training part, shuffled and augmented, and of the validation part.

    Where the recipe has a cache, it is made first, and `tick` is told how far it is.
    """
    recipe, to = plan.recipe, plan.preprocessing
    cache = Path(recipe.cache) if recipe.cache else None
    size, workers = recipe.batch_size or 1, recipe.workers or 0
    part = plan.data.parts["train"]
    if recipe.label_noise:
        random = np.random.default_rng(derive(recipe.seed, 5))
        part = replace(part, labels=noisy(part.labels, len(plan.data.classes), recipe.label_noise, random))
    train = batches(
        part,
        to,
        size,
        seed=recipe.seed,
        augmentation=recipe.augment or (),
        workers=workers,
        cache=cache,
        tick=tick,
        **_of_masks(plan),
    )
    size = max(size, 256 if workers == 0 else size)
    return train, batches(plan.data.parts["val"], to, size, workers=workers, cache=cache, tick=tick)


def _of_masks(plan: Plan) -> dict[str, Any]:
    """What else a feed of images with masks must know."""
    if plan.data.task != "segment":
        return {}
    margin = margin_of(plan.recipe, plan.data, plan.preprocessing, plan.transfer)
    return {"margin": margin, "weigh": weigher(plan.recipe, plan.data), "weak": _weak(plan)}


def _weak(plan: Plan) -> list[int]:
    """Training images of which only the classes are learnt that they show, always the same ones."""
    share, labels = plan.recipe.mask_share, plan.data.parts["train"].labels
    if share is None:
        return []
    learnt = set(hold_out(labels, share))
    return [index for index in range(len(labels)) if index not in learnt]


def features(plan: Plan, body: nn.Module, train: Batches, val: Batches) -> tuple[Features, Features]:
    """What the frozen part of the network makes of both parts of the data."""
    recipe, to, folder = plan.recipe, plan.preprocessing, plan.directory.path
    views = recipe.cached_features or 1
    return (
        run_once(body, train, to, views, recipe.device, folder),
        run_once(body, val, to, 1, recipe.device, folder),
    )


def descend(plan: Plan, console: Console, world: World = ALONE) -> list[dict[str, float]]:
    """Gradient descent from where the run stands to its last epoch; the rows of all epochs."""
    recipe, directory = plan.recipe, plan.directory
    done = world.led(lambda: directory.load_checkpoint()["history"] if directory.last.exists() else [])
    task = task_of(plan.data, recipe)
    if len(done) >= recipe.epochs or gave_up(done, task.best, recipe.early_stop):
        return done
    model, card = build(plan)
    if done and world.first and recipe.cached_features is not None:
        directory.restore(model)
    world.align(model)
    if world.size > 1 and (recipe.sync_batch_norm or recipe.distribute == "fsdp"):
        model = synchronised(model, recipe.device)
    found = _levels(plan, model)
    train: Batches | Features
    val: Batches | Features
    with world.in_turn(), console.status("reading the images") as status:
        whole = feeds(plan, lambda done, all: status.update(f"caching photo {done:,} of {all:,}"))
    train, val = whole
    parted = None
    if recipe.cached_features is not None:
        parted = cut(model, str(recipe.freeze), _first_images(plan))
        with console.status("running the frozen part once"):
            train, val = features(plan, parted.body(model), *whole)
    for feed in (train, val):
        if isinstance(feed.batch_sampler, Order):
            feed.batch_sampler.among(world.rank, world.size)
    training = Training(model, task, plan.preprocessing, recipe, _rates(plan, found), parted, world)

    def save_best(path: Path, metrics: dict[str, float]) -> None:
        weights = weights_of(training.evaluated)
        if world.first:
            artefact.save(path, weights, artefact.with_metrics(card, "val", metrics))

    live = Live(console, recipe.epochs, task.best, _advice(recipe, train))
    keeper = Keeper(directory, save_best, done, live.show, world, recipe.early_stop)
    callbacks: list[Callback] = [live, keeper]
    if recipe.unfreeze is not None:
        callbacks.append(Unfreezer(recipe.unfreeze, found))
    if isinstance(
        train.batch_sampler, Order
    ):  # the Trainer makes its first iterator before it sets the epoch
        train.batch_sampler.set_epoch(len(done))
    with without_advice():
        trainer = make_trainer(recipe, directory, callbacks, world, may_skip(model, recipe))
        trainer.fit(training, train, val, ckpt_path=str(directory.last) if done else None, weights_only=True)
    return keeper.history


def _levels(plan: Plan, network: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters from the logits down, where some of them were carried over."""
    return levels(network, plan.transfer.head, plan.transfer.filled) if plan.transfer else []


def _rates(plan: Plan, found: list[list[nn.Parameter]]) -> dict[int, float]:
    """By the id of a parameter of these levels, the share of the learning rate at which it learns."""
    return shares(found, plan.recipe.backbone_factor or 1.0, plan.recipe.stage_factor or 1.0)


def _advice(recipe: Recipe, feed: Batches | Features) -> str:
    """What to change where the network waits for data."""
    if not isinstance(feed, DataLoader):
        return "batches are made in this process; try fewer or simpler augmentations"
    most = cores()
    more = f"--workers {min(most, 2 * (recipe.workers or 1))}" if (recipe.workers or 0) < most else ""
    return f"try {more}" if more else "the processor cannot decode the photos any faster"


def _finish(plan: Plan, history: list[dict[str, float]], seconds: float) -> None:
    """Score the best network on the parts that are there, and write the summary and the report."""
    directory, data, recipe = plan.directory, plan.data, plan.recipe
    network = load(directory.best, recipe.device)
    task = task_of(data, replace(recipe, label_smoothing=0.0))
    scores: dict[str, Scores] = {}
    for name in ("val", "test"):
        if name in data.parts:
            size = 32 if recipe.workers else 256
            feed = batches(data.parts[name], plan.preprocessing, size, workers=recipe.workers or 0)
            rows = observed(task, network.model, feed, plan.preprocessing, recipe.device)
            scores[name] = task.score(rows)
    best = best_of(history, task.best) or {}
    summary = {
        "model": recipe.model,
        "data": data.name,
        "seed": recipe.seed,
        "epochs": len(history),
        "best_epoch": int(best["epoch"]),
        "chosen_by": f"{task.best} on val",
        "parameters": sum(p.numel() for p in network.model.parameters()),
        **{name: score.to_json() for name, score in scores.items()},
        "training_seconds": round(sum(row["seconds"] for row in history), 1),
        "seconds": round(seconds, 1),
    }
    directory.write_json("summary.json", summary)
    write_report(plan, task, network, scores, history, summary)
