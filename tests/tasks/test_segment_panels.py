"""What the report shows of a segmenter: figures, classes, and the right images with the right pixels red."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnnkit.data import Part
from cnnkit.data.masks import IGNORED, Coding, Masks
from cnnkit.draw.masks import colours
from cnnkit.report import Panel, page
from cnnkit.tasks.pixels import PixelScores, rows, score
from cnnkit.tasks.segment_panels import MEANINGS, UNCOUNTED, WRONG, panels

NAMES = ("sky", "road", "a <car>", "tree")
SIZE = (20, 30)


def predicted(image: int) -> Tensor:
    """A mask of sky and road of which more is wrong the later the image comes."""
    mask = torch.zeros(SIZE, dtype=torch.uint8)
    mask[10 - (image + 1) // 2 :, :15] = 1
    mask[10 - image // 2 :, 15:] = 1
    return mask


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Fourteen pictures, sky above and road below; two columns of each count nowhere."""
    random, count = np.random.default_rng(0), 14
    truth = np.zeros(SIZE, np.uint8)
    truth[10:], truth[:, :2] = 1, IGNORED
    for i in range(count):
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(truth).save(tmp_path / f"{i}_mask.png")
    coding = Coding(NAMES, {**{i: i for i in range(len(NAMES))}, IGNORED: IGNORED})
    masks = Masks([f"{i}_mask.png" for i in range(count)], tmp_path, coding)
    return Part([f"{i}.png" for i in range(count)], [0] * count, tmp_path, masks=masks)


def scored(part: Part) -> PixelScores:
    found = (
        rows(predicted(i)[None], part.mask(i)[None], torch.tensor([0.5]), len(NAMES))
        for i in range(len(part))
    )
    return score(NAMES, found)


def shown(panel: Panel) -> list[tuple[str, np.ndarray]]:
    """The pictures of a panel with their captions."""
    found = re.findall(r'base64,([^"]+)" alt="([^"]*)"', panel.body)
    return [
        (caption, np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")))
        for data, caption in found
    ]


def test_the_panels_show_scores_classes_confusion_and_images(part: Part) -> None:
    scores = scored(part)
    found = {panel.title: panel for panel in panels("the test part", part, scores, predicted)}
    assert list(found) == [
        "Scores",
        "Classes",
        "Confusion matrix",
        "Worst images",
        "Images of middling score",
    ]
    assert set(MEANINGS) == set(scores.to_json())
    assert f"{scores.miou:.3f}" in found["Scores"].body
    assert "On the test part, 14 images. In neither truth nor prediction: a &lt;car&gt;, tree." in page(
        "", "", {}, list(found.values())
    )
    assert "rgb" + str(tuple(colours(1)[0].tolist())) in found["Classes"].body
    share = scores.confusion[0, 1] / scores.confusion[0].sum()
    assert f">{100 * share:.0f}<" in found["Confusion matrix"].body


def test_the_worst_images_come_first_and_then_some_of_the_middle(part: Part) -> None:
    scores = scored(part)
    found = {panel.title: panel.body for panel in panels("here", part, scores, predicted)}
    heads = {
        title: re.findall(r"<h3>(\d+)\.png: mean IoU ([\d.]+)%, worst", body) for title, body in found.items()
    }
    assert [int(i) for i, _ in heads["Worst images"]] == [13, 12, 11, 10, 9, 8, 7, 6]
    assert [int(i) for i, _ in heads["Images of middling score"]] == [5, 4, 3, 2]
    assert heads["Worst images"][0][1] == f"{100 * float(scores.image_miou()[13]):.1f}"
    iou = scores.image_iou()[13, :2]
    assert iou[0] < iou[1]
    assert f"worst class sky with {100 * float(iou[0]):.1f}%" in found["Worst images"]


def test_wrong_pixels_are_red_and_ignored_ones_grey(part: Part) -> None:
    (worst,) = (p for p in panels("here", part, scored(part), predicted) if p.title == "Worst images")
    (_, picture), (_, truth), (_, mask), (caption, errors) = shown(worst)[:4]
    assert picture.shape == truth.shape == mask.shape == errors.shape
    times = len(picture) // SIZE[0]
    picture, truth, mask, errors = (one[::times, ::times] for one in (picture, truth, mask, errors))
    assert np.array_equal(picture, np.array(part.picture(13)))
    palette, labels = colours(len(NAMES)).numpy(), part.mask(13).numpy()
    counted = labels != IGNORED
    assert np.array_equal(truth[counted], palette[labels[counted]])
    assert np.array_equal(mask, palette[predicted(13).numpy()])
    wrong = (predicted(13).numpy() != labels) & counted
    assert np.array_equal((errors == WRONG).all(-1), wrong)
    assert np.array_equal((errors == UNCOUNTED).all(-1), ~counted)
    pale = errors[counted & ~wrong].astype(int)
    assert pale.min() >= 128
    assert (pale == pale[:, :1]).all()
    assert caption == f"errors: {wrong.sum() / counted.sum():.1%} of the pixels"


def test_a_small_part_has_no_middle_and_an_image_that_is_ignored_is_not_shown(part: Part) -> None:
    few = part.select([0, 1, 2])
    found = [rows(predicted(i)[None], few.mask(i)[None], torch.zeros(1), len(NAMES)) for i in range(2)]
    found.append(rows(predicted(2)[None], torch.full((1, *SIZE), IGNORED).byte(), torch.zeros(1), len(NAMES)))
    made = panels("here", few, score(NAMES, found), predicted)
    assert made[-1].title == "Worst images"
    assert len(shown(made[-1])) == 2 * 4
