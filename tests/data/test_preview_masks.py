"""`cnnkit augment --mask`: the mask is laid over every version, as training would be taught it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnkit.cli import main
from cnnkit.data.augment import parse
from cnnkit.data.batches import batches
from cnnkit.data.class_map import found
from cnnkit.data.masks import Masks, tally
from cnnkit.data.pictures import to_picture
from cnnkit.data.preview import CELL, GAP, LABEL, MARGIN, TITLE, preview
from cnnkit.data.sets import Part
from cnnkit.draw.masks import colours, overlay
from cnnkit.errors import Failure
from cnnkit.weights.preprocessing import Preprocessing

from .masked import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "images", tmp_path / "masks", [(200, 240)])
    return tmp_path


def test_what_is_shown_is_what_training_is_taught(root: Path) -> None:
    """The second version of the second row, cut out of the sheet."""
    image, mask = root / "images" / "0.png", root / "masks" / "0.png"
    to = Preprocessing((CELL, CELL), fit="squash", mean=(0.5,) * 3, std=(1.0,) * 3)
    changes = parse(["flip", "rotation"])
    sheet = preview(image, to, changes, mask=mask, versions=3, seed=4)
    coding, _ = found([tally(mask)], (), "")
    part = Part(["0.png"] * 3, [0] * 3, root / "images", masks=Masks(["0.png"] * 3, root / "masks", coding))
    (batch,) = batches(part, to, 3, seed=4, augmentation=changes[1:])
    expected = overlay(to_picture(batch["images"][1]), batch["labels"][1], colours(3))
    top = MARGIN + 2 * (CELL + GAP) + TITLE
    left = MARGIN + LABEL + CELL + GAP
    shown = sheet.crop((left, top, left + CELL, top + CELL))
    assert np.array_equal(np.array(shown), np.array(expected))


def test_the_command_leaves_out_what_masks_cannot_follow(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["augment", str(root / "images" / "0.png"), "--mask", str(root / "masks" / "0.png")]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--versions", "2", "--out", str(root / "grid.png")])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "grid_elastic (" in out
    assert "trivial_augment" not in out
    with Image.open(root / "grid.png") as sheet:
        assert sheet.width == 2 * MARGIN + LABEL + 2 * CELL + GAP
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--augment", "flip,augmix", "--out", str(root / "other.png")])
    assert left.value.code == 2
    assert "augmix moves parts of images and masks cannot follow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "there is no file"),
        (lambda mask: mask.write_bytes(b"no picture"), "is no image that can be read"),
    ],
)
def test_a_mask_that_cannot_be_read_says_why(
    root: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    image, mask = root / "images" / "0.png", root / "masks" / "0.png"
    damage(mask)
    to = Preprocessing((CELL, CELL), fit="squash", mean=(0.5,) * 3, std=(1.0,) * 3)
    with pytest.raises(Failure, match=sentence):
        preview(image, to, parse(["flip"]), mask=mask)
