"""Classification: one class an image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from cnnkit.data import Part
from cnnkit.data.batches import Batch
from cnnkit.data.pictures import fit, read, seen, to_tensor
from cnnkit.errors import Failure
from cnnkit.layers import WithAux
from cnnkit.report import Panel
from cnnkit.tasks.losses import CrossEntropy, Loss, total
from cnnkit.tasks.task import Row
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        image: where the image came from.
        classes: the likeliest classes, the likeliest first.
        probabilities: their softmax probabilities.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        rows = (f"{p:7.1%}  {c}" for c, p in zip(self.classes, self.probabilities, strict=True))
        return "\n".join([self.image, *rows])


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How well a classifier did on one part.

    Attributes:
        classes: class names.
        loss: mean loss.
        confusion: (true class, predicted class) counts.
        top5: share of images whose class is among the five likeliest, or None with at most five classes.
        predicted: a class an image, in the order of the part.
        confidence: its probability.
    """

    classes: Sequence[str]
    loss: float
    confusion: Tensor
    top5: float | None
    predicted: Tensor
    confidence: Tensor

    @property
    def accuracy(self) -> float:
        """Share of images that were right."""
        return int(self.confusion.trace()) / int(self.confusion.sum())

    def per_class(self) -> list[dict[str, Any]]:
        """Images, precision, recall and F1 of each class; 0 where there is nothing to divide by."""
        right = self.confusion.diagonal().double()
        predicted, there = self.confusion.sum(0).double(), self.confusion.sum(1).double()
        precision = right / predicted.clamp(min=1)
        recall = right / there.clamp(min=1)
        f1 = 2 * right / (predicted + there).clamp(min=1)
        columns = zip(
            self.classes, there.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True
        )
        return [
            {"class": name, "images": int(n), "precision": p, "recall": r, "f1": f}
            for name, n, p, r, f in columns
        ]

    def to_json(self) -> dict[str, Any]:
        """The summary that is stored and printed: accuracy first."""
        present = self.confusion.sum(1) > 0
        recalls = [row["recall"] for row, here in zip(self.per_class(), present, strict=True) if here]
        found = {
            "accuracy": self.accuracy,
            "balanced_accuracy": sum(recalls) / len(recalls),
            "loss": self.loss,
        }
        if self.top5 is not None:
            found["top5_accuracy"] = self.top5
        return found


