"""A trained network that labels every pixel of pictures of any size."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cnnkit.data.pictures import read, scaled, scaled_size, seen, to_tensor
from cnnkit.errors import Misuse
from cnnkit.tasks.windows import Windows, regions
from cnnkit.weights.artefact import Card

#: The picture once, as it is.
PLAIN = Windows()


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a network says of the pixels of one picture.

    Attributes:
        image: where the picture came from.
        classes: names, in the order of the mask's numbers.
        shares: of each class, the share of the picture's pixels.
        confidence: mean probability of the pixels' classes.
        mask: the likeliest class of each pixel, (H, W) uint8, as large as the upright picture.
    """

    image: str
    classes: tuple[str, ...]
    shares: tuple[float, ...]
    confidence: float
    mask: Tensor

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`: all but the mask."""
        height, width = self.mask.shape
        return {
            "image": self.image,
            "size": [height, width],
            "classes": list(self.classes),
            "shares": list(self.shares),
            "confidence": self.confidence,
        }

    def __str__(self) -> str:
        found = sorted(zip(self.shares, self.classes, strict=True), key=lambda row: -row[0])
        rows = (f"{share:7.1%}  {name}" for share, name in found if share)
        return "\n".join([self.image, *rows])


class Segmenter:
    """A trained network that labels pictures, with nothing else to know.

    Args:
        model: the network.
        card: what is known of it. Where its preprocessing's fit is `window`, the network sees a picture at
            its own scale; else at the scale of training (`squash` scales both sides, `crop` and `pad` keep
            the shape, and nothing is cut off), and the probabilities are brought back to the picture's size.
        device: where it computes.
    """

    def __init__(self, model: nn.Module, card: Card, device: str | torch.device = "cpu") -> None:
        self.model, self.card, self.device = model.eval().to(device), card, device

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the logits."""
        return self.card.classes

    def predict(
        self,
        image: str | Path | Image.Image,
        windows: Windows = PLAIN,
        tick: Callable[[float], None] = lambda share: None,
    ) -> Segmentation:
        """The class of every pixel of one picture.

        Args:
            image: its file, or the picture; either is turned upright.
            windows: how it is looked at.
            tick: called with the share of the picture that is labelled, after each window.

        Raises:
            Failure: the file cannot be read as an image.
            Misuse: the network's preprocessing allows no such windows.
        """
        if isinstance(image, Image.Image):
            name, picture = getattr(image, "filename", "") or "picture", seen(image)
        else:
            name, picture = str(image), read(Path(image))
        size = picture.height, picture.width
        mask = torch.empty(size, dtype=torch.uint8)
        believed, done = 0.0, 0
        for down, across, logs in self._regions(picture, windows):
            best = logs[0].max(dim=0)
            mask[down, across] = best.indices.byte().cpu()
            believed += float(best.values.exp().double().sum())
            done += best.indices.numel()
            tick(done / mask.numel())
        counts = mask.flatten().bincount(minlength=len(self.classes))
        shares = tuple((counts / mask.numel()).tolist())
        return Segmentation(name, tuple(self.classes), shares, believed / mask.numel(), mask)

    def predict_all(
        self, images: Iterable[str | Path | Image.Image], windows: Windows = PLAIN
    ) -> Iterator[Segmentation]:
        """Of many pictures, in order, one at a time."""
        for image in images:
            yield self.predict(image, windows)

    def _regions(self, picture: Image.Image, windows: Windows) -> Iterator[tuple[slice, slice, Tensor]]:
        """Log-probabilities by region; bytes become numbers a tile at a time where that is the same."""
        to, size = self.card.preprocessing, (picture.height, picture.width)
        target = picture.size if to.fit == "window" else scaled_size(picture.size, to)
        images = to_tensor(scaled(picture, target, to), to)[None].to(self.device)
        if to.normalisation in ("dataset", "pca"):
            return regions(self.model, images, windows, prepare=to.normalise, size=size)
        if to.normalisation in ("zca", "gcn_zca") and target[::-1] != tuple(to.size):
            raise Misuse(
                f"{to.normalisation} whitens images of {to.size[0]} x {to.size[1]} as a whole and this one "
                f"is {target[1]} x {target[0]}; train with fit squash, or with another normalisation"
            )
        return regions(self.model, to.normalise(images), windows, shown=images, size=size)
