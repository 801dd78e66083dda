"""Augmentations by name: what a recipe may say, what is refused, what comes from the data."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnkit import parts
from cnnkit.data import augment
from cnnkit.data.augment import AUGMENTATIONS, check, parse, resolve
from cnnkit.data.augment.colour import PcaColour
from cnnkit.data.augment.crop import Crop
from cnnkit.data.augment.erase import Cutout
from cnnkit.data.augment.move import Flip, PadCrop, Shift
from cnnkit.data.sets import Part
from cnnkit.errors import Misuse
from cnnkit.weights.preprocessing import Preprocessing

COLOUR = Preprocessing((12, 12), mean=(0.1, 0.2, 0.3), std=(1.0,) * 3)
GREY = Preprocessing((12, 12), mean=(0.4,), std=(1.0,), channels="L")


def some(count: int = 40, channels: int = 3) -> Part:
    pixels = torch.randint(
        0, 256, (count, channels, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Part([str(i) for i in range(count)], [0] * count, pixels=pixels)


def test_names_and_tables_become_parts() -> None:
    assert parse(["flip", {"name": "pad_crop", "padding": 2}]) == (Flip(), PadCrop(padding=2))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_is_stored_comes_back(name: str) -> None:
    (change,) = parse([name])
    (resolved,) = resolve([change], some(), COLOUR)
    assert parse([resolved.plain()]) == (resolved,)


@pytest.mark.parametrize("kind", AUGMENTATIONS.values(), ids=list(AUGMENTATIONS))
def test_every_change_says_in_its_first_sentence_what_it_does(kind: type[augment.Augmentation]) -> None:
    assert kind.meaning().endswith((".", ":")) or "." in kind.meaning()
    assert len(kind.meaning()) < 330


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("flop", "no augment 'flop'; did you mean flip"),
        ({"name": "pad_crop", "pading": 4}, "augment pad_crop: no setting 'pading'; did you mean padding?"),
        ({"name": "pad_crop", "padding": 0}, "padding must be at least 1, got 0"),
        ({"name": "pad_crop", "padding": 2.5}, "padding = 2.5"),
        ({"name": "pad_crop", "border": "white"}, "border = 'white'"),
        ({"name": "crop", "area": [0.5, 1.5]}, "area must be at most 1, got 1.5"),
        ({"name": "crop", "area": [0.5]}, "augment crop: area"),
        ({"name": "trivial_augment", "strength": 3}, "trivial_augment has no settings"),
        ({"padding": 4}, "augment needs a name"),
    ],
)
def test_what_is_wrong_is_named(item: Any, sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence.replace("[", r"\[")):
        parse([item])


@pytest.mark.parametrize("name", ["grey", "pca_colour"])
def test_colours_of_grey_images_cannot_be_changed(name: str) -> None:
    with pytest.raises(Misuse, match=f"{name} changes colours and grey images have none"):
        check(parse(["flip", name]), 1)
    check(parse(["flip", name]), 3)


def test_colour_jitter_changes_the_light_of_grey_images() -> None:
    """Brightness 1.5 or contrast would; saturation and hue leave a grey image as it is."""
    images = some(30, 1).pixels
    assert images is not None

    def made(**settings: float) -> Tensor:
        given = dict(brightness=0, contrast=0, saturation=0, hue=0) | settings
        (change,) = parse([{"name": "colour_jitter", **given}])
        return change(images, torch.Generator().manual_seed(0))

    assert torch.equal(made(saturation=0.9, hue=0.5), images)
    assert not torch.equal(made(brightness=0.5), images)
    assert not torch.equal(made(contrast=0.5), images)


def test_two_boxes_contradict_each_other() -> None:
    with pytest.raises(Misuse, match="crop and scale_jitter both choose the part of the image"):
        check(parse(["crop", "flip", "scale_jitter"]), 3)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(Misuse, match=r"crop: area = \[0.9, 0.1\] ends before it begins"):
        check((Crop(area=(0.9, 0.1)),), 3)


def test_principal_components_are_those_of_the_datas_colours() -> None:
    """Colours drawn around one direction: numpy's covariance, through another routine, has the same."""
    random = np.random.default_rng(0)
    along = np.array([0.8, 0.6, 0.0])
    colours = 128 + 40 * random.normal(size=(40, 144, 1)) * along + 3 * random.normal(size=(40, 144, 3))
    pixels = torch.from_numpy(colours.clip(0, 255).round().astype(np.uint8)).permute(0, 2, 1)
    part = Part([str(i) for i in range(40)], [0] * 40, pixels=pixels.reshape(40, 3, 12, 12))
    (found,) = resolve([PcaColour()], part, COLOUR)
    assert isinstance(found, PcaColour)
    assert found.values is not None
    assert found.vectors is not None
    covariance = np.cov(pixels.permute(1, 0, 2).reshape(3, -1).double().numpy() / 255, bias=True)
    left, values, _ = np.linalg.svd(covariance)
    np.testing.assert_allclose(found.values, values, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.array(found.vectors)), np.abs(left.T), atol=1e-5)
    np.testing.assert_allclose(found.vectors[0], along, atol=0.01)  # and its sign is the positive one
    assert found.values[0] == pytest.approx((40 / 255) ** 2, rel=0.1)


