"""Whole-batch changes against torchvision's, image by image with the same draws.

Each test draws again what the augmentation draws, in the same order, and hands it to torchvision.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as theirs

from cnnkit.data.augment import AUGMENTATIONS, Augmentation, parse
from cnnkit.data.augment.colour import IMAGENET_VALUES, IMAGENET_VECTORS

COUNT, HEIGHT, WIDTH = 24, 40, 31
BILINEAR = InterpolationMode.BILINEAR


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth pictures that are not square, with all three colours."""
    coarse = torch.rand(COUNT, 3, 9, 7, generator=generator())
    return (255 * functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")).round().byte()


def made(images: Tensor, name: str, **settings: object) -> Tensor:
    (change,) = parse([{"name": name, **settings}])
    return change(images, generator())


def uniform(count: int, random: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, generator=random) - 1


def close(ours: Tensor, reference: list[Tensor]) -> None:
    """Equal but for rounding."""
    assert (ours.int() - torch.stack(reference).int()).abs().max() <= 1


@pytest.mark.parametrize("border", ["zero", "edge", "reflect"])
def test_pad_crop_is_a_pad_and_a_crop(images: Tensor, border: str) -> None:
    random = generator()
    down, right = (torch.randint(9, (COUNT,), generator=random).tolist() for _ in range(2))
    mode = {"zero": "constant", "edge": "edge", "reflect": "reflect"}[border]
    padded = theirs.pad(images, [4, 4, 4, 4], padding_mode=mode)
    reference = [theirs.crop(one, y, x, HEIGHT, WIDTH) for one, y, x in zip(padded, down, right, strict=True)]
    assert torch.equal(made(images, "pad_crop", padding=4, border=border), torch.stack(reference))


@pytest.mark.parametrize(("name", "flip"), [("flip", theirs.hflip), ("vertical_flip", theirs.vflip)])
def test_flips_are_flips(images: Tensor, name: str, flip: object) -> None:
    chosen = torch.rand(COUNT, generator=generator()) < 0.3
    assert 0 < chosen.sum() < COUNT
    reference = [
        flip(one) if yes else one  # type: ignore[operator]
        for one, yes in zip(images, chosen, strict=True)
    ]
    assert torch.equal(made(images, name, probability=0.3), torch.stack(reference))


def test_rotation(images: Tensor) -> None:
    angles = 40 * uniform(COUNT, generator())
    reference = [theirs.rotate(one, a, BILINEAR) for one, a in zip(images, angles.tolist(), strict=True)]
    close(made(images, "rotation", degrees=40), reference)


def test_affine(images: Tensor) -> None:
    random = generator()
    angle, down, right = (uniform(COUNT, random) for _ in range(3))
    scale = 0.8 + 0.5 * torch.rand(COUNT, generator=random)
    shear = uniform(COUNT, random)
    rows = torch.stack([-30 * angle, 0.2 * WIDTH * right, 0.2 * HEIGHT * down, scale, 20 * shear], 1)
    reference = [
        theirs.affine(one, a, [x, y], s, [k, 0.0], BILINEAR)
        for one, (a, x, y, s, k) in zip(images, rows.tolist(), strict=True)
    ]
    settings = dict(degrees=30, translate=0.2, scale=[0.8, 1.3], shear=20)
    close(made(images, "affine", **settings), reference)


def test_perspective(images: Tensor) -> None:
    random = generator()
    inward = 0.5 * torch.rand(COUNT, 4, 2, generator=random)
    changed = (torch.rand(COUNT, generator=random) < 0.7).tolist()
    assert 0 < sum(changed) < COUNT
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    half = torch.tensor([WIDTH / 2, HEIGHT / 2])
    start = ((corners + 1) * half).tolist()
    ends = ((corners * (1 - inward) + 1) * half).tolist()
    reference = [
        theirs.perspective(one, start, end, BILINEAR) if yes else one
        for one, end, yes in zip(images, ends, changed, strict=True)
    ]
    close(made(images, "perspective", distortion=0.5, probability=0.7), reference)


def test_elastic_displaces_by_a_blurred_field(images: Tensor) -> None:
    """torchvision blurs uniform noise and adds alpha / side of it to a grid from -1 to 1, that is alpha / 2
    pixels: on a square image of 29 pixels twice our alpha is the same field. Only the noise's rim differs,
    which we draw and torchvision reflects, so it is handed over whole and cut.
    """
    square = theirs.resize(images, [29, 29])
    reach = 12
    noise = 2 * torch.rand(2 * COUNT, 1, 29 + 2 * reach, 29 + 2 * reach, generator=generator()) - 1
    field = theirs.gaussian_blur(noise, [2 * reach + 1] * 2, [4.0, 4.0])[..., reach:-reach, reach:-reach]
    moves = (2 * 34 / 29 * field).view(COUNT, 2, 29, 29).permute(0, 2, 3, 1)
    assert 1 < 29 / 2 * moves.abs().max() < 12  # pixels
    reference = [theirs.elastic(one, move[None]) for one, move in zip(square, moves, strict=True)]
    close(made(square, "elastic"), reference)


@pytest.mark.parametrize("name", ["crop", "scale_jitter"])
def test_a_box_is_cut_and_enlarged(images: Tensor, name: str) -> None:
    square = theirs.resize(images, [36, 36])
    (change,) = parse([name])
    sizes = torch.tensor([[36, 36]]).expand(COUNT, 2)
    boxes = change.boxes(sizes, (36, 36), generator()).tolist()  # type: ignore[attr-defined]
    reference = [theirs.resized_crop(one, *box, [36, 36]) for one, box in zip(square, boxes, strict=True)]
    close(change(square, generator()), reference)


def test_boxes_of_a_crop_follow_torchvisions_law() -> None:
    """The mean and the spread of area and shape of 4,000 boxes, in pictures where some tries fail."""
    count, height, width = 4000, 200, 90
    (crop,) = parse(["crop"])
    ours = crop.boxes(torch.tensor([[height, width]]).expand(count, 2), (64, 64), generator())  # type: ignore[attr-defined]
    reference = v2.RandomResizedCrop(64)
    blank = torch.zeros(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [reference.make_params([blank]) for _ in range(count)]
    other = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])
    for boxes in (ours, other):
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([height, width])).all()
    for measure in (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: (b[:, 3] / b[:, 2]).log(),
        lambda b: b[:, 0] / height,
        lambda b: b[:, 1] / width,
    ):
        mine, their = measure(ours.double()), measure(other.double())
        error = math.sqrt((mine.var() + their.var()) / count)
        assert abs(mine.mean() - their.mean()) < 4 * error
        assert abs(mine.std() / their.std() - 1) < 0.06


