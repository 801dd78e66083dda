"""What feeds a network: every image once an epoch, in an order that seed and epoch alone decide."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cnnkit import data
from cnnkit.data import augment
from cnnkit.data.batches import Batches, InMemory, Order, batches, derive, fitted, statistics
from cnnkit.data.sets import Part
from cnnkit.weights.preprocessing import Preprocessing

from ..conftest import MakeFolder

GREY = Preprocessing((8, 8), mean=(0.0,), std=(1.0,), channels="L")
PHOTO = Preprocessing((80, 80), mean=(0.0,) * 3, std=(1.0,) * 3)


def some(count: int) -> Part:
    pixels = torch.randint(
        0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Part([str(i) for i in range(count)], [i % 3 for i in range(count)], pixels=pixels)


def epoch(feed: Batches, number: int) -> list[dict[str, Tensor]]:
    feed.batch_sampler.set_epoch(number)  # type: ignore[attr-defined]
    return list(feed)


@given(count=st.integers(1, 60), size=st.integers(1, 20), shuffled=st.booleans(), number=st.integers(0, 3))
def test_an_epoch_has_every_image_once_and_no_lonely_one(
    count: int, size: int, shuffled: bool, number: int
) -> None:
    order = Order(count, size, 5 if shuffled else None)
    order.set_epoch(number)
    made = order.indices()
    assert sorted(torch.cat(made).tolist()) == list(range(count))
    assert len(made) == len(order)
    assert all(len(batch) > 1 for batch in made) or count == 1 or size == 1
    assert all(len(batch) <= size + 1 for batch in made)


def test_order_and_augmentation_depend_on_seed_and_epoch_alone() -> None:
    def run(seed: int, number: int) -> Tensor:
        torch.rand(3)  # what the global random state is must not matter
        feed = InMemory(some(20).pixels, some(20).labels, Order(20, 6, seed), ["shift", "flip"])  # type: ignore[arg-type]
        return torch.cat([batch["images"] for batch in epoch(feed, number)])

    assert torch.equal(run(1, 4), run(1, 4))
    assert not torch.equal(run(1, 4), run(1, 5))
    assert not torch.equal(run(1, 4), run(2, 4))


def test_photos_do_not_depend_on_the_number_of_workers(make_folder: MakeFolder) -> None:
    part = data.open(make_folder({"a": 4, "b": 4}, size=96)).parts["all"]

    def run(workers: int, number: int) -> Tensor:
        feed = batches(part, PHOTO, 3, seed=7, augmentation=["crop", "flip"], workers=workers)
        return torch.cat([batch["images"] for batch in epoch(feed, number)])

    assert torch.equal(run(0, 2), run(2, 2))
    assert not torch.equal(run(0, 2), run(0, 3))


def test_photos_leave_the_global_random_state_alone(make_folder: MakeFolder) -> None:
    part = data.open(make_folder({"a": 2, "b": 2}, size=96)).parts["all"]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(batches(part, PHOTO, 2, seed=7, augmentation=["crop"]))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_and_labels_stay_together() -> None:
    part = some(30)
    for batch in batches(part, GREY, 7, seed=1):
        for image, label, index in zip(batch["images"], batch["labels"], batch["index"], strict=True):
            assert label == part.labels[index]
            assert part.pixels is not None
            assert torch.equal(image, part.pixels[index])


def test_shift_moves_whole_images_by_at_most_its_share() -> None:
    images = torch.zeros(200, 1, 20, 20, dtype=torch.uint8)
    images[:, :, 10, 10] = 255
    moved = augment.shift(images, torch.Generator().manual_seed(0))
    places = (moved == 255).nonzero()
    assert len(places) == 200
    offsets = places[:, 2:] - 10
    assert offsets.abs().max() == 1
    assert {tuple(o) for o in offsets.tolist()} == {(y, x) for y in range(-1, 2) for x in range(-1, 2)}


def test_shift_repeats_the_border() -> None:
    images = torch.full((50, 3, 20, 20), 77, dtype=torch.uint8)
    assert torch.equal(augment.shift(images, torch.Generator().manual_seed(0)), images)


def test_flip_mirrors_about_half() -> None:
    images = torch.arange(8, dtype=torch.uint8).expand(400, 1, 8, 8)
    flipped = augment.flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped[:, 0, 0, 0] == 7).sum()
    assert ((flipped[:, 0, 0, 0] == 7) | (flipped[:, 0, 0, 0] == 0)).all()
    assert 150 < mirrored < 250


def test_crop_is_refused_for_images_in_memory() -> None:
    with pytest.raises(ValueError, match="crop works on single photos"):
        augment.on_batches(["crop"])


def test_statistics_equal_those_of_the_whole_tensor() -> None:
    part = some(2500)
    mean, std = statistics(part, GREY)
    assert part.pixels is not None
    values = part.pixels.double() / 255
    assert mean[0] == pytest.approx(values.mean().item(), abs=1e-6)
    assert std[0] == pytest.approx(values.std(correction=0).item(), abs=1e-6)


def test_fitted_scales_small_images(make_folder: MakeFolder) -> None:
    part = data.open("digits").parts["all"]
    made = fitted(part, Preprocessing((28, 28), keep=1.0, mean=(0.0,), std=(1.0,), channels="L"), [0, 5])
    assert made.shape == (2, 1, 28, 28)


def test_derived_seeds_differ() -> None:
    seeds = {
        derive(seed, number, purpose) for seed in range(10) for number in range(10) for purpose in range(3)
    }
    assert len(seeds) == 300
    assert derive(1, 2, 3) == derive(1, 2, 3)