def test_imagenets_components_are_orthonormal_and_need_no_data() -> None:
    (found,) = resolve([PcaColour(source="imagenet")], some(0), COLOUR)
    assert found == PcaColour(source="imagenet")
    vectors = np.array(augment.colour.IMAGENET_VECTORS)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=2e-4)


def test_cutout_becomes_the_mean_that_is_subtracted() -> None:
    (found,) = resolve([Cutout()], some(), COLOUR)
    assert isinstance(found, Cutout)
    assert found.colour == pytest.approx((25.5, 51.0, 76.5))
    (backwards,) = resolve([Cutout()], some(), Preprocessing((12, 12), mean=(0.3, 0.2, 0.1), channels="BGR"))
    assert backwards == found


@pytest.mark.parametrize("name", ["pca_colour", "cutout"])
def test_numbers_of_the_data_must_be_found_before_use(name: str) -> None:
    images = some().pixels
    assert images is not None
    with pytest.raises(ValueError, match=f"{name} has no .* yet: resolve finds"):
        parse([name])[0](images, torch.Generator())


def test_what_exists_already_is_not_looked_for_again() -> None:
    found = resolve(parse(["pca_colour", "cutout"]), some(), COLOUR)
    assert resolve(found, some(3), COLOUR) == found


def test_a_reflection_wider_than_the_image_is_refused() -> None:
    images = some().pixels
    assert images is not None
    with pytest.raises(ValueError, match="cannot reflect 12 pixels of an image of 12 x 12"):
        PadCrop(padding=12, border="reflect")(images, torch.Generator())


def test_shift_moves_whole_images_by_at_most_its_share() -> None:
    images = torch.zeros(200, 1, 20, 20, dtype=torch.uint8)
    images[:, :, 10, 10] = 255
    moved = Shift()(images, torch.Generator().manual_seed(0))
    places = (moved == 255).nonzero()
    assert len(places) == 200
    offsets = places[:, 2:] - 10
    assert offsets.abs().max() == 1
    assert {tuple(o) for o in offsets.tolist()} == {(y, x) for y in range(-1, 2) for x in range(-1, 2)}


def test_shift_repeats_the_border() -> None:
    images = torch.full((50, 3, 20, 20), 77, dtype=torch.uint8)
    assert torch.equal(Shift()(images, torch.Generator().manual_seed(0)), images)


def test_all_are_described_in_words() -> None:
    given = parse(["flip", {"name": "crop", "area": [0.25, 1]}, "trivial_augment"])
    assert [str(change) for change in given] == [
        "flip (probability 0.5)",
        "crop (area 0.25 to 1, aspect 0.75 to 1.33)",
        "trivial_augment",
    ]


def test_a_list_is_read_without_torch() -> None:
    program = "import sys; from cnnkit.data.augment import parse; parse(['crop', 'pca_colour']); "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_setting_of_every_change_is_explained() -> None:
    import dataclasses

    for kind in AUGMENTATIONS.values():
        assert issubclass(kind, parts.Part)
        assert all(f.metadata["help"].endswith(".") for f in dataclasses.fields(kind))