class Classify:
    """The task: loss, score and prediction of a network whose output is one logit a class.

    Auxiliary logits, as a network made with `aux=True` returns them, count in the loss and nowhere else.

    Args:
        classes: class names in the order of the labels.
        losses: what is minimised, added up.
        label_smoothing: share of the target that is spread over all classes (cross-entropy only).
    """

    name = "classify"
    best = "accuracy"

    def __init__(
        self,
        classes: Sequence[str],
        losses: Sequence[Loss] = (CrossEntropy(),),
        label_smoothing: float = 0.0,
    ) -> None:
        self.classes, self.losses, self.label_smoothing = classes, losses, label_smoothing

    @staticmethod
    def logits(output: Tensor | WithAux) -> Tensor:
        """The main logits, whether or not there are auxiliary ones. Shape: (N, classes)"""
        return output.logits if isinstance(output, WithAux) else output

    def loss(self, output: Tensor | WithAux, batch: Batch) -> Tensor:
        """Mean loss of a batch, and of auxiliary logits with their weight.

        Labels may be probabilities, as mixed images have them.

        Shape: (N, classes), labels (N,) or (N, classes) -> ()
        """
        labels = batch["labels"]
        own = self._loss(self.logits(output), labels)
        if not isinstance(output, WithAux):
            return own
        return own + output.weight * sum(self._loss(aux, labels) for aux in output.aux)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return total(self.losses, logits, labels, smoothing=self.label_smoothing)

    def hits(self, output: Tensor | WithAux, batch: Batch) -> tuple[Tensor, Tensor]:
        """How many images are right, and of how many; of a mixture the heavier class counts."""
        labels = batch["labels"]
        labels = labels if labels.ndim == 1 else labels.argmax(dim=1)
        right = (self.logits(output).detach().argmax(dim=1) == labels).sum()
        return right, torch.full_like(right, len(labels))

    def observe(self, network: nn.Module, images: Tensor, batch: Batch) -> Row:
        """Logits and labels. Shape: (N, classes), (N,)"""
        return self.logits(network(images)), batch["labels"]

    def score(self, rows: Iterable[Row]) -> Scores:
        """Score logits and labels that come a batch at a time, in the order of the part."""
        count = len(self.classes)
        matrix = MulticlassConfusionMatrix(count, sync_on_compute=False)  # it has all: one process scores
        loss, hits, predicted, confidence = 0.0, 0, [], []
        for logits, labels in rows:
            logits, labels = logits.float().cpu(), labels.cpu()
            matrix.update(logits, labels)
            loss += self._loss(logits, labels).item() * len(labels)
            top = logits.softmax(dim=1).topk(min(5, count), dim=1)
            hits += int((top.indices == labels[:, None]).sum())
            confidence.append(top.values[:, 0])
            predicted.append(top.indices[:, 0])
        images = sum(map(len, predicted))
        if not images:
            raise Failure("there is no image to score")
        return Scores(
            self.classes,
            loss / images,
            matrix.compute(),
            hits / images if count > 5 else None,
            torch.cat(predicted),
            torch.cat(confidence),
        )

    def panels(self, where: str, part: Part, scores: Scores, network: "Classifier") -> list[Panel]:
        """Confusion, classes, mistakes, and one image's way through the network."""
        from cnnkit.tasks.classify_panels import panels

        return panels(where, part, scores, network)


@torch.inference_mode()
def outputs(
    model: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of a network in evaluation mode, a batch at a time."""
    model.eval().to(device)
    for batch in batches:
        output = model(preprocessing.normalise(batch["images"].to(device)))
        yield Classify.logits(output), batch["labels"]


class Classifier:
    """A trained network that predicts on pictures, with nothing else to know.

    Args:
        model: the network.
        card: what is known of it.
    """

    def __init__(self, model: nn.Module, card: Card, device: str | torch.device = "cpu") -> None:
        self.model, self.card, self.device = model.eval().to(device), card, device

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return self.card.classes

    def predict(self, image: str | Path | Image.Image, top: int = 5) -> Prediction:
        """The likeliest classes of one picture.

        Raises:
            Failure: the file cannot be read as an image.
        """
        return next(self.predict_all([image], top))

    @torch.inference_mode()
    def predict_all(
        self, images: Iterable[str | Path | Image.Image], top: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Predictions of many pictures, in order."""
        waiting: list[tuple[str, Tensor]] = []
        for image in images:
            waiting.append((_name(image), self._pixels(image)))
            if len(waiting) == batch_size:
                yield from self._predict(waiting, top)
                waiting.clear()
        if waiting:
            yield from self._predict(waiting, top)

    def _pixels(self, image: str | Path | Image.Image) -> Tensor:
        picture = seen(image) if isinstance(image, Image.Image) else read(Path(image))
        return to_tensor(fit(picture, self.card.preprocessing), self.card.preprocessing)

    def _predict(self, waiting: list[tuple[str, Tensor]], top: int) -> Iterator[Prediction]:
        images = torch.stack([pixels for _, pixels in waiting]).to(self.device)
        logits = Classify.logits(self.model(self.card.preprocessing.normalise(images)))
        found = logits.float().softmax(dim=1).topk(min(top, len(self.classes)), dim=1)
        for (name, _), values, indices in zip(
            waiting, found.values.tolist(), found.indices.tolist(), strict=True
        ):
            yield Prediction(name, tuple(self.classes[i] for i in indices), tuple(values))


def _name(image: str | Path | Image.Image) -> str:
    return getattr(image, "filename", "") or "picture" if isinstance(image, Image.Image) else str(image)
