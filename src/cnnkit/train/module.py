"""The one LightningModule: a network, a task and a recipe, trained by gradient descent."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cnnkit.data.batches import Batch, derive
from cnnkit.errors import Failure
from cnnkit.surgery.head import frozen_norms
from cnnkit.tasks.classify import Classify, Scores
from cnnkit.train.recipe import Recipe
from cnnkit.weights.preprocessing import Preprocessing

#: The loss is looked at every so many steps: looking at it waits for the device.
LOOK = 50


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

    def on_train_epoch_start(self) -> None:
        """Random numbers of an epoch depend on its number alone, so that a resumed run draws the same."""
        torch.manual_seed(derive(self.recipe.seed, self.current_epoch, 3))
        self.recent, self.steps = [], self.global_step
        self.images, self.right, self.loss = 0, 0, 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch; kept on the device, looked at rarely."""
        labels = batch["labels"]
        logits = self.model(self.preprocessing.normalise(batch["images"]))
        loss = self.task.loss(logits, labels)
        right = (logits.detach().argmax(dim=1) == labels).sum()
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
                    f"rate {lr:.2g}); try --lr {(self.recipe.lr or lr) / 10:.2g}, or --precision 32"
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
        logits = self.model(self.preprocessing.normalise(batch["images"]))
        self.held_out.append((logits, batch["labels"]))

    def on_validation_epoch_end(self) -> None:
        """Score the validation part."""
        self.scores = self.task.score(self.held_out)
        self.held_out = []

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser, and its schedule as a function of the step."""
        recipe, lr = self.recipe, self.recipe.lr or 0.0
        groups = parameter_groups(self.model, recipe.weight_decay or 0.0)
        if self.slow:
            groups = slowed(groups, self.slow, lr * (recipe.backbone_factor or 1.0))
        optimizer: Optimizer = (
            AdamW(groups, lr=lr)
            if recipe.optimizer == "adamw"
            else SGD(groups, lr=lr, momentum=0.9, nesterov=True)
        )
        total = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, SCHEDULES[recipe.schedule](total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; biases, norms and other vectors without."""
    parameters = [p for p in model.parameters() if p.requires_grad]
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


def one_cycle(total: int) -> Callable[[int], float]:
    """Up from 1/25 over the first 0.3 of the steps and down to 0, both along a cosine (Smith, 1803.09820)."""
    rise = max(1, round(0.3 * total))

    def factor(step: int) -> float:
        if step < rise:
            return 0.04 + 0.96 * _half_cosine(1 - step / rise)
        return _half_cosine(min(1.0, (step - rise) / max(1, total - rise)))

    return factor


def cosine(total: int) -> Callable[[int], float]:
    """Down from 1 to 0 along half a cosine (Loshchilov & Hutter 2017, 1608.03983, without restarts)."""
    return lambda step: _half_cosine(min(1.0, step / total))


def constant(total: int) -> Callable[[int], float]:
    """Always 1."""
    return lambda step: 1.0


def _half_cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}
