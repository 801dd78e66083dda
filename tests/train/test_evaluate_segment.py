"""Networks that label pixels, scored beside each other and in all ways to look at the pictures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnkit.errors import Failure, Misuse
from cnnkit.models import create
from cnnkit.tasks.borders import WAYS
from cnnkit.train.evaluate import borders, evaluate, fuse
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

from ..conftest import MakeFolder
from ..data.masked import write

#: (name, what of the preprocessing is otherwise) -> an artefact of a network that learnt nothing.
Save = Callable[..., Path]

PLAIN = Preprocessing(size=(48, 48), fit="window", mean=(0.3,) * 3, std=(0.1,) * 3)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def make(name: str, classes: tuple[str, ...] = ("0", "1", "2"), **how: Any) -> Path:
        torch.manual_seed(sum(name.encode()))
        arguments = {"num_classes": len(classes), "width": 1 / 16}
        card = Card(
            model="unet_padded_bn",
            task="segment",
            classes=list(classes),
            preprocessing=replace(PLAIN, **how),
            arguments=arguments,
        )
        path = tmp_path / f"{name}.safetensors"
        weights = create(card.model, **arguments).state_dict()
        weights["score.weight"] *= 40  # sure of what it says, or a CRF would make all pixels alike
        artefact.save(path, weights, card)
        return path

    return make


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """Five pictures of two sizes, three classes."""
    write(tmp_path / "patches/images", tmp_path / "patches/masks", [(36, 50), (60, 48)] * 2 + [(36, 50)])
    return tmp_path / "patches"


def test_each_of_several_networks_has_the_score_that_it_has_alone(save: Save, patches: Path) -> None:
    paths = [save("a"), save("b", size=(32, 40), fit="squash")]
    found = fuse(paths, patches, views="flip")
    assert found.together is None
    for path in paths:
        assert (
            found.alone[str(path)].scores.to_json() == evaluate(path, patches, views="flip").scores.to_json()
        )
    told = found.to_json()
    assert [one["network"] for one in told["networks"]] == list(map(str, paths))
    assert (told["part"], told["images"], told["views"]) == ("all", 5, "flip")
    first, second = told["networks"]
    assert first["miou"] != second["miou"]
    assert [row["class"] for row in first["classes"]] == ["0", "1", "2"]
    assert "part" not in first


@pytest.mark.parametrize(
    "how",
    [{}, {"fit": "squash", "size": (32, 40)}, {"normalisation": "image"}],
    ids=["plain", "squash", "image"],
)
def test_every_way_scores_what_evaluate_scores_with_its_flags(
    save: Save, patches: Path, how: dict[str, Any]
) -> None:
    """`evaluate` goes by batches, the ways by predictions of pictures: two routes to one figure."""
    path = save("a", **how)
    found = borders([path], patches)
    assert (found.part, found.images, found.of) == ("all", 5, 5)
    flags = [
        ("center", False),
        ("flip", False),
        ("multi_scale", False),
        ("center", True),
        ("multi_scale", True),
    ]
    for look, (views, crf) in zip(found.looks[str(path)], flags, strict=True):
        scored = evaluate(path, patches, views=views, crf=crf)
        assert scored.views == look.way
        assert look.miou == pytest.approx(scored.scores.miou, abs=1e-3)  # a tie may fall the other way
        assert look.boundary_f1 == pytest.approx(scored.scores.boundary_f1, abs=1e-3)
    assert len({look.miou for look in found.looks[str(path)]}) == len(WAYS)


def test_networks_look_at_the_same_images_of_a_larger_part(save: Save, patches: Path) -> None:
    paths = [save("a"), save("b")]
    found = borders(paths, patches, most=2)
    assert (found.images, found.of) == (2, 5)
    told = found.to_json()
    assert list(told) == ["part", "images", "of", "remark", "networks"]
    assert "not known without the run's folder" in told["remark"]
    for network in told["networks"]:
        assert [row["way"] for row in network["ways"]] == list(WAYS)
        (alone,) = borders([network["network"]], patches, most=2).looks.values()
        assert [row["boundary_f1"] for row in network["ways"]] == [look.boundary_f1 for look in alone]


def test_networks_that_know_other_classes_are_named(save: Save, patches: Path) -> None:
    paths = [save("a"), save("b", classes=("0", "1"))]
    with pytest.raises(
        Failure, match=r"has the classes 0, 1, 2, and .*b.safetensors knows 0, 1; put a classes.txt"
    ):
        fuse(paths, patches)


def test_what_is_of_masks_is_refused_of_classifiers(make_folder: MakeFolder, tmp_path: Path) -> None:
    photos = make_folder({"red": 2, "green": 2}, size=28)
    to = Preprocessing((28, 28), mean=(0.5,) * 3, std=(0.2,) * 3)
    arguments = {"num_classes": 2, "in_channels": 3}
    card = Card(
        model="lenet5_relu", task="classify", classes=["green", "red"], preprocessing=to, arguments=arguments
    )
    path = tmp_path / "net.safetensors"
    artefact.save(path, create("lenet5_relu", **arguments).state_dict(), card)
    with pytest.raises(Misuse, match=r"--borders is of masks, and .*net.safetensors classifies images"):
        borders([path], photos)
    with pytest.raises(Misuse, match=r"--crf is of masks, and .*net.safetensors classifies images"):
        evaluate(path, photos, crf=True)
