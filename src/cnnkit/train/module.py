"""The one LightningModule: a network, a task and a recipe, trained by gradient descent."""

import math
from collections.abc import Collection, Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnnkit.data.batches import Batch, derive
from cnnkit.errors import Failure
from cnnkit.surgery.head import frozen_norms
from cnnkit.tasks.classify import Classify, Scores
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
        slow: parameters that were carried over and learn at `backbone_factor` of the learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Classify,
        preprocessing: Preprocessing,
        recipe: Recipe,
        slow: Sequence[nn.Parameter] = (),
    ) -> None:
        super().__init__()
        self.model, self.task, self.preprocessing, self.recipe = model, task, preprocessing, recipe
        self.slow = {id(p) for p in slow}
        self.memory = MEMORY[recipe.layout]
        self.model.to(memory_format=self.memory)
        self.averaged: AveragedModel | None = None
        if recipe.ema is not None:
            self.averaged = AveragedModel(model, use_buffers=True).requires_grad_(False)
        if recipe.compile:
            self.model.compile()
        self.frozen = frozen_norms(model)
        self.recent: list[tuple[Tensor, Tensor]] = []  # loss and right answers of the steps not looked at yet
        self.steps = self.images = self.right = 0
        self.loss = 0.0
        self.held_out: list[tuple[Tensor, Tensor]] = []
        self.scores: Scores | None = None
        self.train()  # loaded networks arrive in evaluation mode

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; batch norms that are frozen stay in evaluation mode."""
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    @property
    def evaluated(self) -> nn.Module:
        """The network that is scored and kept: the average, where there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def images_of(self, batch: Batch) -> Tensor:
        """What the network reads, in the memory layout that was chosen."""
        return self.preprocessing.normalise(batch["images"]).contiguous(memory_format=self.memory)

    def on_train_epoch_start(self) -> None:
        """Random numbers of an epoch depend on its number alone, so that a resumed run draws the same."""
        torch.manual_seed(derive(self.recipe.seed, self.current_epoch, 3))
        self.recent, self.steps = [], self.global_step
        self.images, self.right, self.loss = 0, 0, 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; kept on the device, looked at rarely."""
        labels = batch["labels"]
        output = self.model(self.images_of(batch))
        loss = self.task.loss(output, labels)
        right = (self.task.logits(output).detach().argmax(dim=1) == labels).sum()
        self.recent.append((loss.detach() * len(labels), right))
        self.images += len(labels)
        self.steps += 1
        if (batch_idx + 1) % LOOK == 0:
            self.look()
        return loss

    def look(self) -> None:
        """Add up the steps since the last look, and stop the run where a loss is not finite.

        Raises:
            Failure: naming the step, the learning rate and what to try.
        """
        if not self.recent:
            return
        losses, right = (torch.stack(column).tolist() for column in zip(*self.recent, strict=True))
        self.recent = []
        for place, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = self.steps - len(losses) + place + 1
                lr = self.optimizer.param_groups[0]["lr"]
                raise Failure(
                    f"the loss is no longer finite at step {step} (epoch {self.current_epoch + 1}, learning "
                    f"rate {lr:.2g}); try --lr {self.recipe.optimizer.lr / 10:.2g}, or --precision 32"
                )
            self.loss += loss
        self.right += sum(right)

    @property
    def optimizer(self) -> Optimizer:
        """The only optimiser."""
        return self.trainer.optimizers[0]

    def trained(self) -> dict[str, float]:
        """Mean loss and accuracy over the training batches of the epoch so far."""
        self.look()
        return {"loss": self.loss / self.images, "accuracy": self.right / self.images}

    def on_validation_epoch_start(self) -> None:
        """Start collecting."""
        self.held_out = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the logits of one batch."""
        logits = self.task.logits(self.evaluated(self.images_of(batch)))
        self.held_out.append((logits, batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Score the validation part."""
        self.scores = self.task.score(self.held_out)
        self.held_out = []

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its schedule as a function of the step."""
        recipe, rule = self.recipe, self.recipe.optimizer
        groups = parameter_groups(self.model, rule.weight_decay, decay_all=rule.decay_all)
        if self.slow:
            groups = slowed(groups, self.slow, rule.lr * (recipe.backbone_factor or 1.0))
        optimizer = rule.build(groups, fused=self.can_fuse())
        total = int(self.trainer.estimated_stepping_batches)
        if self.averaged is not None and recipe.ema is not None:
            mean = get_ema_multi_avg_fn(decay(recipe.ema, total))  # type: ignore[no-untyped-call]
            self.averaged.multi_avg_fn = mean
        factor = recipe.schedule.over(total, recipe.epochs)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def can_fuse(self) -> bool:
        """Whether one kernel may do the whole step; not where gradients are scaled and then clipped."""
        known = self.device.type in {"cpu", "cuda"}
        return known and not (self.recipe.precision == "16" and self.recipe.clip is not None)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, and the average of the weights after it."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)


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


def slowed(groups: list[dict[str, Any]], slow: Collection[int], lr: float) -> list[dict[str, Any]]:
    """The same groups with the parameters of these ids apart, at a learning rate of their own, after them."""
    parts = [
        {
            **group,
            "params": [p for p in group["params"] if (id(p) in slow) is apart],
            **({"lr": lr} if apart else {}),
        }
        for apart in (False, True)
        for group in groups
    ]
    return [group for group in parts if group["params"]]
