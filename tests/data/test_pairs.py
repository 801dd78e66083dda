"""What feeds a network with pictures and masks: what belongs together stays together."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cnnkit import data
from cnnkit.data import pairs as pairing
from cnnkit.data.augment import resolve
from cnnkit.data.batches import Batches, Order, batches, fitted, sample, statistics
from cnnkit.data.masks import IGNORED
from cnnkit.data.sets import Part
from cnnkit.errors import Failure, Misuse
from cnnkit.weights.preprocessing import Preprocessing

from ..conftest import MakeFolder
from .masked import STEP, lying, picture, write

SIZES = [(64, 96), (64, 80), (100, 72), (40, 120), (64, 64), (30, 40), (64, 96)]
WINDOW = Preprocessing((64, 64), fit="window", mean=(0.0,) * 3, std=(1.0,) * 3)
SQUASH = replace(WINDOW, fit="squash")


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Seven pictures of six sizes, two of them smaller than the window."""
    write(tmp_path / "images", tmp_path / "masks", SIZES)
    return data.open(tmp_path).parts["all"]


def epoch(feed: Batches, number: int = 0) -> list[dict[str, Tensor]]:
    order = feed.batch_sampler
    assert isinstance(order, Order)
    order.set_epoch(number)
    return list(feed)


def joined(made: Sequence[dict[str, Tensor]], name: str = "images") -> Tensor:
    return torch.cat([batch[name] for batch in made])


def agreeing(images: Tensor, labels: Tensor, tolerance: int = 0) -> None:
    """Every pixel that counts has the grey of its class, all but those on a border where it is scaled."""
    wrong = (images.int() - STEP * (labels.int() + 1)[:, None]).abs().amax(1) > 2
    share = (wrong & (labels != IGNORED)).float().mean().item()
    assert share <= (0.25 if tolerance else 0)


def test_training_windows_keep_their_scale_and_their_masks(part: Part) -> None:
    made = epoch(batches(part, WINDOW, 3, seed=1, augmentation=["flip"]))
    assert [len(batch["index"]) for batch in made] == [3, 4]  # none is alone
    assert sorted(joined(made, "index").tolist()) == list(range(7))
    for batch in made:
        assert (batch["images"].shape[1:], batch["images"].dtype) == ((3, 64, 64), torch.uint8)
        assert (batch["labels"].shape[1:], batch["labels"].dtype) == ((64, 64), torch.uint8)
        agreeing(batch["images"], batch["labels"])
    assert not torch.equal(
        joined(made), joined(epoch(batches(part, WINDOW, 3, seed=2, augmentation=["flip"])))
    )


def test_a_picture_smaller_than_the_window_is_mirrored_and_its_surroundings_ignored(part: Part) -> None:
    """30 x 40 in 64 x 64: 17 rows above and below, 12 columns left and right."""
    (batch,) = epoch(batches(part.select([5]), WINDOW, 1, seed=1))
    image, labels, mask = batch["images"][0], batch["labels"][0], part.mask(5)
    assert torch.equal(labels[17:47, 12:52], mask)
    assert (labels != IGNORED).sum() == 30 * 40
    picture = torch.from_numpy(np.array(part.picture(5)))
    assert torch.equal(image[:, 17:47, 12:52], picture.permute(2, 0, 1))
    assert torch.equal(image[:, :17], image[:, 18:35].flip(1))  # around row 17, which is not repeated
    assert torch.equal(image[:, :, 52:], image[:, :, 39:51].flip(2))


def test_pictures_are_mirrored_as_often_as_it_takes() -> None:
    frame = pairing.Frame((3, 1), 0, (11, 5))
    rows, counts = frame.places(0, 0, 11)
    assert rows.tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert counts.tolist() == [False] * 4 + [True] * 3 + [False] * 4
    columns, counts = frame.places(1, 0, 5)
    assert (columns.tolist(), counts.sum()) == ([0] * 5, 1)


@pytest.mark.parametrize("names", [["window"], ["crop", "flip"], ["scale_jitter"], ["window", "rotation"]])
@pytest.mark.parametrize("to", [WINDOW, SQUASH], ids=["window", "squash"])
def test_boxes_are_cut_out_of_both(part: Part, to: Preprocessing, names: list[str]) -> None:
    for batch in epoch(batches(part, to, 3, seed=1, augmentation=names)):
        assert batch["images"].shape[1:] == (3, 64, 64)
        agreeing(batch["images"], batch["labels"], tolerance=1)


def test_squashed_pictures_have_squashed_masks_in_training(part: Part) -> None:
    for batch in epoch(batches(part, SQUASH, 3, seed=1)):
        assert batch["labels"].shape[1:] == (64, 64)
        agreeing(batch["images"], batch["labels"], tolerance=1)


