"""What feeds a network: every image once an epoch, in an order that seed and epoch alone decide."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cnnkit import data
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
        feed = batches(some(20), GREY, 6, seed=seed, augmentation=["shift", "flip"])
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


@pytest.mark.parametrize("names", [["crop", "flip"], ["pad_crop", "erasing", "rand_augment"]])
@pytest.mark.parametrize("count", [1, 5, 9])
def test_images_in_memory_are_changed_there_in_batches_of_any_size(count: int, names: list[str]) -> None:
    feed = batches(some(count), GREY, 4, seed=1, augmentation=names)
    assert isinstance(feed, InMemory)
    made = epoch(feed, 0)
    assert sorted(torch.cat([batch["index"] for batch in made]).tolist()) == list(range(count))
    assert all(batch["images"].shape[1:] == (1, 8, 8) for batch in made)
    other = epoch(feed, 1)
    assert not torch.equal(made[0]["images"], other[0]["images"])


def test_what_chooses_a_box_comes_first_wherever_it_stands() -> None:
    made = [
        torch.cat([batch["images"] for batch in batches(some(20), GREY, 6, seed=1, augmentation=names)])
        for names in (["crop", "flip", "erasing"], ["flip", "erasing", "crop"], ["flip", "crop", "erasing"])
    ]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


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
