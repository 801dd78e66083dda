"""Masks follow their images: the same draws, and every pixel keeps its class."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cnnkit.data.augment import AUGMENTATIONS, apply_pair, check, parse
from cnnkit.data.augment.crop import Window
from cnnkit.data.masks import IGNORED
from cnnkit.errors import Misuse

from .masked import STEP, blocks

COUNT, HEIGHT, WIDTH = 12, 72, 60
MOVING = ["crop", "scale_jitter", "window", "pad_crop", "shift", "flip", "vertical_flip", "quarter_turns"]
MOVING += ["rotation", "affine", "perspective", "elastic", "grid_elastic"]
STAYING = ["pca_colour", "colour_jitter", "grey", "blur", "erasing", "cutout"]
REFUSED = ["rand_augment", "trivial_augment", "augmix"]
BORDERED = ["pad_crop", "rotation", "affine", "perspective", "elastic", "grid_elastic"]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def masks() -> Tensor:
    """Blocks of four classes. Shape: (N, H, W)"""
    return torch.stack([torch.from_numpy(blocks((HEIGHT, WIDTH), 4, seed)) for seed in range(COUNT)])


@pytest.fixture(scope="module")
def images(masks: Tensor) -> Tensor:
    """Pictures whose grey tells the class. Shape: (N, 3, H, W)"""
    return (STEP * (masks[:, None] + 1)).expand(-1, 3, -1, -1).contiguous()


def change(name: str, **settings: Any) -> Any:
    (made,) = parse([{"name": name, **settings}])
    return made.resolved(lambda: torch.zeros(1, 3, 4, 4, dtype=torch.uint8), (0.5,) * 3)


def inner(masks: Tensor) -> Tensor:
    """Pixels whose 24 neighbours all have their class. Shape: (N, H, W) bool"""
    values = masks.float()[:, None]
    highest = functional.max_pool2d(values, 5, 1, 2)
    return (highest == -functional.max_pool2d(-values, 5, 1, 2))[:, 0]


def test_every_change_is_looked_at_here() -> None:
    assert sorted([*MOVING, *STAYING, *REFUSED]) == sorted(AUGMENTATIONS)


def agreeing(images: Tensor, masks: Tensor, most: float = 0.005) -> None:
    """Grey tells the class of all pixels away from borders of classes, and black is what came from outside.

    A few on the image's own border are half black and have a class. Masks that stay behind when their images
    are mirrored have a fifth wrong.
    """
    certain = inner(masks)
    assert certain.float().mean() > 0.4
    told = torch.where(masks == IGNORED, 0, STEP * (masks.int() + 1))
    wrong = (images.int() - told[:, None]).abs().amax(1) > 2
    assert (wrong & certain).float().mean() < most


@pytest.mark.parametrize("name", MOVING)
def test_masks_follow(images: Tensor, masks: Tensor, name: str) -> None:
    made, labels = change(name).pair(images, masks, generator())
    assert torch.equal(made, change(name)(images, generator()))  # what masks add draws nothing
    assert (labels.dtype, labels.shape) == (torch.uint8, masks.shape)
    assert (labels != masks).any()
    agreeing(made, labels)


@pytest.mark.parametrize("border", ["zero", "edge", "reflect"])
@pytest.mark.parametrize("name", BORDERED)
def test_what_comes_in_is_ignored_where_it_is_black(
    images: Tensor, masks: Tensor, name: str, border: str
) -> None:
    made, labels = change(name, border=border).pair(images, masks, generator())
    assert (labels == IGNORED).any() == (border == "zero")
    agreeing(made, labels)


@pytest.mark.parametrize("name", STAYING)
def test_colours_and_erasing_leave_masks_alone(images: Tensor, masks: Tensor, name: str) -> None:
    made, labels = change(name).pair(images, masks, generator())
    assert torch.equal(labels, masks)
    assert torch.equal(made, change(name)(images, generator()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_masks_cannot_follow_is_refused(name: str) -> None:
    check(parse(["flip", name]), 3)
    with pytest.raises(Misuse, match=f"{name} moves parts of images and masks cannot follow; leave it out"):
        check(parse(["flip", name]), 3, masks=True)


def test_several_changes_follow_on_each_other(images: Tensor, masks: Tensor) -> None:
    changes = parse(["window", "quarter_turns", "flip", "rotation", "grid_elastic"])
    agreeing(*apply_pair(changes, images, masks, generator()), most=0.02)


def test_ignored_pixels_stay_ignored(images: Tensor, masks: Tensor) -> None:
    """Nearest neighbours make no new classes, whatever the labels are."""
    strange = torch.where(masks == 2, IGNORED, 200 + masks)
    for name in MOVING:
        _, labels = change(name).pair(images, strange, generator())
        assert set(labels.unique().tolist()) <= {200, 201, 203, IGNORED}


@pytest.mark.parametrize("size", [(9, 9), (9, 7)])
def test_quarter_turns_are_right_angles_each_as_often(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=generator())
    made = change("quarter_turns")(images.expand(800, -1, -1, -1), generator())
    turns = [images[0].rot90(number, (1, 2)) for number in range(4)]
    found = [sum(torch.equal(one, turn) for one in made) for turn in turns]
    expected = [200] * 4 if size == (9, 9) else [400, 0, 400, 0]
    assert sum(found) == 800
    assert all(abs(count - wanted) < 60 for count, wanted in zip(found, expected, strict=True))


def test_a_coarse_grid_moves_its_points_by_its_vectors() -> None:
    """In pictures whose greys are their columns, or their rows, grey after less grey before is how far away a
    pixel was read. The grid's nine points lie in the corners, in the middles of the edges and in the centre.
    """
    side = 81
    ramp = (2 * torch.arange(side) + 40).byte().expand(1, 1, side, side)
    vectors = 4 * torch.randn(1, 2, 3, 3, generator=generator())
    for axis, image in ((0, ramp), (1, ramp.mT)):
        made = change("grid_elastic", deviation=4, border="reflect")(image.contiguous(), generator())
        moved = (made.float() - image.float())[0, 0] / 2
        centre = vectors[0, axis, 1, 1].item()
        assert moved[side // 2, side // 2].item() == pytest.approx(centre, abs=0.3)
        # on an edge only the part along it shows: what lies beyond is mirrored
        row, column = (0, side // 2) if axis == 0 else (side // 2, 0)
        point = (0, 1) if axis == 0 else (1, 0)
        assert moved[row, column].item() == pytest.approx(vectors[0, axis][point].item(), abs=0.3)


def test_a_coarse_grid_is_smooth_and_as_strong_as_it_says() -> None:
    """10 pixels of deviation at its points; far less between neighbours."""
    images = torch.zeros(400, 1, 65, 33, dtype=torch.uint8)
    grid = change("grid_elastic").grid(images, generator())
    still = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 65, 33], align_corners=False)
    pixels = (grid - still) * torch.tensor([33 / 2, 65 / 2])
    assert pixels[:, 32, 16].std().item() == pytest.approx(10, rel=0.1)
    assert pixels[:, 0, 0].std().item() == pytest.approx(10, rel=0.1)
    assert (pixels[:, 1:] - pixels[:, :-1]).abs().mean() < 0.6


def test_windows_are_scaled_evenly_in_the_logarithm_and_keep_their_shape() -> None:
    count, target = 4000, (60, 90)
    sizes = torch.tensor([[500, 700]]).expand(count, 2)
    boxes = Window().boxes(sizes, target, generator())
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    scale = target[0] / boxes[:, 2].double()
    assert scale.log2().mean().item() == pytest.approx(0, abs=0.05)
    assert scale.log2().std().item() == pytest.approx(2 / math.sqrt(12), rel=0.05)
    assert (boxes[:, 3] / boxes[:, 2] - 1.5).abs().max() < 0.05
    where = boxes[:, :2] / (sizes - boxes[:, 2:])
    assert torch.allclose(where.mean(0), torch.tensor(0.5), atol=0.03)


def test_a_window_larger_than_the_image_is_the_largest_that_fits() -> None:
    boxes = Window(scale=(0.1, 0.1)).boxes(torch.tensor([[50, 80], [30, 90]]), (60, 60), generator())
    assert boxes[:, 2:].tolist() == [[50, 50], [30, 30]]
    same = Window(scale=(1.0, 1.0)).boxes(torch.tensor([[60, 60], [61, 60]]), (60, 60), generator())
    assert same[:, 2:].tolist() == [[60, 60], [60, 60]]
