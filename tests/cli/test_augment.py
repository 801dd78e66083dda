"""`cnnkit augment`: the picture, what is refused, and that nothing is overwritten."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.data.augment import AUGMENTATIONS, parse
from cnnkit.data.batches import batches
from cnnkit.data.pictures import to_picture
from cnnkit.data.preview import CELL, GAP, LABEL, MARGIN, preview
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

from .test_cli import run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A colourful picture of 300 x 240."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((300, 240), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A grey picture of 28 x 28."""
    picture = Image.new("L", (28, 28))
    picture.paste(255, (8, 4, 20, 24))
    picture.save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def kind(path: Path) -> str | None:
    with Image.open(path) as picture:
        return picture.format


def test_each_change_has_a_row_and_all_have_one(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys, "augment", photo, "--augment", "crop,flip", "--versions", 4, "--out", tmp_path / "grid.png"
    )
    assert code == 0
    first, second, last = out.splitlines()
    assert first == "crop (area 0.08 to 1, aspect 0.75 to 1.33)"
    assert second == "flip (probability 0.5)"
    assert last == f"drawn in {tmp_path / 'grid.png'}"
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width == 2 * MARGIN + LABEL + 4 * CELL + 3 * GAP
        assert 4 * CELL < sheet.height < 5 * CELL  # the image, two rows, and one of both


def test_what_is_shown_is_what_training_feeds(photo: Path) -> None:
    """The third version of the second row, cut out of the picture, is the pipeline's."""
    to = Preprocessing((160, 160), mean=(0.5,) * 3, std=(1.0,) * 3)
    changes = parse(["crop", "colour_jitter"])
    sheet = preview(photo, to, changes, versions=5, seed=3)
    part = Part([photo.name] * 5, [0] * 5, photo.parent)
    (batch,) = batches(part, to, 5, seed=3, augmentation=changes[1:])
    top = sheet.height - MARGIN - 2 * (CELL + GAP)
    left = MARGIN + LABEL + 2 * (CELL + GAP)
    shown = sheet.crop((left, top, left + CELL, top + CELL))
    assert shown.tobytes() == to_picture(batch["images"][2]).tobytes()


def test_all_there_are_are_shown_unless_some_are_named(
    capsys: pytest.CaptureFixture[str], photo: Path, digit: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "augment", photo, "--out", tmp_path / "a.png", "--versions", 1, "--json")
    assert code == 0
    assert [change["name"] for change in json.loads(out)["augment"]] == list(AUGMENTATIONS)
    code, out, _ = run(capsys, "augment", digit, "--out", tmp_path / "b.png", "--versions", 1, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["image_size"] == 28
    names = [change["name"] for change in found["augment"]]
    assert names == [name for name, kind in AUGMENTATIONS.items() if 1 in kind.channels]


def test_a_recipe_is_shown_with_its_settings_and_size(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('image_size = 96\naugment = ["flip", {name = "pad_crop", padding = 8}]\n')
    code, out, _ = run(capsys, "augment", photo, "--recipe", recipe, "--out", tmp_path / "g.jpg", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["image_size"] == 96
    assert found["augment"][1] == {"name": "pad_crop", "padding": 8, "border": "zero"}
    assert kind(tmp_path / "g.jpg") == "JPEG"


def test_the_packaged_recipe_of_lenet_is_shown(
    capsys: pytest.CaptureFixture[str], digit: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "augment", digit, "--recipe", "lenet5_mnist", "--out", tmp_path / "g.png")
    assert code == 0
    assert out.startswith("shift (share 0.07)")


def test_a_file_is_only_overwritten_when_asked(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "g.png").write_text("precious")
    asked = ("augment", photo, "--augment", "flip", "--out", tmp_path / "g.png")
    code, _, err = run(capsys, *asked)
    assert code == 2
    assert f"{tmp_path / 'g.png'} exists; name another file, or add --overwrite" in err
    assert (tmp_path / "g.png").read_text() == "precious"
    assert run(capsys, *asked, "--overwrite")[0] == 0
    assert kind(tmp_path / "g.png") == "PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--augment", "flop"], "did you mean flip"),
        (["--augment", "crop,scale_jitter"], "crop and scale_jitter both choose the part of the image"),
        (["--recipe", "lenet5_mnits"], "did you mean lenet5_mnist"),
        (["--recipe", "lenet5_mnist", "--augment", "flip"], "--recipe and --augment both say"),
        (["--out", "grid.txt"], "is no kind of picture that can be written"),
        (["--out", "nowhere/grid.png"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_shown_is_said(
    capsys: pytest.CaptureFixture[str],
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "augment", photo, "--out", "g.png", *arguments)
    assert code == 2
    assert sentence in err
    assert not list(tmp_path.glob("g*"))


def test_a_picture_that_is_none_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_text("no picture")
    code, _, err = run(capsys, "augment", tmp_path / "words.jpg", "--out", tmp_path / "g.png")
    assert code == 1
    assert "words.jpg is no image that can be read" in err


def test_a_recipe_without_augmentation_is_said(
    capsys: pytest.CaptureFixture[str], photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.toml").write_text("epochs = 3\n")
    code, _, err = run(
        capsys, "augment", photo, "--recipe", tmp_path / "plain.toml", "--out", tmp_path / "g.png"
    )
    assert code == 2
    assert "names no augmentation; show some with --augment crop,flip" in err
