"""Where the borders of classes are drawn better: ways to look at a picture, beside each other.

What a network must have for good borders, such as skip connections, is compared by giving the same pictures
to several networks.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cnnkit.data import Part
from cnnkit.tasks.pixels import rows, score
from cnnkit.tasks.segment import way, windows_of
from cnnkit.tasks.segmenter import Segmenter
from cnnkit.tasks.task import Row

#: By name, what is compared: the picture as it is, mirrored too, at three scales, and each with a dense CRF.
WAYS = {
    way(views, crf): windows_of(views, crf)
    for views, crf in [
        ("center", False),
        ("flip", False),
        ("multi_scale", False),
        ("center", True),
        ("multi_scale", True),
    ]
}

#: How many images of a part are looked at in all these ways, where nobody says.
MOST = 20


@dataclass(frozen=True, slots=True)
class Look:
    """How well a network labels some images when it looks at them in one way.

    Attributes:
        way: a name of `WAYS`.
        miou: as `PixelScores` has it, and so is `boundary_f1`.
        seconds: of prediction, a picture.
    """

    way: str
    miou: float
    boundary_f1: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One image, looked at in all ways.

    Attributes:
        image: its place in the part.
        truth: its mask, (H, W) uint8.
        masks: by way, what was predicted.
        seconds: by way, how long that took.
    """

    image: int
    truth: Tensor
    masks: Mapping[str, Tensor]
    seconds: Mapping[str, float]


def spread(count: int, most: int) -> list[int]:
    """At most so many of the places 0, 1, ..., count - 1, as far apart as they can be."""
    many = min(count, most)
    return [(2 * i + 1) * count // (2 * many) for i in range(many)]


def looked(network: Segmenter, part: Part, chosen: Iterable[int]) -> Iterator[Seen]:
    """Some images of a part in all ways, each as `cnnkit predict` would label it.

    The ways take turns on each image, so that a machine that gets busy or hot slows them all.

    Raises:
        Failure: an image or its mask cannot be read.
    """
    for i in chosen:
        picture = part.picture(i)
        masks, seconds = {}, {}
        for name, windows in WAYS.items():
            began = time.perf_counter()
            masks[name] = network.predict(picture, windows).mask
            seconds[name] = time.perf_counter() - began
        yield Seen(i, part.mask(i), masks, seconds)


def looks(classes: Sequence[str], seen: Iterable[Seen]) -> list[Look]:
    """The score of each way.

    Raises:
        Failure: there is no pixel that counts.
    """
    found: dict[str, list[Row]] = {name: [] for name in WAYS}
    took = dict.fromkeys(WAYS, 0.0)
    for one in seen:
        for name, mask in one.masks.items():
            found[name].append(rows(mask[None], one.truth[None], torch.zeros(1), len(classes)))
            took[name] += one.seconds[name]
    scores = {name: score(classes, counted) for name, counted in found.items()}
    return [Look(name, of.miou, of.boundary_f1, took[name] / len(found[name])) for name, of in scores.items()]
