"""A network that labels pixels goes from pictures and masks to a run directory by the same commands."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from cnnkit.data.masks import IGNORED
from cnnkit.errors import Failure, Misuse
from cnnkit.models import create
from cnnkit.models.segment.trunks import WithClasses
from cnnkit.tasks import Segment, Segmenter, load
from cnnkit.train.directory import Directory
from cnnkit.train.evaluate import evaluate
from cnnkit.train.fit import fit
from cnnkit.train.transfer import carry
from cnnkit.weights.artefact import Card, read_card, save
from cnnkit.weights.preprocessing import Preprocessing
from cnnkit.weights.sources import load as load_weights

#: (root, pictures, sizes) -> pictures of a bright box on dark noise, and masks: 0 noise, 1 box.
Make = Callable[..., Path]

TINY: dict[str, Any] = {
    "model": "unet_padded_bn",
    "arguments": {"width": 0.0625},
    "epochs": 2,
    "batch_size": 4,
    "image_size": 32,
    "threads": 1,
    "workers": 0,
    "precision": "32",
    "layout": "channels_first",
}


@pytest.fixture
def boxes(tmp_path: Path) -> Make:
    def make(
        count: int = 16, sizes: tuple[tuple[int, int], ...] = ((48, 40), (36, 52)), **parts: int
    ) -> Path:
        root = tmp_path / "boxes"
        random = np.random.default_rng(0)
        for prefix, many in (parts or {"": count}).items():
            for folder in ("images", "masks"):
                (root / prefix / folder).mkdir(parents=True)
            for i in range(many):
                height, width = sizes[i % len(sizes)]
                pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
                mask = np.zeros((height, width), np.uint8)
                top, left = random.integers(0, height - 20), random.integers(0, width - 20)
                pixels[top : top + 20, left : left + 20] += 140
                mask[top : top + 20, left : left + 20] = 1
                Image.fromarray(pixels).save(root / prefix / "images" / f"{i}.png")
                Image.fromarray(mask).save(root / prefix / "masks" / f"{i}.png")
        return root

    return make


def trained(root: Path, path: Path, silent: Console, **settings: Any) -> Directory:
    return fit(root, output=path, console=silent, **{**TINY, **settings})


def rows(run: Directory) -> list[dict[str, float]]:
    lines = (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_learns_and_its_artefact_predicts_masks_of_any_size(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    root = boxes(30)
    run = trained(root, tmp_path / "run", silent, epochs=6, lr=0.01)
    assert run.summary["chosen_by"] == "miou on val"
    assert run.summary["test"]["miou"] > 0.75
    assert {"miou", "accuracy", "boundary_f1"} <= run.summary["val"].keys()
    page = run.report.read_text("utf-8")
    assert all(title in page for title in ("Worst images", "boundary_f1", "test miou"))
    network = load(run.best)
    assert isinstance(network, Segmenter)
    found = network.predict(root / "images" / "1.png")
    truth = torch.from_numpy(np.array(Image.open(root / "masks" / "1.png")))
    assert found.mask.shape == truth.shape == (36, 52)
    assert (found.mask == truth).float().mean() > 0.9
    again = evaluate(run.path, root, split="test")
    assert again.scores.to_json() == pytest.approx(run.summary["test"])
    assert evaluate(run.path, root, split="test", views="flip").scores.to_json() != again.scores.to_json()


@pytest.mark.parametrize("fit_mode", ["window", "squash"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    boxes: Make, tmp_path: Path, silent: Console, fit_mode: str
) -> None:
    root = boxes()
    whole = trained(root, tmp_path / "whole", silent, fit=fit_mode, schedule="constant")
    trained(root, tmp_path / "parts", silent, fit=fit_mode, schedule="constant", epochs=1)
    parts = fit(resume=True, output=tmp_path / "parts", epochs=2, console=silent)
    last = [run.load_checkpoint()["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())
    assert [row["val/miou"] for row in rows(whole)] == [row["val/miou"] for row in rows(parts)]


def test_a_network_that_pads_nothing_learns_up_to_the_border(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    settings = {"model": "unet", "image_size": 220, "batch_size": 2, "epochs": 1}
    run = trained(boxes(8), tmp_path / "run", silent, **settings)
    assert run.config["recipe"]["image_size"] == 220
    assert load(run.best).predict(Image.new("RGB", (50, 70))).mask.shape == (70, 50)  # type: ignore[union-attr]


def test_losses_weighed_by_class_and_border_are_found_in_the_data(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    loss = [{"name": "cross_entropy", "balance": "median_frequency", "border": 10.0}, "dice"]
    run = trained(boxes(), tmp_path / "run", silent, loss=loss, epochs=1)
    stored = run.config["recipe"]["loss"]
    assert [part["name"] for part in stored] == ["cross_entropy", "dice"]
    noise, box = stored[0]["weights"]
    assert box > 1 > noise > 0  # boxes are the rarer class
    assert np.isfinite(run.summary["val"]["loss"])


def test_ignored_masks_and_a_class_that_training_lacks_do_no_harm(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    root = boxes(train=8, val=4)
    for i in range(4):
        path = root / "train" / "masks" / f"{i}.png"
        Image.fromarray(np.full_like(np.array(Image.open(path)), IGNORED)).save(path)
    run = trained(
        root,
        tmp_path / "run",
        silent,
        classes=("noise", "box", "ghost"),
        batch_size=2,
        loss=["dice", "focal"],
    )
    assert np.isfinite([row["train/loss"] for row in rows(run)]).all()
    scored = {row["class"]: row for row in evaluate(run.path, root, split="val").scores.per_class()}
    assert scored["ghost"]["pixels"] == 0


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_with_nothing_that_counts_is_one_sentence_before_anything_is_written(
    boxes: Make, tmp_path: Path, silent: Console, part: str
) -> None:
    root = boxes(train=4, val=2)
    for path in (root / part / "masks").iterdir():
        Image.fromarray(np.full_like(np.array(Image.open(path)), IGNORED)).save(path)
    with pytest.raises(Failure, match=f"no pixel of the {part} part of .* counts"):
        trained(root, tmp_path / "run", silent, classes=("noise", "box"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": "resnet18", "arguments": None}, "resnet18 is a network to classify and wants a folder of"),
        ({"mix": ["mixup"]}, "--mix says nothing to segment"),
        ({"loss": ["squared_error"]}, "the loss squared_error is not for networks to segment"),
        (
            {"loss": [{"name": "cross_entropy", "weights": (1.0, 2.0, 3.0)}]},
            "loss cross_entropy: weights needs a number for each of 2 classes, got 3",
        ),
        (
            {"loss": [{"name": "focal", "alpha": (1.0,)}]},
            "loss focal: alpha needs a number for each of 2 classes, got 1",
        ),
        ({"fit": "crop"}, "--fit crop is not for networks to segment; use window or squash"),
        ({"normalise": "zca"}, "--normalise zca whitens images of one size"),
        ({"augment": ["rand_augment"]}, "rand_augment"),
        ({"image_size": 200, "model": "unet"}, "unet does not take 200 x 200 images .* 188 and every 16"),
        (
            {"model": "deeplabv3_resnet50", "batch_size": 1},
            "deeplabv3_resnet50 has a batch norm over one value .* use --batch-size 2",
        ),
        ({"backbone_weights": "nowhere.pth"}, "there is no file nowhere.pth"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    boxes: Make, tmp_path: Path, silent: Console, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((Misuse, Failure), match=sentence):
        trained(boxes(8), tmp_path / "run", silent, **settings)
    assert not (tmp_path / "run").exists()


def test_a_network_that_labels_pixels_needs_masks(shrunk: str, tmp_path: Path, silent: Console) -> None:
    with pytest.raises(Misuse, match="unet_padded_bn is a network to segment and wants images with masks"):
        fit("digits", output=tmp_path / "run", console=silent, **TINY)
    with pytest.raises(Misuse, match="has no masks"):
        fit("digits", output=tmp_path / "run", console=silent, model=shrunk, ignore=("3",))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: Image.new("L", (80, 80)).save(path), "80 x 80 pixels and its picture"),
        (
            lambda path: Image.fromarray(np.full((48, 40), 9, np.uint8)).save(path),
            "holds 9, which is no class",
        ),
        (lambda path: path.write_bytes(b"no picture"), "no image that can be read"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(
    boxes: Make, tmp_path: Path, silent: Console, spoil: Callable[[Path], Any], sentence: str
) -> None:
    root = boxes(8)
    spoil(root / "masks" / "2.png")
    with pytest.raises(Failure, match=sentence):
        trained(root, tmp_path / "run", silent, classes=("noise", "box"))


@pytest.fixture
def squeezed(tmp_path: Path) -> Path:
    """A classifier for five classes whose convolutions are a segmentation network's backbone."""
    torch.manual_seed(1)
    card = Card(
        model="squeezenet1_0",
        task="classify",
        classes=list("abcde"),
        preprocessing=Preprocessing((64, 64), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), channels="BGR"),
        arguments={"num_classes": 5, "in_channels": 3},
    )
    path = tmp_path / "squeezed.safetensors"
    save(path, create(card.model, **card.arguments).state_dict(), card)
    return path