def test_a_mask_is_scaled_as_pillow_scales_to_the_nearest(part: Part) -> None:
    mask = part.mask(2)
    for height, width in ((64, 64), (33, 150), (100, 72)):
        theirs = Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.NEAREST)
        assert torch.equal(pairing.resampled(mask, (height, width)), torch.from_numpy(np.array(theirs)))


def test_whole_pictures_are_scored_in_order_each_at_its_own_size(part: Part) -> None:
    made = epoch(batches(part, WINDOW, 4))
    assert [batch["index"].tolist() for batch in made] == [[i] for i in range(7)]
    for batch, size in zip(made, SIZES, strict=True):
        assert batch["images"].shape == (1, 3, *size)
        assert batch["labels"].shape == (1, *size)
        agreeing(batch["images"], batch["labels"])


def test_squashed_pictures_are_scored_on_masks_of_their_own_size(part: Part) -> None:
    made = epoch(batches(part, SQUASH, 4))
    assert [batch["labels"].shape[1:] for batch in made] == [torch.Size(size) for size in SIZES]
    assert {batch["images"].shape for batch in made} == {(1, 3, 64, 64)}
    alike = epoch(batches(part.select([0, 6]), SQUASH, 4))
    assert [batch["labels"].shape for batch in alike] == [(2, 64, 96)]
    assert torch.equal(joined(alike)[1], fitted(part, SQUASH, [6])[0])


