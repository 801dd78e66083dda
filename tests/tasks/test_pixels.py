"""Scores of pixels against counts by hand, another library, and distances written out."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_precision,
)

from cnnkit.data.masks import IGNORED
from cnnkit.errors import Failure
from cnnkit.tasks.pixels import PixelScores, rows, score

NAMES = ["sky", "road", "car", "tree"]


def masks(seed: int, size: tuple[int, int] = (24, 31), count: int = 3) -> tuple[Tensor, Tensor]:
    """Predictions and labels of the first three of four classes, in patches; some labels are ignored."""
    generator = torch.Generator().manual_seed(seed)

    def patches(most: int) -> Tensor:
        coarse = torch.randint(0, most, (count, 1, 5, 6), generator=generator).float()
        return torch.nn.functional.interpolate(coarse, size)[:, 0].byte()

    labels = patches(3)
    predicted = torch.where(patches(3) == 0, patches(3), labels)
    return predicted, labels.masked_fill(patches(6) == 0, IGNORED)


def scored(predicted: Tensor, labels: Tensor, classes: int = 4) -> PixelScores:
    losses = torch.arange(len(labels)).float()
    return score(NAMES[:classes], [rows(predicted, labels, losses, classes)])


def test_scores_equal_a_count_by_hand() -> None:
    """Class 0 has 3 pixels, 2 right and none called so wrongly; class 1 has 2, both right, and 1 false alarm.

    IoU 2/3 and 2/3 in both classes; weighted with 3 and 2 that is 2/3 too. Class 2 has one pixel, called 3:
    both have an IoU of 0, and only the first occurs in truth.
    """
    labels = torch.tensor([[[0, 0, 0, 1, 1, 2, IGNORED]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 0, 1, 1, 1, 3, 0]]], dtype=torch.uint8)
    scores = scored(predicted, labels)
    assert scores.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert scores.pixels.tolist() == [[[2, 2, 3], [2, 3, 2], [0, 0, 1], [0, 1, 0]]]
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.class_accuracy == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores.miou == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert scores.fwiou == pytest.approx((3 * 2 / 3 + 2 * 2 / 3) / 6)
    assert scores.image_miou().tolist() == pytest.approx([scores.miou])
    found = {row["class"]: row for row in scores.per_class()}
    assert found["road"]["pixels"] == 2
    assert found["road"]["precision"] == pytest.approx(2 / 3)
    assert (found["road"]["recall"], found["road"]["f1"]) == (1, pytest.approx(0.8))
    assert found["tree"] == {"class": "tree", "pixels": 0, **dict.fromkeys(list(found["tree"])[2:], 0)}


def test_scores_equal_those_of_another_library() -> None:
    predicted, labels = masks(0)
    scores = scored(predicted, labels, 3)
    given_ = (predicted.long(), labels.long())
    known = dict(num_classes=3, ignore_index=IGNORED)
    assert scores.confusion.equal(multiclass_confusion_matrix(*given_, **known))
    macro = multiclass_jaccard_index(*given_, **known, average="macro")
    weighted = multiclass_jaccard_index(*given_, **known, average="weighted")
    class_accuracy = multiclass_accuracy(*given_, **known, average="macro")
    assert scores.miou == pytest.approx(macro.item())
    assert scores.fwiou == pytest.approx(weighted.item())
    assert scores.class_accuracy == pytest.approx(class_accuracy.item())
    assert scores.accuracy == pytest.approx(multiclass_accuracy(*given_, **known, average="micro").item())
    for name, theirs in (("precision", multiclass_precision), ("f1", multiclass_f1_score)):
        expected = theirs(*given_, **known, average="none").tolist()
        assert [row[name] for row in scores.per_class()] == pytest.approx(expected)


def test_miou_is_counted_over_the_part_and_not_the_mean_of_the_images() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[1, :2] = 1
    predicted = torch.zeros_like(labels)
    scores = scored(predicted, labels)
    assert scores.miou == pytest.approx((24 / 32 + 0) / 2)
    assert scores.image_miou().tolist() == [1, 0.25]


def test_batches_of_images_of_different_sizes_are_scored_together() -> None:
    (p, t), (q, u) = masks(1, count=2), masks(2, (17, 40), 1)
    apart = [rows(p[:1], t[:1], torch.tensor([1.0]), 4), rows(p[1:], t[1:], torch.tensor([2.0]), 4)]
    last = rows(q, u, torch.tensor([6.0]), 4)
    together = rows(p, t, torch.tensor([1.0, 2.0]), 4)
    for one, other in zip(together, zip(*apart, strict=True), strict=True):
        assert one.equal(torch.cat(other))
    a, b = score(NAMES, [*apart, last]), score(NAMES, [together, last])
    assert a.to_json() == b.to_json()
    assert a.per_class() == b.per_class()
    assert a.loss == 3


def borders_by_distance(predicted: Tensor, labels: Tensor, classes: int) -> list[list[int]]:
    """Precision's and recall's counts by the distance of every pixel to the other border of the class."""
    limit = 0.0075 * math.hypot(*labels.shape)
    counted, found = (labels != IGNORED).numpy(), []
    for k in range(classes):
        row = []
        ours, theirs = (
            (mask == k) & counted & binary_dilation(counted & (mask != k))
            for mask in (predicted.numpy(), labels.numpy())
        )
        for one, other in ((ours, theirs), (theirs, ours)):
            near = (distance_transform_edt(~other) < limit) & other.any()
            row += [int(one.sum()), int((one & near).sum())]
        found.append(row)
    return found


@given(
    st.integers(0, 1000),
    st.sampled_from([(40, 50), (200, 270), (300, 400), (3, 301)]),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
@settings(max_examples=30, deadline=None)
def test_borders_are_matched_as_distances_say(seed: int, size: tuple[int, int], off: tuple[int, int]) -> None:
    predicted, labels = masks(seed, size, 1)
    predicted = predicted.roll(off, dims=(1, 2))
    found = rows(predicted, labels, torch.zeros(1), 4)[2]
    assert found[0].tolist() == borders_by_distance(predicted[0], labels[0], 4)


def test_boundary_f1_by_hand() -> None:
    """A border in a picture of 300 x 400 may be 3 pixels off, as 0.75 % of its diagonal of 500 is 3.75."""
    labels = torch.zeros(1, 300, 400, dtype=torch.uint8)
    labels[:, :, 200:] = 1
    for off, expected in ((0, 1.0), (2, 1.0), (3, 1.0), (4, 0.0), (50, 0.0)):
        predicted = torch.zeros_like(labels)
        predicted[:, :, 200 + off :] = 1
        scores = scored(predicted, labels)
        assert scores.boundary_f1 == expected
        assert [row["boundary_f1"] for row in scores.per_class()] == [expected, expected, 0, 0]


def test_boundary_f1_is_the_mean_over_classes_and_then_over_images() -> None:
    """The first image is right. The second has 100 rows; in 50 the border from column 199 to 200 is right,
    in 50 it is 50 columns too far to the right, and a step of 50 pixels joins both.

    Predicted borders are 50 + 50 + 49 pixels long, right are 50 and the first three of the step. Of the true
    ones 50 are found; besides, class 0 has the step below them in reach for four pixels more, class 1, whose
    step is in row 49, for three. The third image has no border and does not count.
    """
    labels = torch.zeros(3, 300, 400, dtype=torch.uint8)
    labels[:2, :, 200:] = 1
    predicted = labels.clone()
    labels[1, 100:] = IGNORED
    assert scored(predicted[:1], labels[:1]).boundary_f1 == scored(predicted, labels).boundary_f1 == 1
    predicted[1, 50:, 200:250] = 0
    f1 = [2 * 53 / 149 * recall / (53 / 149 + recall) for recall in (0.54, 0.53)]
    scores = scored(predicted, labels)
    assert scores.borders[1, :2].tolist() == [[149, 53, 100, 54], [149, 53, 100, 53]]
    assert scores.boundary_f1 == pytest.approx((1 + sum(f1) / 2) / 2)
    expected = [(1 + f1[0]) / 2, (1 + f1[1]) / 2, 0, 0]
    assert [row["boundary_f1"] for row in scores.per_class()] == pytest.approx(expected)


def test_what_is_ignored_is_no_border_and_hides_what_was_predicted_there() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.uint8)
    labels[:, 5:9] = IGNORED
    predicted = torch.zeros_like(labels)
    predicted[:, 6:8] = 2
    confusion, _, borders = rows(predicted, labels, torch.zeros(1), 4)
    assert int(confusion.sum()) == int(confusion[0, 0, 0]) == 16 * 20
    assert not borders.any()


def test_an_image_of_which_nothing_counts_changes_no_score() -> None:
    predicted, labels = masks(3)
    labels[2] = IGNORED
    whole, less = scored(predicted, labels), scored(predicted[:2], labels[:2])
    assert whole.to_json() == less.to_json()
    assert whole.image_miou()[2].isnan()


def test_the_summary_is_plain_and_begins_with_what_is_chosen_by() -> None:
    found = scored(*masks(4)).to_json()
    assert list(found) == ["miou", "accuracy", "class_accuracy", "fwiou", "boundary_f1", "loss"]
    assert all(type(value) is float for value in found.values())
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_nothing_to_score_and_labels_of_no_class_are_refused() -> None:
    predicted, labels = masks(5)
    with pytest.raises(Failure, match="no pixel to score"):
        scored(predicted, torch.full_like(labels, IGNORED))
    with pytest.raises(Failure, match="no pixel to score"):
        score(NAMES, [])
    labels[0, 0, 0] = 9
    with pytest.raises(ValueError, match="the label 9, but there are 4 classes"):
        scored(predicted, labels)
    with pytest.raises(ValueError, match="the prediction 77, but there are 4 classes"):
        scored(torch.full_like(labels, 77), labels.clamp(max=3))
