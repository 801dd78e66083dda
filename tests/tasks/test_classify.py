"""Scores against counts made by hand, and predictions of pictures."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision

from cnnkit import canon
from cnnkit.errors import Failure
from cnnkit.layers import WithAux
from cnnkit.models import create
from cnnkit.tasks import load
from cnnkit.tasks.classify import Classifier, Classify, outputs
from cnnkit.tasks.losses import SquaredError
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

from ..data.masked import lying


def logits(predicted: list[int], classes: int) -> Tensor:
    return 5.0 * nn.functional.one_hot(torch.tensor(predicted), classes)


def test_scores_equal_a_count_by_hand() -> None:
    """True 0,0,0,1,1,2, predicted 0,0,1,1,2,2: four of six; class 1 has a hit, a miss, a false alarm."""
    task = Classify(["a", "b", "c"])
    scores = task.score(
        [(logits([0, 0, 1], 3), torch.tensor([0, 0, 0])), (logits([1, 2, 2], 3), torch.tensor([1, 1, 2]))]
    )
    assert scores.accuracy == 4 / 6
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    rows = {row["class"]: row for row in scores.per_class()}
    assert (rows["b"]["images"], rows["b"]["precision"], rows["b"]["recall"], rows["b"]["f1"]) == (
        2,
        0.5,
        0.5,
        0.5,
    )
    assert rows["a"]["recall"] == pytest.approx(2 / 3)
    assert scores.to_json()["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores.predicted.tolist() == [0, 0, 1, 1, 2, 2]
    assert scores.top5 is None


def test_scores_equal_those_of_another_library() -> None:
    torch.manual_seed(0)
    raw, labels = torch.randn(300, 7), torch.randint(7, (300,))
    scores = Classify([str(i) for i in range(7)]).score(
        [(raw[:100], labels[:100]), (raw[100:], labels[100:])]
    )
    for name, theirs in (("precision", multiclass_precision), ("f1", multiclass_f1_score)):
        expected = theirs(raw, labels, num_classes=7, average="none").tolist()
        assert [row[name] for row in scores.per_class()] == pytest.approx(expected)
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(raw, labels).item(), rel=1e-6)
    among = (raw.topk(5, dim=1).indices == labels[:, None]).any(dim=1).double().mean().item()
    assert scores.top5 == pytest.approx(among)


def test_a_class_without_images_does_not_count_in_the_balance() -> None:
    scores = Classify(["a", "b"]).score([(logits([0, 1], 2), torch.tensor([0, 0]))])
    assert scores.to_json()["balanced_accuracy"] == 0.5


def test_nothing_to_score_is_a_failure() -> None:
    with pytest.raises(Failure, match="no image to score"):
        Classify(["a", "b"]).score([])


def test_squared_error_has_targets_plus_and_minus_one() -> None:
    """Outputs 1, -1 and 0 for class 0 of three: errors 0, 0 and 1, so a third."""
    task = Classify(["a", "b", "c"], (SquaredError(),))
    assert task.loss(torch.tensor([[1.0, -1.0, 0.0]]), {"labels": torch.tensor([0])}).item() == pytest.approx(
        1 / 3
    )


def test_auxiliary_logits_count_in_the_loss_with_the_weight_that_they_come_with() -> None:
    """Two classes, label 0, logits (d, 0): the loss is ln(1 + exp(-d)); 0.3 of those of the two heads."""
    task, batch = Classify(["a", "b"]), {"labels": torch.tensor([0])}
    margins = [torch.tensor([[d, 0.0]]) for d in (2.0, 0.0, -1.0)]
    own, first, second = (math.log1p(math.exp(-d)) for d in (2.0, 0.0, -1.0))
    output = WithAux(margins[0], (margins[1], margins[2]), weight=0.3)
    assert task.loss(output, batch).item() == pytest.approx(own + 0.3 * (first + second))
    assert task.loss(margins[0], batch).item() == pytest.approx(own)
    assert task.logits(output) is task.logits(margins[0]) is margins[0]


@pytest.mark.parametrize(("name", "weight"), [("googlenet", 0.3), ("inception_v3", 0.4)])
def test_a_network_with_auxiliary_heads_is_trained_through_them_and_scored_without(
    name: str, weight: float
) -> None:
    torch.manual_seed(0)
    task, model = Classify(["a", "b", "c"]), create(name, num_classes=3, aux=True)
    side = canon.entry("classification/inception", name).input[1]
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    batch = {"images": images, "labels": torch.tensor([0, 2])}
    output = model.train()(images / 255)
    task.loss(output, batch).backward()
    assert output.weight == weight
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.get_submodule("aux").parameters())
    preprocessing = Preprocessing((side, side), mean=(0.5,) * 3, std=(0.5,) * 3, channels="RGB")
    scores = task.score(outputs(model, [batch], preprocessing))
    assert scores.confusion.sum() == 2
    with torch.no_grad():
        logits = model(preprocessing.normalise(images)).logits
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, batch["labels"]).item(), rel=1e-5)


class Brightness(nn.Module):
    """Logits for dark and bright."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


CARD = Card(
    model="none",
    task="classify",
    classes=["dark", "bright"],
    preprocessing=Preprocessing((4, 4), mean=(0.5,), std=(0.5,), channels="L"),
)


def test_a_picture_a_path_and_a_batch_are_predicted_alike(tmp_path: Path) -> None:
    Image.new("RGB", (9, 6), "white").save(tmp_path / "w.png")
    classifier = Classifier(Brightness(), CARD)
    by_path = classifier.predict(tmp_path / "w.png")
    assert by_path.classes == ("bright", "dark")
    assert by_path.probabilities[0] == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    by_picture = classifier.predict(Image.new("RGB", (9, 6), "white"))
    assert by_picture.probabilities == by_path.probabilities
    many = list(
        classifier.predict_all([tmp_path / "w.png", Image.new("L", (5, 5), 0)] * 3, top=1, batch_size=4)
    )
    assert [p.classes[0] for p in many] == ["bright", "dark"] * 3
    assert many[0].image == str(tmp_path / "w.png")


def test_a_prediction_is_json_ready_and_readable(tmp_path: Path) -> None:
    found = Classifier(Brightness(), CARD).predict(Image.new("L", (5, 5), 255))
    assert found.to_json()["classes"] == ("bright", "dark")
    assert "88.1%  bright" in str(found)


def test_outputs_are_those_of_evaluation_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 2)).train()
    batch = {"images": torch.full((3, 1, 4, 4), 9, dtype=torch.uint8), "labels": torch.tensor([0, 1, 0])}
    made = [next(iter(outputs(model, [batch], CARD.preprocessing)))[0] for _ in range(2)]
    assert torch.equal(made[0], made[1])
    assert not made[0].requires_grad


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"holds no best\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_classified_upright_however_it_was_stored(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8))
    lying(upright, orientation, tmp_path / "lying.png")
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), CARD)
    truth = classifier.predict(upright).probabilities
    assert classifier.predict(tmp_path / "lying.png").probabilities == truth
    with Image.open(tmp_path / "lying.png") as opened:
        assert classifier.predict(opened).probabilities == truth