@pytest.mark.parametrize("names", [["window", "flip", "colour_jitter"], ["grid_elastic"]])
@pytest.mark.parametrize("to", [WINDOW, SQUASH], ids=["window", "squash"])
def test_draws_depend_on_seed_and_epoch_and_not_on_the_workers(
    part: Part, to: Preprocessing, names: list[str]
) -> None:
    def run(number: int, workers: int, before: int | None = None) -> tuple[Tensor, Tensor]:
        feed = batches(part, to, 3, seed=7, augmentation=names, workers=workers)
        if before is not None:
            epoch(feed, before)
        made = epoch(feed, number)
        return joined(made), joined(made, "labels")

    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = run(2, 0)
    for other in (run(2, 2), run(2, 0, before=1)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], run(3, 0)[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_each_batch(part: Part) -> None:
    seen = []
    for rank in range(2):
        feed = batches(part, WINDOW, 5, seed=1, augmentation=["window"])
        order = feed.batch_sampler
        assert isinstance(order, Order)
        order.among(rank, 2)
        seen.append(epoch(feed))
    assert [[len(batch["index"]) for batch in half] for half in seen] == [
        [3, 2],
        [2, 2],
    ]  # two are not shared
    assert sorted(joined([*seen[0], seen[1][0]], "index").tolist()) == list(range(7))


def test_what_fits_into_memory_is_decoded_once(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    picture = Part.picture

    def counted(self: Part, index: int, draft: Any = None) -> Image.Image:
        looked.append(index)
        return picture(self, index, draft)

    monkeypatch.setattr(Part, "picture", counted)
    feed = batches(part, WINDOW, 3, seed=1)
    first, again = epoch(feed, 0), epoch(feed, 0)
    epoch(feed, 1)
    assert sorted(looked) == list(range(7))
    monkeypatch.setattr(pairing, "MEMORY_BYTES", sum(4 * h * w for h, w in SIZES) - 1)
    large = batches(part, WINDOW, 3, seed=1)
    assert torch.equal(joined(first), joined(again))
    assert torch.equal(joined(first), joined(epoch(large, 0)))
    epoch(large, 1)
    assert len(looked) == 3 * 7


def test_a_margin_lets_windows_see_mirrored_surroundings_that_count(part: Part) -> None:
    """A network that loses 16 pixels on every side learns the picture up to its border: what is left of the
    windows lies in the picture, and reaches its sides. Mirrored labels are right labels.
    """
    one = part.select([4])  # 64 x 64
    whole = torch.from_numpy(np.array(part.picture(4)))[:, :, 0]
    feed = batches(one, replace(WINDOW, size=(48, 48)), 1, seed=1, margin=16)
    seen = torch.zeros(64, 64, dtype=torch.bool)
    for number in range(60):
        (batch,) = epoch(feed, number)
        assert (batch["labels"] != IGNORED).all()
        agreeing(batch["images"], batch["labels"])
        left = batch["images"][0, 0, 16:32, 16:32]
        places = whole.unfold(0, 16, 1).unfold(1, 16, 1)  # (49, 49, 16, 16)
        found = (places == left).all(-1).all(-1).nonzero()
        assert len(found) > 0
        for row, column in found.tolist() if len(found) == 1 else []:
            seen[row : row + 16, column : column + 16] = True
    assert seen[:2].any()
    assert seen[-2:].any()
    assert seen.float().mean() > 0.8
    (batch,) = epoch(batches(one, replace(WINDOW, size=(96, 96)), 1, seed=1, margin=16))
    assert torch.equal(batch["images"][0, 0, 16:80, 16:80], whole)
    assert torch.equal(batch["images"][0, 0, :16, 16:80], whole[1:17].flip(0))
    assert torch.equal(batch["labels"][0, :16, 16:80], part.mask(4)[1:17].flip(0))


def test_weights_are_made_of_the_labels_that_training_sees(part: Part) -> None:
    def weigh(labels: Tensor) -> Tensor:
        return labels.float() + 0.5

    for batch in epoch(batches(part, WINDOW, 3, seed=1, augmentation=["flip"], weigh=weigh, workers=1)):
        assert torch.equal(batch["weights"], batch["labels"].float() + 0.5)
    assert "weights" not in epoch(batches(part, WINDOW, 3, seed=1))[0]


def test_blue_comes_first_where_the_network_wants_it(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64), (10, 20, 30)).save(tmp_path / "images" / "0.png")
    Image.new("L", (64, 64)).save(tmp_path / "masks" / "0.png")
    part = data.open(tmp_path).parts["all"]
    for to in (WINDOW, SQUASH):
        to = replace(to, channels="BGR")
        for seed in (None, 1):
            (batch,) = epoch(batches(part, to, 1, seed=seed))
            assert batch["images"][0, :, 5, 5].tolist() == [30, 20, 10]
        assert sample(part, to)[0, :, 5, 5].tolist() == [30, 20, 10]


def test_grey_pictures_have_one_channel(tmp_path: Path) -> None:
    write(tmp_path / "images", tmp_path / "masks", SIZES, colour=False)
    part = data.open(tmp_path).parts["all"]
    grey = replace(WINDOW, channels="L", mean=(0.0,), std=(1.0,))
    assert joined(epoch(batches(part, grey, 4, seed=1, augmentation=["window"]))).shape == (7, 1, 64, 64)


def test_a_large_photo_is_decoded_no_larger_than_needed_and_its_mask_lies_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "images", tmp_path / "masks", [(640, 960)] * 2, ending="jpg")
    for number in range(2):  # blocks of 80 pixels, so that JPEG blurs little
        small = Image.open(tmp_path / "masks" / f"{number}.png").crop((0, 0, 96, 64))
        mask = np.kron(np.array(small.resize((12, 8), Image.Resampling.NEAREST)), np.ones((80, 80), np.uint8))
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        grey = (STEP * (mask.astype(int) + 1)).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "images" / f"{number}.jpg", quality=95)
    part = data.open(tmp_path).parts["all"]
    monkeypatch.setattr(pairing, "MEMORY_BYTES", 0)
    drafted: list[Any] = []
    picture = Part.picture

    def noted(self: Part, index: int, draft: Any = None) -> Image.Image:
        made = picture(self, index, draft)
        drafted.append(made.size)
        return made

    monkeypatch.setattr(Part, "picture", noted)
    crop, window = {"name": "crop", "area": [0.5, 1]}, {"name": "window", "scale": [0.2, 0.25]}
    ways: list[tuple[Preprocessing, list[Any], int]] = [(SQUASH, [], 0), (SQUASH, [crop], 0)]
    for to, changes, margin in [*ways, (WINDOW, [window], 0), (WINDOW, [window], 60)]:
        drafted.clear()
        feed = batches(part, to, 2, seed=1, augmentation=changes, margin=margin)
        for batch in (epoch(feed, number)[0] for number in range(4)):
            wrong = (batch["images"].int() - STEP * (batch["labels"].int() + 1)[:, None]).abs().amax(1) > 8
            assert wrong.float().mean() < 0.12
        assert min(width for width, _ in drafted) < 960


def test_statistics_are_of_windows_of_pictures_of_any_size(part: Part) -> None:
    mean, std = statistics(part, WINDOW)
    chosen = sample(part, WINDOW)
    assert chosen.shape == (7, 3, 64, 64)
    assert mean[0] == pytest.approx(chosen[:, 0].double().mean().item() / 255, abs=1e-5)
    assert std[0] == pytest.approx(chosen[:, 0].double().std(correction=0).item() / 255, abs=1e-4)
    assert torch.equal(chosen, sample(part, WINDOW))
    assert torch.equal(
        fitted(part, WINDOW, [4])[0].int(), torch.from_numpy(np.array(part.picture(4))).permute(2, 0, 1).int()
    )
    assert resolve([], part, WINDOW) == ()


