"""What a mask's file holds, whatever kind of picture it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnkit.data.masks import IGNORED, NONE, Coding, Masks, tally
from cnnkit.data.sets import Part
from cnnkit.errors import Failure

VALUES = np.array([[0, 1, 2, 0], [2, 2, 1, 7]], dtype=np.uint8)
NUMBERED = Coding(("a", "b", "c"), {0: 0, 1: 1, 2: 2, 7: IGNORED})
EXPECTED = torch.tensor([[0, 1, 2, 0], [2, 2, 1, IGNORED]], dtype=torch.uint8)
COLOURS = np.array([[128, 64, 128], [0, 0, 192], [255, 255, 255]] + [[9, 9, 9]] * 5, dtype=np.uint8)
COLOURED = Coding(("a", "b", "c"), {0x804080: 0, 0x0000C0: 1, 0xFFFFFF: 2, 0x090909: IGNORED}, colours=True)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def of_mode(mode: str) -> Image.Image:
    """The values in each kind of picture that can hold them."""
    if mode == "P":
        image = Image.fromarray(VALUES).convert("P")
        image.putdata(VALUES.ravel().tolist())
        image.putpalette([v for i in range(256) for v in (255 - i, i // 2, 7)])
        return image
    if mode == "I;16":
        return Image.fromarray(VALUES.astype(np.uint16))
    if mode == "I":
        return Image.fromarray(VALUES.astype(np.int32))
    return Image.fromarray(VALUES).convert(mode)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I", "RGB", "RGBA", "LA"])
def test_numbers_are_read_from_every_kind_of_picture(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / ("m.tif" if mode == "I" else "m.png"), of_mode(mode))
    with Image.open(path) as image:
        assert image.mode == mode
    made = NUMBERED.decode(path)
    assert made.dtype == torch.uint8
    assert torch.equal(made, EXPECTED)


def test_black_and_white_is_nought_and_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Image.fromarray(np.array([[True, False]])))
    assert Coding(("a", "b"), {0: 0, 1: 1}).decode(path).tolist() == [[1, 0]]
    assert Coding(("a", "b"), {0: 0, 0xFFFFFF: 1}, colours=True).decode(path).tolist() == [[1, 0]]
    assert tally(path).values == ((0, 0, 1), (1, 0xFFFFFF, 1))


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colours_are_read_through_palettes_too(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(COLOURS[VALUES])
    if mode == "P":
        picture = picture.quantize(8, dither=Image.Dither.NONE)
    path = saved(tmp_path / "m.png", picture.convert(mode))
    assert torch.equal(COLOURED.decode(path), EXPECTED)


@pytest.mark.parametrize(
    ("coding", "pixels", "sentence"),
    [
        (NUMBERED, np.array([[0, 5]], np.uint8), "holds 5, which is no class; name it in the class map"),
        (NUMBERED, np.array([[0, 300]], np.uint16), "holds 300, which is no class"),
        (NUMBERED, COLOURS[:2][None], "holds colours and the classes are numbers"),
        (COLOURED, COLOURS[:2][None] + 1, "holds #814181, which is no class"),
        (COLOURED, np.array([[0, 300]], np.uint16), "its pixels are of the kind 'I;16' and must be bytes"),
    ],
)
def test_a_value_without_a_class_is_named_with_its_file(
    tmp_path: Path, coding: Coding, pixels: NDArray[np.uint8], sentence: str
) -> None:
    path = saved(tmp_path / "odd.png", Image.fromarray(pixels))
    with pytest.raises(Failure, match=r"odd\.png .*" + sentence):
        coding.decode(path)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_a_look_counts_what_decoding_gives(tmp_path: Path, mode: str) -> None:
    """The check and the balance of classes never decode: they count values, and this must be the same."""
    path = saved(tmp_path / "m.png", of_mode(mode))
    seen = tally(path)
    pixels, unknown = NUMBERED.counts(seen)
    assert (seen.width, seen.height, seen.problem) == (4, 2, "")
    assert pixels == [int((label == EXPECTED).sum()) for label in range(3)]
    assert unknown == []
    assert Coding(("a",), {0: 0, 1: 0}).counts(seen) == ([4], [2, 7])


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_look_counts_colours(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(COLOURS[VALUES])
    picture = picture.quantize(8, dither=Image.Dither.NONE) if mode == "P" else picture
    seen = tally(saved(tmp_path / "m.png", picture))
    assert COLOURED.counts(seen) == ([2, 2, 3], [])
    pixels, unknown = Coding(("a",), {0x804080: 0}, colours=True).counts(seen)
    assert (pixels, sorted(unknown)) == ([2], [0xC0, 0x90909, 0xFFFFFF])


def test_colours_that_are_no_grey_have_no_number(tmp_path: Path) -> None:
    seen = tally(saved(tmp_path / "m.png", Image.fromarray(COLOURS[VALUES])))
    assert {number for number, colour, _ in seen.values if colour == 0x804080} == {NONE}
    assert {number for number, colour, _ in seen.values if colour == 0x090909} == {9}


def test_negative_numbers_are_no_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.tif", Image.fromarray(np.array([[-1, 0]], np.int32)))
    assert "it holds -1, and numbers of classes are 0 or more" in tally(path).problem


def test_a_mask_that_lost_detail_is_no_mask(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    seen = tally(saved(tmp_path / "m.png", Image.fromarray(noise)))
    assert "different values, which are no classes; save masks without loss, as PNG" in seen.problem
    seen = tally(saved(tmp_path / "m.jpg", Image.new("L", (8, 8), 1)))
    assert "m.jpg is a JPEG, which blurs the numbers of classes" in seen.problem
    (tmp_path / "half.png").write_bytes(b"no picture")
    assert "half.png is no image that can be read" in tally(tmp_path / "half.png").problem


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    Image.new("L", (5, 5)).save(tmp_path / "m.png")
    part = Part(["a.png"], [0], tmp_path, masks=Masks(["m.png"], tmp_path, NUMBERED))
    with pytest.raises(
        Failure, match=r"m\.png has 5 x 5 pixels and its picture 6 x 5 when it is upright; make them alike"
    ):
        part.mask(0)


def test_images_without_masks_have_none() -> None:
    with pytest.raises(ValueError, match="these images have no masks"):
        Part(["0"], [0], pixels=torch.zeros(1, 1, 2, 2, dtype=torch.uint8)).mask(0)
