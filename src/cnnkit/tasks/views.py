"""Test time: several views of one picture, whose predictions are averaged.

Krizhevsky et al., NIPS 2012, section 4.1, average the softmax outputs of ten crops, and Simonyan & Zisserman,
ICLR 2015, arXiv:1409.1556, section 3.2, those of crops, mirrored images and scales; there a network that
slides over the whole image first averages its class scores over all positions, before the softmax. Jordan,
arXiv:2404.00498 (airbench), averages logits. Figures of different views do not belong in one table unmarked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import log, prod
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from cnnkit.data.pictures import fit, read, scaled, scaled_size, seen, to_tensor
from cnnkit.data.sets import Part
from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.surgery.convolutionalize import convolutionalize
from cnnkit.tasks.classify import Classifier, Classify, Prediction
from cnnkit.weights.preprocessing import Preprocessing

Size = tuple[int, int]

#: Test scales over the training scale: VGG's Q = S - 32, S, S + 32 at S = 256.
SCALES = (7 / 8, 1.0, 9 / 8)

#: What goes through the network at once: values, and views.
VALUES, AT_ONCE = 2**22, 256

#: How many bytes of pictures wait, cut up, for the network, and how many pictures at most.
BYTES, PICTURES = 2**26, 256


@dataclass(frozen=True, slots=True)
class Views:
    """One way to look at a picture.

    Attributes:
        cut: the views of a picture in groups of one size each. Shape: (views, C, H, W) uint8 a group
        count: how many they are.
        of: what is averaged: softmax probabilities, or logits.
        weights: one a view; None where all count alike.
        dense: the network slides over views of any size, its class scores averaged over the positions.
    """

    cut: Callable[[Image.Image, Preprocessing], list[Tensor]]
    count: int
    of: Literal["probabilities", "logits"] = "probabilities"
    weights: tuple[float, ...] | None = None
    dense: bool = False

    def average(self, logits: Tensor) -> Tensor:
        """Log-probabilities of a picture from logits of its views. Shape: (views, classes) -> (classes,)"""
        weights = logits.new_tensor(self.weights or [1 / len(logits)] * len(logits))[:, None]
        if self.of == "logits":
            return (weights * logits).sum(0).log_softmax(0)
        return (logits.log_softmax(1) + weights.log()).logsumexp(0)


def center(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """The picture as it is fitted for training's own validation."""
    return [to_tensor(fit(picture, to), to)[None]]


