"""Ways to look at pictures beside each other, and what the report shows of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.data import Part
from cnnkit.data.batches import batches
from cnnkit.data.masks import IGNORED, Coding, Masks
from cnnkit.tasks import border_panel
from cnnkit.tasks.borders import WAYS, Seen, looked, looks, spread
from cnnkit.tasks.pixels import PixelScores, rows, score
from cnnkit.tasks.refine import Crf
from cnnkit.tasks.segment import Segment
from cnnkit.tasks.segmenter import Segmenter
from cnnkit.tasks.task import observed
from cnnkit.tasks.windows import Windows
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

from ..data.masked import write

CLASSES = ("a", "b", "c")


class Coarse(nn.Module):
    """The class whose grey the mean of 8 x 8 pixels has, without doubt: borders are stairs of 8 pixels."""

    def __init__(self, levels: tuple[float, ...] = (40, 80, 120)) -> None:
        super().__init__()
        self.levels = torch.tensor(levels).view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        grey = functional.avg_pool2d(images.mean(1, keepdim=True), 8, ceil_mode=True)
        logits = -((grey - self.levels) / (self.levels[0, 1] - self.levels[0, 0]) * 2).square()
        return functional.interpolate(logits, images.shape[2:], mode="bilinear")


def segmenter(network: nn.Module, **how: Any) -> Segmenter:
    to = Preprocessing(size=(32, 32), fit="window", mean=(0.0,) * 3, std=(1 / 255,) * 3, **how)
    return Segmenter(
        network, Card(model="unet_padded_bn", task="segment", classes=list(CLASSES), preprocessing=to)
    )


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Six pictures of patches of 12 x 12 pixels, of two sizes; of the third no pixel counts."""
    sizes = [(36, 44), (40, 52)] * 3
    write(tmp_path, tmp_path / "masks", sizes)
    Image.fromarray(np.full(sizes[2], IGNORED, np.uint8)).save(tmp_path / "masks" / "2.png")
    names = [f"{i}.png" for i in range(len(sizes))]
    masks = Masks(names, tmp_path / "masks", Coding(CLASSES, {0: 0, 1: 1, 2: 2, IGNORED: IGNORED}))
    return Part(names, [0] * len(names), tmp_path, masks=masks)


def scored(part: Part, network: Segmenter, windows: Windows, chosen: Sequence[int]) -> PixelScores:
    found = []
    for i in chosen:
        mask = network.predict(part.picture(i), windows).mask
        found.append(rows(mask[None], part.mask(i)[None], torch.zeros(1), len(CLASSES)))
    return score(CLASSES, found)


