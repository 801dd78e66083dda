"""Segmentation: one class a pixel."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.data import Part
from cnnkit.data.batches import Batch
from cnnkit.data.masks import IGNORED
from cnnkit.errors import Misuse
from cnnkit.layers import WithAux
from cnnkit.models.segment.trunks import WithClasses
from cnnkit.report import Panel
from cnnkit.tasks.losses import CrossEntropy, Loss, total
from cnnkit.tasks.pixels import PixelScores, rows, score
from cnnkit.tasks.refine import Crf
from cnnkit.tasks.task import Output, Row, first
from cnnkit.tasks.windows import Windows, regions

#: Ways to look at pictures, by the names that classification has for its own.
VIEWS = {
    "center": Windows(),
    "flip": Windows(flip=True),
    "multi_scale": Windows(flip=True, scales=(0.75, 1.0, 1.25)),
}


def way(views: str, crf: bool) -> str:
    """The name of a way to look at pictures."""
    return views if not crf else "crf" if views == "center" else f"{views}, crf"


def windows_of(views: str, crf: bool = False) -> Windows:
    """How pictures are looked at.

    Args:
        views: a name of `VIEWS`.
        crf: whether labels are made to follow the picture's colours in the end.

    Raises:
        Misuse: these views are of whole images.
    """
    if views not in VIEWS:
        raise Misuse(f"--views {views} is for networks that classify whole images; use {', '.join(VIEWS)}")
    return replace(VIEWS[views], refine=Crf()) if crf else VIEWS[views]


class Segment:
    """The task: loss, score and prediction of a network whose output is one logit a class and pixel.

    Pixels whose label is `IGNORED` count nowhere. Auxiliary logits, among them those of each scale under
    SDN's hierarchical supervision (1708.04943), count in the loss and nowhere else. Where a network also
    names the classes of the whole image, each is one more yes or no, with the weight 1.

    Args:
        classes: names, in the order of the labels.
        losses: what is minimised, added up.
        label_smoothing: share of the target that is spread over all classes (cross-entropy only).
        windows: how pictures are looked at when the network is scored.
    """

    name = "segment"
    best = "miou"

    def __init__(
        self,
        classes: Sequence[str],
        losses: Sequence[Loss] = (CrossEntropy(),),
        label_smoothing: float = 0.0,
        windows: Windows | None = None,
    ) -> None:
        self.classes, self.losses, self.label_smoothing = classes, losses, label_smoothing
        self.windows = windows or Windows()

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean loss of a batch's pixels, and of what else the network returns.

        Shape: logits (N, classes, h, w), labels (N, H, W) -> (); of labels larger than the logits, as
        networks without padding have them, the centre counts.
        """
        logits, labels, weights = first(output), batch["labels"], batch.get("weights")
        own = self._loss(
            logits, centred(labels, logits), None if weights is None else centred(weights, logits)
        )
        if isinstance(output, WithAux):
            return own + output.weight * sum(self._loss(aux, centred(labels, aux)) for aux in output.aux)
        if isinstance(output, WithClasses):
            present = batch["present"] if "present" in batch else presence(labels, len(self.classes))
            there = present[:, -output.classes.shape[1] :].float()  # without a background that has no answer
            return own + functional.binary_cross_entropy_with_logits(output.classes, there)
        return own

    def _loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return total(self.losses, logits, labels, weights, smoothing=self.label_smoothing)

    def hits(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        """How many pixels are right, and of how many."""
        logits = first(output).detach()
        labels = centred(batch["labels"], logits)
        counted = labels != IGNORED
        return ((logits.argmax(dim=1) == labels) & counted).sum(), counted.sum()

    def observe(self, network: nn.Module, images: Tensor, batch: Batch) -> Row:
        """Loss, confusion and borders of each image, as `pixels.rows` has them.

        Labels of another size than the images are what the picture had before it was resized; predictions are
        brought to it.
        """
        labels = batch["labels"].cpu()
        predicted = torch.full(labels.shape, IGNORED, dtype=torch.uint8)
        losses, counted = torch.zeros(len(labels)), torch.zeros(len(labels))
        shown = None if self.windows.refine is None else batch["images"].to(images.device)
        size = labels.shape[1], labels.shape[2]
        for down, across, logs in regions(network, images, self.windows, shown=shown, size=size):
            truth = labels[:, down, across].long()
            logs = logs.cpu()
            predicted[:, down, across] = logs.argmax(dim=1).byte()
            lost = functional.nll_loss(logs, truth, ignore_index=IGNORED, reduction="none")
            losses += lost.sum(dim=(1, 2))
            counted += (truth != IGNORED).sum(dim=(1, 2))
        return rows(predicted, labels, losses / counted.clamp(min=1), len(self.classes))

    def score(self, found: Iterable[Row]) -> PixelScores:
        """Score what `observe` gave."""
        return score(self.classes, found)

    def panels(self, where: str, part: Part, scores: PixelScores, network: Any) -> list[Panel]:
        """Classes, confusion, the worst images with their errors, and ways to better borders."""
        from cnnkit.tasks import border_panel, segment_panels

        return [
            *segment_panels.panels(where, part, scores, lambda i: network.predict(part.picture(i)).mask),
            border_panel.panel(where, part, scores, network),
        ]


def centred(planes: Tensor, logits: Tensor) -> Tensor:
    """The centre of planes, of the size of logits. Shape: (N, H, W), (N, K, h, w) -> (N, h, w)"""
    top, left = ((of - to) // 2 for of, to in zip(planes.shape[1:], logits.shape[2:], strict=True))
    return planes[:, top : top + logits.shape[2], left : left + logits.shape[3]]


def presence(labels: Tensor, classes: int) -> Tensor:
    """Which classes an image has. Shape: (N, H, W) -> (N, K) bool"""
    return torch.stack([(labels == k).flatten(1).any(dim=1) for k in range(classes)], dim=1)
