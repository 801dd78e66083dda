"""A recipe is validated where it comes in, with the name of what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from cnnkit.errors import Misuse
from cnnkit.train.recipe import Recipe, make, read


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epocs": 3}, "x: no setting 'epocs'; did you mean epochs"),
        ({"epochs": "many"}, "x: epochs = 'many'"),
        ({"epochs": 0}, "x: epochs must be at least 1, got 0"),
        ({"lr": 0.0}, r"x: lr must be above 0, got 0\.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be below 1, got 1\.0"),
        ({"image_size": 5000}, "image_size must be at most 4096, got 5000"),
        ({"optimizer": "adam"}, "optimizer = 'adam'"),
        ({"augment": ["spin"]}, "augment"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        make(values, "x")


def test_a_file_gives_settings(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('model = "lenet5"\nepochs = 3\naugment = ["shift"]\n')
    made = make(read(tmp_path / "r.toml"), "r.toml")
    assert made == Recipe(model="lenet5", epochs=3, augment=("shift",))


def test_what_is_stored_comes_back() -> None:
    recipe = Recipe(model="lenet5", epochs=3, lr=0.1, augment=(), workers=0)
    assert make(recipe.to_dict(), "stored") == recipe


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "there is no recipe file"), ("a = ", "not valid TOML")]
)
def test_a_file_that_cannot_be_read_is_a_misuse(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "r.toml").write_text(content)
    with pytest.raises(Misuse, match=sentence):
        read(tmp_path / "r.toml")
