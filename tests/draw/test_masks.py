"""Pictures of masks: which numbers and colours stand where."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cnnkit.draw.masks import colours, indexed, legend, oklab, overlay

MASK = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [255, 255, 2, 2]], dtype=torch.uint8)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def test_every_class_has_a_colour_of_its_own_however_many_there_are() -> None:
    many = colours(255)
    assert many.shape == (255, 3)
    assert many.dtype == torch.uint8
    assert len(many.unique(dim=0)) == 255
    assert torch.equal(colours(12), many[:12])
    assert colours(0).shape == (0, 3)
    with pytest.raises(ValueError, match="at most 255 classes, got 256"):
        colours(256)


def test_the_first_colours_are_far_apart_and_neither_dark_nor_grey() -> None:
    seen = oklab(colours(21))
    apart = torch.cdist(seen, seen) + 9 * torch.eye(21)
    assert apart.min() > 0.08
    assert seen[:, 0].min() > 0.55
    assert seen[:, 1:].norm(dim=1).min() > 0.1


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (0.6280, 0.2249, 0.1258)),
        ((0, 0, 255), (0.4520, -0.0325, -0.3115)),
    ],
)
def test_oklab_has_the_values_of_its_author(colour: tuple[int, ...], expected: tuple[float, ...]) -> None:
    assert oklab(torch.tensor([colour])).flatten().tolist() == pytest.approx(expected, abs=1e-4)


def test_an_index_file_holds_the_numbers_and_shows_the_colours() -> None:
    buffer = io.BytesIO()
    indexed(MASK, colours(3)).save(buffer, "PNG")
    with Image.open(buffer) as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), MASK.numpy())
        shown = pixels(read)
    for place in ((0, 0), (0, 2), (2, 2)):
        assert shown[place].tolist() == colours(3)[MASK[place].long()].tolist()
    assert shown[2, 0].tolist() == [0, 0, 0]


def test_an_overlay_mixes_parts_by_a_line_and_leaves_what_has_no_class() -> None:
    """Columns 0 and 1 are class 0, 2 and 3 class 1: column 1 is a line, column 0 half of each."""
    palette = torch.tensor([[200, 0, 0], [0, 200, 0], [0, 0, 200]], dtype=torch.uint8)
    shown = pixels(overlay(Image.new("L", (4, 3), 100), MASK, palette))
    assert shown[0, 0].tolist() == [150, 50, 50]
    assert shown[0, 1].tolist() == [200, 0, 0]
    assert shown[0, 3].tolist() == [50, 150, 50]
    assert shown[1, 3].tolist() == [0, 200, 0]
    assert shown[2, 3].tolist() == [50, 50, 150]
    assert (shown[2, :2] == 100).all()
    plain = pixels(overlay(Image.new("L", (4, 3), 100), MASK, palette, alpha=0.0))
    assert plain[0, 0].tolist() == [100, 100, 100]


def test_lines_grow_with_the_picture_and_never_over_what_has_no_class() -> None:
    mask = torch.zeros(1500, 1500, dtype=torch.uint8)
    mask[:, 700:] = 1
    mask[750:] = 255
    palette = torch.tensor([[250, 0, 0], [0, 250, 0]], dtype=torch.uint8)
    shown = pixels(overlay(Image.new("RGB", (1500, 1500)), mask, palette))
    line = (shown[100] == 250).any(axis=1).nonzero()[0]
    assert line.tolist() == [698, 699, 700]
    assert not shown[750:].any()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a mask of 3 x 4 does not lie over a picture of 4 x 3"):
        overlay(Image.new("L", (3, 4)), MASK, colours(3))
    with pytest.raises(ValueError, match=r"alpha must be between 0 and 1, got 1.5"):
        overlay(Image.new("L", (4, 3)), MASK, colours(3), 1.5)
    with pytest.raises(ValueError, match="no class to explain"):
        legend([], colours(0))


def test_a_legend_has_a_line_a_class_with_its_colour() -> None:
    palette = colours(3)
    one, three = legend(["sky"], palette[:1]), legend(["sky", "a very long name of a class", "c"], palette)
    assert three.width > one.width
    assert three.height == one.height + 2 * 26
    for place in range(3):
        assert pixels(three)[8 + 8 + 26 * place, 16].tolist() == palette[place].tolist()