def test_scale_jitter_draws_the_scale_of_the_short_side() -> None:
    """VGG: S from 256 to 512 in a 224 crop; in a picture of short side 600 a box of 224 * 600 / S pixels."""
    (change,) = parse(["scale_jitter"])
    boxes = change.boxes(torch.tensor([[600, 800]]).expand(5000, 2), (224, 224), generator())  # type: ignore[attr-defined]
    assert torch.equal(boxes[:, 2], boxes[:, 3])
    side = 224 * 600 / boxes[:, 2].double()
    assert side.min() == pytest.approx(256, abs=1)
    assert side.max() == pytest.approx(512, abs=2)
    assert side.mean() == pytest.approx(384, abs=4)


@pytest.mark.parametrize("hue", [0.0, 0.3])
def test_colour_jitter(images: Tensor, hue: float) -> None:
    random = generator()
    order = torch.rand(COUNT, 4, generator=random).argsort(1).tolist()
    drawn = (2 * torch.rand(4, COUNT, generator=random) - 1).T.tolist()
    changes = (theirs.adjust_brightness, theirs.adjust_contrast, theirs.adjust_saturation, theirs.adjust_hue)
    reference = []
    for image, steps, (b, c, s, h) in zip(images, order, drawn, strict=True):
        factors = (1 + 0.4 * b, 1 + 0.5 * c, 1 + 0.6 * s, hue * h)
        image = image / 255
        for step in steps:
            image = changes[step](image, factors[step])
        reference.append((255 * image).round().byte())
    settings = dict(brightness=0.4, contrast=0.5, saturation=0.6, hue=hue)
    close(made(images, "colour_jitter", **settings), reference)


