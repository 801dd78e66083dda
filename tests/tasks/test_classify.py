"""Scores against counts made by hand, and predictions of pictures."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision

from cnnkit.errors import Failure
from cnnkit.tasks.classify import Classifier, Classify, load, outputs
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing


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
    task = Classify(["a", "b", "c"], "squared_error")
    assert task.loss(torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([0])).item() == pytest.approx(1 / 3)


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
