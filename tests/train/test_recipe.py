"""A recipe is validated where it comes in, with the name of what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from cnnkit.data.augment.move import Shift
from cnnkit.errors import Misuse
from cnnkit.train.optimizers import Adamw, Sgd
from cnnkit.train.recipe import Recipe, make, merged, read
from cnnkit.train.recipes import entries, find
from cnnkit.train.schedules import Cosine, OneCycle


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epocs": 3}, "x: no setting 'epocs'; did you mean epochs"),
        ({"epochs": "many"}, "x: epochs = 'many'"),
        ({"epochs": 0}, "x: epochs must be at least 1, got 0"),
        ({"lr": 0.0}, r"x: optimizer adamw: lr must be above 0, got 0\.0"),
        ({"optimizer.momentum": 0.9}, "optimizer adamw: no setting 'momentum'"),
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "no setting 'momentun'; did you mean momentum"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be below 1, got 1\.0"),
        ({"image_size": 5000}, "image_size must be at most 4096, got 5000"),
        ({"optimizer": "adam"}, "x: optimizer: no optimizer 'adam'; did you mean adamw"),
        ({"optimizer": 3}, 'needs a name, like x: optimizer = "sgd", got 3'),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"augment": ["spin"]}, "augment"),
        ({"loss": "squared_error", "label_smoothing": 0.1}, "label_smoothing is for the cross_entropy loss"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        make(values, "x")


def test_a_file_gives_settings(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        'model = "lenet5"\nepochs = 3\naugment = ["shift"]\n[optimizer]\nname = "sgd"\nlr = 0.4\n'
    )
    made = make(read(tmp_path / "r.toml"), "r.toml")
    assert made == Recipe(model="lenet5", epochs=3, augment=(Shift(),), optimizer=Sgd(lr=0.4))


def test_what_is_stored_comes_back() -> None:
    recipe = Recipe(model="lenet5", epochs=3, optimizer=Sgd(lr=0.2), schedule=Cosine(warmup=0.1), augment=())
    assert make(recipe.to_dict(), "stored") == recipe


@pytest.mark.parametrize(
    ("values", "optimizer"),
    [
        ({"lr": 0.01}, Adamw(lr=0.01)),
        ({"optimizer": "sgd", "lr": 0.01}, Sgd(lr=0.01)),
        ({"lr": 0.01, "optimizer": "sgd"}, Sgd(lr=0.01)),
        ({"optimizer.momentum": 0.5, "optimizer": {"name": "sgd", "lr": 1.0}}, Sgd(lr=1.0, momentum=0.5)),
        ({"optimizer": {"weight_decay": 0.5}}, Adamw(weight_decay=0.5)),
        ({"optimizer": Sgd(lr=3.0)}, Sgd(lr=3.0)),
    ],
)
def test_a_part_is_named_changed_or_both(values: dict[str, Any], optimizer: object) -> None:
    assert make(values, "x").optimizer == optimizer


def test_flags_win_over_a_recipe_setting_by_setting() -> None:
    recipe = {"epochs": 9, "optimizer": {"name": "sgd", "lr": 0.4, "momentum": 0.8}, "schedule": "cosine"}
    same = make(merged(recipe, {"optimizer": "sgd", "lr": 0.1}), "x")
    assert same.optimizer == Sgd(lr=0.1, momentum=0.8)
    other = make(merged(recipe, {"optimizer": "adamw", "schedule": "one_cycle"}), "x")
    assert (other.optimizer, other.schedule, other.epochs) == (Adamw(), OneCycle(), 9)


def test_one_setting_of_one_part_of_a_list_is_changed() -> None:
    recipe = {"augment": ["flip", {"name": "pad_crop", "padding": 4}]}
    assert merged(recipe, {"augment.pad_crop.padding": 2})["augment"] == [
        "flip",
        {"name": "pad_crop", "padding": 2},
    ]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_recipe_of_the_package_is_valid_and_says_what_it_is(entry: Any) -> None:
    recipe = make(entry.settings, entry.name)
    assert recipe.model
    assert entry.title
    assert entry.source


def test_a_recipe_that_is_not_there_is_named_with_its_neighbours() -> None:
    with pytest.raises(Misuse, match=r"no recipe 'lenet_mnist'; did you mean .*lenet5_mnist"):
        find("lenet_mnist")


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "there is no recipe file"), ("a = ", "not valid TOML")]
)
def test_a_file_that_cannot_be_read_is_a_misuse(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "r.toml").write_text(content)
    with pytest.raises(Misuse, match=sentence):
        find(str(tmp_path / "r.toml"))