def test_grey(images: Tensor) -> None:
    chosen = torch.rand(COUNT, generator=generator()) < 0.5
    reference = [
        theirs.rgb_to_grayscale(one, num_output_channels=3) if yes else one
        for one, yes in zip(images, chosen, strict=True)
    ]
    close(made(images, "grey", probability=0.5), reference)


def test_pca_colour_adds_one_colour_to_each_image() -> None:
    """The sum over the components is written out: 255 * sum_i a_i l_i p_i."""
    grey = torch.full((COUNT, 3, 4, 5), 128, dtype=torch.uint8)
    drawn = 0.1 * torch.randn(COUNT, 3, generator=generator())
    found = made(grey, "pca_colour", source="imagenet")
    for image, a in zip(found, drawn.tolist(), strict=True):
        for channel in range(3):
            added = sum(a[i] * IMAGENET_VALUES[i] * IMAGENET_VECTORS[i][channel] for i in range(3))
            assert (image[channel] == round(128 + 255 * added)).all()


def test_erasing_wipes_out_boxes_of_torchvisions_law(images: Tensor) -> None:
    white = torch.full((4000, 3, 50, 50), 255, dtype=torch.uint8)
    erased = made(white, "erasing", fill="zero", probability=1.0)[:, 0] == 0
    rows, columns = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(rows * columns, erased.sum((1, 2)))  # full boxes
    reference = v2.RandomErasing(p=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [reference.make_params([white[0]]) for _ in range(4000)]
    for ours, key in ((rows, "h"), (columns, "w")):
        other = torch.tensor([d[key] for d in drawn]).double()
        error = math.sqrt((ours.double().var() + other.var()) / 4000)
        assert abs(ours.double().mean() - other.mean()) < 4 * error


def test_erasing_leaves_the_rest(images: Tensor) -> None:
    found = made(images, "erasing", probability=0.5)
    changed = (found != images).any(1)
    touched = changed.flatten(1).any(1)
    assert 0 < touched.sum() < COUNT
    for mask in changed[touched]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) < 0.5 * HEIGHT * WIDTH


def test_cutout_is_a_square_about_any_place() -> None:
    white = torch.full((3000, 1, 32, 32), 255, dtype=torch.uint8)
    hidden = made(white, "cutout", size=16, colour=[7.0])[:, 0] == 7
    rows = hidden.any(2).sum(1)
    assert rows.max() == 16
    assert rows.min() == 8  # half of it over the border
    assert hidden[:, 0, 0].float().mean() == pytest.approx((8.5 / 32) ** 2, abs=0.03)


@pytest.mark.parametrize("name", ["blur", "rand_augment", "trivial_augment", "augmix"])
def test_per_image_changes_are_torchvisions_with_a_seed_each(images: Tensor, name: str) -> None:
    (change,) = parse([name])
    seeds = torch.randint(2**62, (COUNT,), generator=generator()).tolist()
    reference = {
        "blur": v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], 0.5),
        "rand_augment": v2.RandAugment(),
        "trivial_augment": v2.TrivialAugmentWide(),
        "augmix": v2.AugMix(),
    }[name]
    found = change(images, generator())
    with torch.random.fork_rng():
        for one, image, seed in zip(found, images, seeds, strict=True):
            torch.manual_seed(seed)
            assert torch.equal(one, reference(image))


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(
    ("kind", "channels"), [(kind, channels) for kind in AUGMENTATIONS.values() for channels in kind.channels]
)
def test_every_change_keeps_the_shape_depends_on_its_generator_alone_and_leaves_its_input(
    kind: type[Augmentation], count: int, channels: int
) -> None:
    images = torch.randint(0, 256, (count, channels, 20, 33), dtype=torch.uint8, generator=generator())
    before = images.clone()
    (change,) = parse([kind()])
    change = change.resolved(lambda: images, (0.5,) * channels)
    state = torch.get_rng_state()
    found = change(images, generator())
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert torch.equal(found, change(images, generator()))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    laid = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, change(laid, generator()))