def test_what_makes_no_sense_with_masks_is_refused(
    part: Part, make_folder: MakeFolder, tmp_path: Path
) -> None:
    for fit in ("crop", "pad"):
        with pytest.raises(
            Misuse, match=f"fit {fit} is for images with one label each; with masks use window"
        ):
            batches(part, replace(WINDOW, fit=fit), 2)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="a cache of photos holds no masks; leave --cache out"):
        batches(part, WINDOW, 2, cache=tmp_path / "cache")
    with pytest.raises(Misuse, match="augmix moves parts of images"):
        batches(part, WINDOW, 2, seed=1, augmentation=["augmix"])
    plain = data.open(make_folder({"a": 2, "b": 2})).parts["all"]
    with pytest.raises(Misuse, match="fit window is for images with masks"):
        batches(plain, WINDOW, 2)
    with pytest.raises(ValueError, match="gcn_zca whitens whole images of one size"):
        replace(WINDOW, size=(8, 8), normalisation="gcn_zca")


def test_a_mask_that_does_not_fit_stops_the_feed_with_a_sentence(part: Part, tmp_path: Path) -> None:
    Image.new("L", (200, 200)).save(tmp_path / "masks" / "3.png")
    with pytest.raises(Failure, match=r"masks/3.png has 200 x 200 pixels and its picture 120 x 40"):
        epoch(batches(part, WINDOW, 4, seed=1))


@pytest.mark.realdata
def test_camvid_feeds_training_and_scoring(realdata: Path) -> None:
    found = data.open(realdata / "camvid", ignore=["11"])
    to = replace(WINDOW, size=(224, 224))
    feed = batches(found.parts["train"].select(range(24)), to, 8, seed=0, augmentation=["window", "flip"])
    made = epoch(feed)
    assert joined(made).shape == (24, 3, 224, 224)
    assert set(joined(made, "labels").unique().tolist()) <= {*range(11), IGNORED}
    (batch,) = epoch(batches(found.parts["val"].select([0]), to, 8))
    assert batch["images"].shape == (1, 3, 360, 480)


def test_of_weak_pictures_only_the_classes_of_the_whole_are_known(tmp_path: Path) -> None:
    root = tmp_path / "halves"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((16, 32), np.uint8)
    mask[:, 16:] = 1
    for i in range(4):
        Image.fromarray(np.full((16, 32, 3), 60 * i, np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    part = data.open(root).parts["all"]
    to = Preprocessing((8, 8), fit="window", mean=(0.5,) * 3, std=(0.5,) * 3)
    window = [{"name": "window", "scale": (1.0, 1.0)}]
    (batch,) = batches(part, to, 4, seed=0, augmentation=window, weak=[1, 3])
    for index, labels, present in zip(
        batch["index"].tolist(), batch["labels"], batch["present"], strict=True
    ):
        if index in (1, 3):
            assert present.tolist() == [True, True]
            assert (labels == IGNORED).all()
        else:
            assert present.tolist() == [bool((labels == k).any()) for k in (0, 1)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("draft", [False, True])
def test_pictures_of_every_orientation_lie_under_their_upright_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, draft: bool
) -> None:
    if draft:  # photos that are not kept in memory are decoded a box at a time
        monkeypatch.setattr(pairing, "MEMORY_BYTES", 0)
    write(tmp_path / "images", tmp_path / "masks", [(64, 96), (40, 120), (30, 40)], ending="jpg")
    for path in (tmp_path / "images").iterdir():
        with Image.open(tmp_path / "masks" / f"{path.stem}.png") as mask:
            lying(picture(np.asarray(mask)), orientation, path, quality=100, subsampling=0)
    made = epoch(batches(data.open(tmp_path).parts["all"], WINDOW, 3, seed=1, augmentation=["flip"]))
    wrong = (joined(made).int() - STEP * (joined(made, "labels").int() + 1)[:, None]).abs().amax(1)
    assert (wrong[joined(made, "labels") != IGNORED] > STEP // 2).float().mean() < 0.02
    whole = list(batches(data.open(tmp_path).parts["all"], WINDOW, 1))
    assert [tuple(batch["labels"].shape[1:]) for batch in whole] == [(64, 96), (40, 120), (30, 40)]
    for batch in whole:
        off = (batch["images"].int() - STEP * (batch["labels"].int() + 1)[:, None]).abs().amax(1)
        assert (off > STEP // 2).float().mean() < 0.02
