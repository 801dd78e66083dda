"""The one LightningModule: a network, a task and a recipe, trained by gradient descent."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnnkit.data.batches import Batch, derive
from cnnkit.errors import Failure
from cnnkit.surgery.dropblock import schedule
from cnnkit.surgery.head import frozen_norms
from cnnkit.tasks.task import Row, Scores, Task
from cnnkit.train.cached import Cut
from cnnkit.train.distributed import ALONE, World, may_skip
from cnnkit.train.mix import disturb, probabilities
from cnnkit.train.parted import shard
from cnnkit.train.penalty import penalty
from cnnkit.train.recipe import Recipe
from cnnkit.weights.preprocessing import Preprocessing

#: The loss is looked at every so many steps: looking at it waits for the device.
LOOK = 50

MEMORY = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}


class Training(LightningModule):
    """Loss and step of one network.

    Args:
        model: the network.
        task: what it is for.
        preprocessing: how bytes become its input.
        recipe: a resolved recipe.
        rates: by the id of a parameter, the share of the learning rate at which it learns; 1 for the others.
        cut: where the network was parted, if batches have features instead of images.
        world: the processes that share the batches.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        preprocessing: Preprocessing,
        recipe: Recipe,
        rates: Mapping[int, float] | None = None,
        cut: Cut | None = None,
        world: World = ALONE,
    ) -> None:
        super().__init__()
        self.world = world
        self.model, self.task, self.preprocessing, self.recipe = model, task, preprocessing, recipe
        self.rates, self.cut = rates or {}, cut
        penalties = [part.penalties() for part in recipe.regularise]
        self.l1, self.l2 = sum(l1 for l1, _ in penalties), sum(l2 for _, l2 in penalties)
        self.total = 1  # steps of the run
        self.memory = MEMORY[recipe.layout]
        if recipe.distribute != "fsdp":  # whose weights must be in plain order
            self.model.to(memory_format=self.memory)
        self.averaged: AveragedModel | None = None
        if recipe.ema is not None:
            self.averaged = AveragedModel(model, use_buffers=True).requires_grad_(False)
        if recipe.compile:
            self.model.compile()
        self.frozen: list[nn.Module] = []
        self.recent: list[tuple[Tensor, ...]] = []  # loss, right answers and answers since the last look
        self.batches = self.images = self.right = self.answers = 0
        self.loss = 0.0
        self.rate = 0.0  # the learning rate of the last step
        self.held_out: list[Row] = []
        self.scores: Scores | None = None
        self.hold()

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; batch norms that are frozen stay in evaluation mode."""
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    def configure_model(self) -> None:
        """Leave this process its part of the network, where the recipe wants it in parts."""
        if self.world.size > 1 and self.recipe.distribute == "fsdp":
            before = {name: id(p) for name, p in self.model.named_parameters()}
            shard(self.model, self.device_mesh["data_parallel"])  # type: ignore[index]
            now = self.model.named_parameters()  # other objects
            self.rates = {id(p): self.rates.get(before[name], 1.0) for name, p in now}

    def hold(self) -> None:
        """Keep the batch norms whose parameters are frozen now as they are."""
        self.frozen = frozen_norms(self.model)
        self.train()  # loaded networks arrive in evaluation mode

    @property
    def evaluated(self) -> nn.Module:
        """The network that is scored and kept: the average, where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def part(self, network: nn.Module) -> nn.Module:
        """What of the network, or of its average, reads a batch: all of it, or what comes after the cut."""
        return network if self.cut is None else self.cut.tail(network)

    def read(self, batch: Batch) -> Tensor:
        """What that reads: images in the memory layout that was chosen, or stored features."""
        if self.cut is not None:
            return batch["features"]
        return self.preprocessing.normalise(batch["images"]).contiguous(memory_format=self.memory)

    def on_train_epoch_start(self) -> None:
        """Random numbers of an epoch depend on its number alone, so that a resumed run draws the same."""
        torch.manual_seed(derive(self.recipe.seed, self.current_epoch, 3, self.world.rank))
        self.recent, self.batches = [], self.current_epoch * int(self.trainer.num_training_batches)
        self.images, self.right, self.answers, self.loss = 0, 0, 0, 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; kept on the device, looked at rarely."""
        schedule(self.model, self.global_step / self.total)
        self.rate = self.optimizer.param_groups[0]["lr"]
        images, targets = self.noise(self.read(batch), batch["labels"], batch_idx)
        batch = {**batch, "labels": targets}
        output = self.part(self.model)(images)
        loss = self.task.loss(output, batch)
        if self.l1 or self.l2:
            loss = loss + penalty(self.model, self.l1, self.l2)
        right, answers = self.task.hits(output, batch)
        feed: Any = self.trainer.train_dataloader
        share, counts = self.sharing(feed, batch_idx)
        share *= added(feed.batch_sampler, batch_idx, self.recipe.accumulate)
        counted = len(targets) if counts else 0
        self.recent.append((loss.detach() * counted, right * (counted > 0), answers * (counted > 0)))
        self.images += counted
        self.batches += 1
        if (batch_idx + 1) % LOOK == 0:
            self.look()
        return loss * share if share != 1.0 else loss

    def sharing(self, feed: Any, place: int) -> tuple[float, bool]:
        """By what this process's part of a batch counts in the gradient, and whether it does in figures."""
        if self.world.size == 1:
            return 1.0, True
        return feed.batch_sampler.share(place), feed.batch_sampler.counts(place)

    def noise(self, images: Tensor, labels: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """What the recipe disturbs and mixes; the draws depend on the batch's number in its epoch alone."""
        recipe, classes = self.recipe, len(self.task.classes)
        if not recipe.disturb_labels and not recipe.mix:
            return images, labels
        place = (self.current_epoch, 4, batch_idx, self.global_rank)
        random = np.random.default_rng(derive(recipe.seed, *place))
        targets = disturb(labels, classes, recipe.disturb_labels, random)
        if recipe.mix:
            mix = recipe.mix[random.integers(len(recipe.mix))]
            if random.random() < mix.share:
                return mix(images, probabilities(targets, classes), random)
        return images, targets

    def look(self) -> None:
        """Add up the steps since the last look, and stop the run where a loss is not finite.

        Raises:
            Failure: naming the step, the learning rate and what to try.
        """
        if not self.recent:
            return
        losses, right, answers = (torch.stack(found).tolist() for found in zip(*self.recent, strict=True))
        self.recent = []
        for place, loss in enumerate(losses):
            if not math.isfinite(loss):
                batch, lr = self.batches - len(losses) + place + 1, self.recipe.optimizer.lr
                raise Failure(
                    f"the loss is no longer finite at batch {batch} (epoch {self.current_epoch + 1}, "
                    f"learning rate {self.rate:.2g}); try --lr {lr / 10:.2g}, or --precision 32"
                )
            self.loss += loss
        self.right += sum(right)
        self.answers += sum(answers)

    @property
    def optimizer(self) -> Optimizer:
        """The only optimiser."""
        return self.trainer.optimizers[0]

    def trained(self) -> dict[str, float]:
        """Mean loss and share of right answers over the training batches of the epoch so far."""
        self.look()
        return {"loss": self.loss / self.images, "accuracy": self.right / max(1, self.answers)}

    def on_validation_epoch_start(self) -> None:
        """Start collecting."""
        self.held_out = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect what there is to score of one batch."""
        row = self.task.observe(self.part(self.evaluated), self.read(batch), batch)
        if self.sharing(self.trainer.val_dataloaders, batch_idx)[1]:
            self.held_out.append((*row, batch["index"]))

    def on_validation_epoch_end(self) -> None:
        """Score the validation part, and add up the epoch's training figures, over all processes."""
        self.look()
        self.loss, *counts = self.world.summed(self.loss, self.images, self.right, self.answers)
        self.images, self.right, self.answers = map(int, counts)
        found = self.world.gathered(self.held_out)
        feed: Any = self.trainer.val_dataloaders
        self.scores = self.world.led(lambda: self.task.score(in_order(found, feed)))
        self.held_out = []

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its schedule as a function of the step."""
        recipe, rule = self.recipe, self.recipe.optimizer
        groups = parameter_groups(self.model, rule.weight_decay, decay_all=rule.decay_all)
        groups = slowed(groups, self.rates, rule.lr)
        optimizer = rule.build(groups, fused=self.can_fuse())
        self.total = total = int(self.trainer.estimated_stepping_batches)
        if self.averaged is not None and recipe.ema is not None:
            mean = get_ema_multi_avg_fn(decay(recipe.ema, total))  # type: ignore[no-untyped-call]
            self.averaged.multi_avg_fn = mean
        factor = recipe.schedule.over(total, recipe.epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def can_fuse(self) -> bool:
        """Whether one kernel may do the whole step.

        Not for parts of a network, nor where gradients are clipped under mixed precision, which Lightning
        refuses; and PyTorch's fails where a weight has its first gradient later than others.
        """
        whole = self.recipe.distribute != "fsdp" and not may_skip(self.model, self.recipe)
        known = self.device.type in {"cpu", "cuda"} and whole
        return known and (self.recipe.precision == "32" or self.recipe.clip is None)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, and the average of the weights after it."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)


def in_order(found: Sequence[Sequence[Row]], feed: Any) -> Iterator[Row]:
    """What the task observed as one process has it, a batch at a time.

    Args:
        found: by process, what it had of each batch, and the indices of its images.
        feed: where the batches came from, which several processes shared.
    """
    if len(found) == 1:
        yield from (row[:-1] for row in found[0])
        return
    rows = [row for process in found for row in process]
    *kept, index = (torch.cat([part.cpu() for part in column]) for column in zip(*rows, strict=True))
    place = index.argsort()
    for batch in feed.batch_sampler.indices():
        yield tuple(column[place[batch]] for column in kept)


def added(order: Any, place: int, accumulate: int) -> float:
    """By what the loss of a batch counts, of which the Trainer takes one part in `accumulate`.

    The gradient of a step is then the mean over the images of its batches, as if they were one: also where
    the epoch ends with fewer of them, or with a smaller one.

    Args:
        order: of the batches, an `Order`.
        place: of the batch in its epoch.
    """
    if accumulate == 1:
        return 1.0
    first = place - place % accumulate
    images = sum(order.size(batch) for batch in range(first, min(first + accumulate, len(order))))
    return float(accumulate * order.size(place) / images)


def decay(share: float, steps: int) -> float:
    """What an exponential average keeps a step so that its memory is a share of the run's steps."""
    return max(0.0, 1 - 1 / (share * steps))


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Weights with decay; biases, norms and other vectors without, unless all decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if decay_all:
        return [{"params": parameters, "weight_decay": weight_decay}]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def slowed(groups: list[dict[str, Any]], rates: Mapping[int, float], lr: float) -> list[dict[str, Any]]:
    """The same groups parted by the share of the learning rate that their parameters have, the fastest first.

    Args:
        groups: as `parameter_groups` makes them.
        rates: by the id of a parameter; 1 for those without.
        lr: of the others.
    """
    shares = sorted({rates.get(id(p), 1.0) for group in groups for p in group["params"]}, reverse=True)
    parts = [
        {
            **group,
            "params": [p for p in group["params"] if rates.get(id(p), 1.0) == share],
            **({"lr": lr * share} if share != 1.0 else {}),
        }
        for share in shares
        for group in groups
    ]
    return [group for group in parts if group["params"]]
