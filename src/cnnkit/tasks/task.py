"""What training asks of a task; `Classify` and `Segment` answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cnnkit.data import Part
from cnnkit.data.batches import Batch
from cnnkit.report import Panel
from cnnkit.weights.preprocessing import Preprocessing

#: What a network gives: logits, or a tuple with the logits first.
Output = Any

#: What is kept of a scored batch: tensors with a row an image.
Row = tuple[Tensor, ...]


class Scores(Protocol):
    """How well a network did on one part.

    Attributes:
        loss: mean loss.
    """

    @property
    def loss(self) -> float: ...

    def to_json(self) -> dict[str, float]:
        """The figures, the one by which the best network is chosen first."""

    def per_class(self) -> list[dict[str, Any]]:
        """A row a class."""


class Task(Protocol):
    """What a network is for.

    Attributes:
        name: as a network's `Spec.task` has it.
        best: the figure by which the best network is chosen, the higher the better.
        classes: names, in the order of the logits.
    """

    name: str
    best: str
    classes: Sequence[str]

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean loss of a batch. Shape: ()"""

    def hits(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """How many answers are right, and of how many. Shape: (), ()"""

    def observe(self, network: nn.Module, images: Tensor, batch: Batch) -> Row:
        """What a network in evaluation mode makes of a batch, and what is right.

        Args:
            images: of the batch, normalised.
        """

    def score(self, rows: Iterable[Row]) -> Scores:
        """Score what `observe` gave, in the order of the part."""

    def panels(self, where: str, part: Part, scores: Any, network: Any) -> list[Panel]:
        """What the report shows of a part and its scores.

        Args:
            where: the part, in words.
            network: predicts on pictures; of the kind that `tasks.load` gives for this task.
        """


def first(output: Output) -> Tensor:
    """The logits, without what else a network returns."""
    return output if isinstance(output, Tensor) else output[0]


@torch.inference_mode()
def observed(
    task: Task,
    network: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    device: str | torch.device = "cpu",
) -> Iterator[Row]:
    """What a network makes of a part, in evaluation mode, a batch at a time."""
    network.eval().to(device)
    for batch in batches:
        yield task.observe(network, preprocessing.normalise(batch["images"].to(device)), batch)


def choose(kind: str, **settings: Any) -> Task:
    """The task of that name, with its settings."""
    from cnnkit.tasks.classify import Classify
    from cnnkit.tasks.segment import Segment

    tasks: dict[str, Callable[..., Task]] = {"classify": Classify, "segment": Segment}
    return tasks[kind](**settings)