@given(st.integers(0, 300), st.integers(1, 40))
def test_images_are_spread_as_far_as_they_can_be(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(found) == min(count, most)
    assert found == sorted(set(found))
    assert all(0 <= place < count for place in found)
    steps = np.diff([-1 - (found[0] if found else 0), *found, 2 * count - (found[-1] if found else 0)])[1:-1]
    assert len(set(steps.tolist())) <= 2
    if found:  # as much is left out before the first as behind the last
        assert abs(found[0] - (count - 1 - found[-1])) <= 1


def test_every_way_is_what_predict_gives(part: Part) -> None:
    assert list(WAYS) == ["center", "flip", "multi_scale", "crf", "multi_scale, crf"]
    assert WAYS["center"] == Windows()
    assert WAYS["multi_scale, crf"] == Windows(flip=True, scales=(0.75, 1.0, 1.25), refine=Crf())
    network = segmenter(Coarse())
    chosen = [4, 1]
    seen = list(looked(network, part, chosen))
    assert [one.image for one in seen] == chosen
    for one in seen:
        assert torch.equal(one.truth, part.mask(one.image))
        for name, windows in WAYS.items():
            assert torch.equal(one.masks[name], network.predict(part.picture(one.image), windows).mask)
            assert one.seconds[name] > 0
    for look in looks(CLASSES, seen):
        whole = scored(part, network, WAYS[look.way], chosen)
        assert (look.miou, look.boundary_f1) == (whole.miou, whole.boundary_f1)
    assert len({look.miou for look in looks(CLASSES, seen)}) == len(WAYS)


def test_seconds_are_of_a_picture() -> None:
    truth = torch.tensor([[0, 1]], dtype=torch.uint8)
    seen = [
        Seen(i, truth, dict.fromkeys(WAYS, truth), {name: 3.0 * i + k for k, name in enumerate(WAYS)})
        for i in range(2)
    ]
    assert [look.seconds for look in looks(CLASSES, seen)] == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_a_dense_crf_brings_coarse_borders_to_where_the_colours_change(part: Part) -> None:
    found = {look.way: look for look in looks(CLASSES, looked(segmenter(Coarse()), part, [0, 1, 3]))}
    assert found["crf"].boundary_f1 > found["center"].boundary_f1 + 0.1
    assert found["crf"].miou > found["center"].miou


@pytest.mark.parametrize("normalisation", ["dataset", "image"])
def test_what_scores_batches_gives_the_crf_the_pictures_bytes(part: Part, normalisation: str) -> None:
    """Normalised values differ by less than a CRF for grey levels would see; it would smear the classes."""
    network = segmenter(
        Coarse() if normalisation == "dataset" else Coarse((-1.2, 0, 1.2)), normalisation=normalisation
    )
    to = network.card.preprocessing
    found = {}
    for name in ("center", "crf"):
        task = Segment(CLASSES, windows=WAYS[name])
        found[name] = task.score(observed(task, network.model, batches(part, to, 1), to))
        alone = scored(part, network, WAYS[name], range(6))
        assert (found[name].miou, found[name].boundary_f1) == (alone.miou, alone.boundary_f1)
    assert found["crf"].boundary_f1 > found["center"].boundary_f1 + 0.1


def rows_of(body: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(.*?)</tr>", body.partition("<tbody>")[2])
    return [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in lines]


def test_the_panel_has_a_row_for_each_way_and_magnifies_where_they_differ(part: Part) -> None:
    network = segmenter(Coarse())
    scores = scored(part, network, Windows(), range(6))
    panel = border_panel.panel("the test part", part, scores, network)
    told = rows_of(panel.body)
    assert [row[0] for row in told] == list(WAYS) == list(border_panel.MEANINGS)
    assert told[0][1] == f"{scores.miou:.3f}"  # the image that does not count changes nothing
    assert told[0][2] == f"{scores.boundary_f1:.3f}"
    assert panel.note.startswith("On the test part, 5 of 6 images, evenly spread")
    shown = re.findall(r'alt="([^"]*)"', panel.body)
    assert shown == ["picture", "truth", *WAYS] * border_panel.MAGNIFIED
    assert "2.png" not in panel.body


def test_ways_that_agree_are_not_magnified(part: Part) -> None:
    class Flat(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(-1, -1, *images.shape[2:])

    network = segmenter(Flat())
    panel = border_panel.panel("here", part, scored(part, network, Windows(), range(6)), network)
    assert len(rows_of(panel.body)) == len(WAYS)
    assert "<img" not in panel.body


def test_large_images_are_few_or_none(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    network = segmenter(Coarse())
    scores = scored(part, network, Windows(), range(6))
    monkeypatch.setattr(border_panel, "BUDGET", 2 * 40 * 52 * len(CLASSES))
    panel = border_panel.panel("here", part, scores, network)
    assert panel.note.startswith("On here, 2 of 6 images")
    two = scored(part, network, Windows(), [1, 4])  # of 0, 1, 3, 4, 5: the second and the fourth
    assert rows_of(panel.body)[0][1] == f"{two.miou:.3f}"
    monkeypatch.setattr(border_panel, "BUDGET", 10)
    panel = border_panel.panel("here", part, scores, network)
    assert "too large" in panel.body
    assert "--borders" in panel.note