def test_a_backbone_brings_its_weights_and_its_colours(
    boxes: Make, tmp_path: Path, silent: Console, squeezed: Path
) -> None:
    settings = {
        "model": "fcn_squeezenet1_0",
        "arguments": None,
        "backbone_weights": str(squeezed),
        "freeze": "features",
        "epochs": 1,
    }
    root = boxes(8)
    run = trained(root, tmp_path / "run", silent, **settings)
    ours, theirs = load_file(run.best), load_file(squeezed)
    carried = [name for name in theirs if name.startswith("stages.")]
    assert carried
    assert all(torch.equal(ours[f"backbone.{name}"], theirs[name]) for name in carried)
    card = read_card(run.best)
    assert (card.preprocessing.channels, card.preprocessing.mean) == ("BGR", (0.2, 0.3, 0.4))
    assert card.provenance["weights"]["backbone"] == "squeezenet1_0"
    for path in (run.last, run.best):
        path.unlink()
    again = fit(resume=True, output=tmp_path / "run", console=silent)
    assert all(torch.equal(value, ours[name]) for name, value in load_file(again.best).items())
    with pytest.raises(
        Misuse,
        match=r"not begin as squeezenet1_0 does: .* fills 0 layers with those of its 25",
    ):
        trained(root, tmp_path / "other", silent, **{**settings, "model": "segnet_basic"})