def flip(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """The same, and mirrored left to right."""
    return [_and_mirrored(center(picture, to)[0])]


def ten_crop(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """AlexNet: the corners and the centre of the central square (256 x 256 for crops of 224), and mirrored.

    The square is as large as size / keep says; where the network keeps all of it, this is `flip` five times.
    """
    square = to_tensor(fit(picture, to.at(_canvas(to), to.fit)), to)
    down, across = (have - want for have, want in zip(square.shape[1:], to.size, strict=True))
    places = [(0, 0), (0, across), (down, 0), (down, across), (round(down / 2), round(across / 2))]
    return [_and_mirrored(_crops(square, places, to.size))]


def multi_crop(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """VGG: a regular grid of 5 x 5 crops of the whole picture at three scales, and mirrored: 150."""
    crops = []
    for scale in SCALES:
        image = _whole(picture, to, scale)
        down, across = (have - want for have, want in zip(image.shape[1:], to.size, strict=True))
        grid = [(round(i / 4 * down), round(j / 4 * across)) for i in range(5) for j in range(5)]
        crops.append(_crops(image, grid, to.size))
    return [_and_mirrored(torch.cat(crops))]


def dense(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """VGG: the whole picture at the training scale, and mirrored."""
    return [_and_mirrored(_whole(picture, to, 1.0)[None])]


def multi_scale(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """VGG: the whole picture at three scales, and mirrored."""
    return [_and_mirrored(_whole(picture, to, scale)[None]) for scale in SCALES]


def translate(picture: Image.Image, to: Preprocessing) -> list[Tensor]:
    """Airbench: the picture, moved up and left by a pixel, and down and right, each also mirrored.

    What moves in is the picture's reflection at its border.
    """
    image = center(picture, to)[0]
    height, width = to.size
    rows, columns = ([min(1, n - 1), *range(n), max(n - 2, 0)] for n in to.size)
    framed = image[:, :, rows][:, :, :, columns]
    moved = [framed[:, :, i : i + height, i : i + width] for i in (1, 0, 2)]
    return [torch.cat([_and_mirrored(view) for view in moved])]


VIEWS = {
    "center": Views(center, 1),
    "flip": Views(flip, 2),
    "translate": Views(translate, 6, "logits", (1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8)),
    "ten_crop": Views(ten_crop, 10),
    "multi_crop": Views(multi_crop, 150),
    "dense": Views(dense, 2, dense=True),
    "multi_scale": Views(multi_scale, 6, dense=True),
}


def _and_mirrored(images: Tensor) -> Tensor:
    return torch.cat([images, images.flip(-1)])


def _crops(image: Tensor, places: Iterable[tuple[int, int]], size: Size) -> Tensor:
    height, width = size
    return torch.stack([image[:, top : top + height, left : left + width] for top, left in places])


def _canvas(to: Preprocessing, scale: float = 1.0) -> Size:
    """What the network's input was cut from, at a scale, and never less than the input."""
    height, width = (max(side, round(side / to.keep * scale)) for side in to.size)
    return height, width


def _whole(picture: Image.Image, to: Preprocessing, scale: float) -> Tensor:
    """The picture with its short side at a scale; its shape stays unless training squashed or padded."""
    at = to.at(_canvas(to, scale), to.fit)
    if to.fit == "crop":
        return to_tensor(scaled(picture, scaled_size(picture.size, at), to), to)
    return to_tensor(fit(picture, at), to)


class Viewer(Classifier):
    """A trained network that looks at each picture in several ways.

    Args:
        classifier: the network, and what is known of it.
        views: a name of `VIEWS`.

    Raises:
        Misuse: there are no such views, or the network cannot look at images of other sizes.
    """

    def __init__(self, classifier: Classifier, views: str) -> None:
        super().__init__(classifier.model, classifier.card, classifier.device)
        if views not in VIEWS:
            raise Misuse(unknown(views, VIEWS, "views"))
        self.views = VIEWS[views]
        if self.views.dense:
            self.model = self._sliding(views)

    def _sliding(self, views: str) -> torch.nn.Module:
        to = self.card.preprocessing
        if to.normalisation in ("zca", "gcn_zca"):
            raise Misuse(
                f"{views} takes pictures of any size, and this network's whitening is of {to.size[0]} x "
                f"{to.size[1]} images; use --views ten_crop"
            )
        try:
            return convolutionalize(self.model, (len(to.mean), *to.size)).to(self.device)
        except ValueError as error:
            raise Misuse(
                f"--views {views} needs a network that slides: {error}; use --views ten_crop"
            ) from None

    @torch.inference_mode()
    def log_probabilities(self, cuts: Sequence[list[Tensor]]) -> Tensor:
        """What is predicted for pictures that were cut into views. Shape: (pictures, classes)"""
        groups = [group for groups in cuts for group in groups]
        logits = torch.cat(
            [
                scores
                for _, alike in groupby(groups, key=lambda group: group.shape[1:])
                for scores in self._scores(torch.cat(list(alike)))
            ]
        )
        views = torch.split(logits, [sum(map(len, groups)) for groups in cuts])
        return torch.stack([self.views.average(own) for own in views])

    def _scores(self, views: Tensor) -> Iterator[Tensor]:
        """Logits of views of one size. Shape: (N, C, H, W) uint8 -> (n, classes) a batch"""
        size = max(1, min(AT_ONCE, VALUES // views[0].numel()))
        for batch in torch.split(views, size):
            images = self.card.preprocessing.normalise(batch.to(self.device))
            scores = Classify.logits(self.model(images)).float()
            yield scores.mean((2, 3)) if self.views.dense else scores

    def outputs(self, part: Part, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-probabilities and labels of a part, some pictures at a time, as `tasks.classify.outputs`."""
        to = self.card.preprocessing
        size = self.views.count * len(to.mean) * prod(to.size)
        step = max(1, min(PICTURES, BYTES // size))
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for first in range(0, len(part), step):
                some = range(first, min(first + step, len(part)))
                cuts = list(pool.map(lambda i: self.views.cut(part.picture(i), to), some))
                yield self.log_probabilities(cuts), torch.tensor([part.labels[i] for i in some])

    def predict_all(
        self, images: Iterable[str | Path | Image.Image], top: int = 5, batch_size: int = 32
    ) -> Iterator[Prediction]:
        """Predictions of pictures, in order, one at a time: a picture is a batch of views already."""
        for image in images:
            if isinstance(image, Image.Image):
                name, picture = getattr(image, "filename", "") or "picture", seen(image)
            else:
                name, picture = str(image), read(Path(image))
            found = self.log_probabilities([self.views.cut(picture, self.card.preprocessing)])[0].exp()
            likeliest = found.topk(min(top, len(self.classes)))
            classes = tuple(self.classes[i] for i in likeliest.indices.tolist())
            yield Prediction(name, classes, tuple(likeliest.values.tolist()))


def fused(log_probabilities: Sequence[Tensor]) -> Tensor:
    """Several networks' predictions of the same pictures as one: the mean of their probabilities.

    Krizhevsky et al., section 6, and Simonyan & Zisserman, section 4.4, put networks together this way.

    Shape: (pictures, classes) a network -> (pictures, classes), log-probabilities again
    """
    return torch.stack(list(log_probabilities)).logsumexp(0) - log(len(log_probabilities))