def test_weights_of_a_network_for_other_classes_are_carried_over_but_for_their_scores(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    root = boxes(8)
    first = trained(root, tmp_path / "first", silent, epochs=1)
    second = trained(
        root,
        tmp_path / "second",
        silent,
        **{"epochs": 1, "classes": ("noise", "box", "ghost"), "arguments": None, "model": None},
        weights=str(first.best),
        freeze="features",
    )
    before, after = load_file(first.best), load_file(second.best)
    moved = {
        name
        for name in before
        if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }
    assert moved == {"score.weight", "score.bias"}
    assert second.config["transfer"]["filled"]


def test_layers_that_score_other_classes_are_new_though_there_are_as_many(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    first = trained(boxes(8), tmp_path / "first", silent, epochs=1)
    torch.manual_seed(1)
    network, told = carry(load_weights(first.best), str(first.best), ["dark", "bright"])
    before, after = load_file(first.best), network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "score.weight",
        "score.bias",
    }
    assert "score" not in told.filled
    assert not told.whole


def test_all_layers_that_score_the_same_classes_learn_above_frozen_features(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    root = boxes(8)
    settings = {"epochs": 1, "model": "fcn_squeezenet1_0", "arguments": None}
    first = trained(root, tmp_path / "first", silent, **settings)
    second = trained(
        root, tmp_path / "second", silent, **settings, weights=str(first.best), freeze="features"
    )
    before, after = load_file(first.best), load_file(second.best)
    moved = {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"scores.{i}.4" for i in range(3)}
    assert second.config["transfer"]["whole"]


def test_few_masks_and_the_classes_of_the_other_images_are_learnt_together(
    boxes: Make, tmp_path: Path, silent: Console
) -> None:
    root = boxes(10, sizes=((240, 230),))
    settings = {
        "model": "decouplednet",
        "arguments": {"width": 0.03125, "aux": True},
        "image_size": 224,
        "epochs": 1,
        "batch_size": 2,
    }
    run = trained(root, tmp_path / "run", silent, mask_share=0.3, **settings)
    assert np.isfinite(run.summary["val"]["loss"])
    with pytest.raises(Misuse, match="unet_padded_bn names none; use decouplednet"):
        trained(root, tmp_path / "other", silent, mask_share=0.3)


def test_images_without_masks_count_by_their_classes_alone() -> None:
    """Scores ln 3 and -ln 3 of two classes that are there and not: ln(4 / 3) each, whatever the pixels."""
    task = Segment(["noise", "box", "ghost"])
    output = WithClasses(torch.randn(1, 3, 4, 4), torch.tensor([[math.log(3), -math.log(3)]]))
    batch = {
        "labels": torch.full((1, 4, 4), IGNORED, dtype=torch.uint8),
        "present": torch.tensor([[True, True, False]]),
    }
    assert task.loss(output, batch).item() == pytest.approx(math.log(4 / 3))
