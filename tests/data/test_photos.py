"""Photos from files and from a cache: the same pixels, the same draws, and no more work than is needed."""

import errno
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

from cnnkit import data
from cnnkit.data import cache as caches
from cnnkit.data import pictures
from cnnkit.data.augment import parse
from cnnkit.data.batches import Batches, InMemory, batches
from cnnkit.data.cache import Cache, cached
from cnnkit.data.photos import Files
from cnnkit.data.pictures import fit, read, to_tensor
from cnnkit.data.sets import Part
from cnnkit.errors import Failure, Misuse
from cnnkit.weights.preprocessing import Preprocessing

TO = Preprocessing((80, 80), mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Nine photos, none square, no two of one size, one lying on its side, one grey."""
    random = np.random.default_rng(0)
    for i in range(9):
        height, width = 120 + 13 * i, 200 - 9 * i
        coarse = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        photo = coarse.resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if i == 4:
            exif[0x0112] = 6
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (photo.convert("L") if i == 6 else photo).save(folder / f"{i}.jpg", quality=95, exif=exif)
    return data.open(tmp_path / "photos").parts["all"]


def epoch(feed: Batches, number: int = 0) -> Tensor:
    feed.batch_sampler.set_epoch(number)  # type: ignore[attr-defined]
    return torch.cat([batch["images"] for batch in feed])


def files(part: Part, to: Preprocessing = TO, draft: bool = False) -> Files:
    return Files(part, to, draft=draft)


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_unchanged_photos_are_exactly_those_that_prediction_sees(
    part: Part, tmp_path: Path, how: Any, channels: Any
) -> None:
    count = 1 if channels == "L" else 3
    to = Preprocessing((80, 72), fit=how, channels=channels, mean=(0.0,) * count, std=(1.0,) * count)
    expected = torch.stack([to_tensor(fit(read(part.path(i)), to), to) for i in range(len(part))])
    assert torch.equal(epoch(batches(part, to, 4)), expected)
    assert torch.equal(epoch(batches(part, to, 4, cache=tmp_path / "c")), expected)  # made
    assert torch.equal(epoch(batches(part, to, 4, cache=tmp_path / "c")), expected)  # read


def test_without_a_box_the_cache_changes_no_pixel_in_training(part: Part, tmp_path: Path) -> None:
    names = ["flip", "colour_jitter", "rotation"]
    plain = batches(part, TO, 4, seed=5, augmentation=names)
    kept = batches(part, TO, 4, seed=5, augmentation=names, cache=tmp_path / "c")
    assert torch.equal(epoch(plain, 2), epoch(kept, 2))


@pytest.mark.parametrize("name", ["crop", "scale_jitter"])
def test_with_a_box_the_cache_loses_detail_only(part: Part, tmp_path: Path, name: str) -> None:
    """The same boxes but for rounding, out of smooth photos: nearly the same colours."""
    plain = batches(part, TO, 4, seed=5, augmentation=[name])
    kept = batches(part, TO, 4, seed=5, augmentation=[name], cache=tmp_path / "c")
    difference = (epoch(plain).float() - epoch(kept).float()).abs()
    assert difference.mean() < 4
    assert difference.max() > 0 or name == "scale_jitter"  # which keeps these photos as large as they are
    far = (epoch(plain, 0).float() - epoch(kept, 1).float()).abs()
    assert far.mean() > 10 * difference.mean()


@pytest.mark.parametrize("keep", [False, True])
def test_draws_depend_on_seed_and_epoch_and_not_on_the_workers(
    part: Part, tmp_path: Path, keep: bool
) -> None:
    def run(seed: int, number: int, workers: int) -> Tensor:
        names = ["crop", "flip", "colour_jitter", "trivial_augment"]
        where = tmp_path / "c" if keep else None
        return epoch(
            batches(part, TO, 4, seed=seed, augmentation=names, workers=workers, cache=where), number
        )

    assert torch.equal(run(7, 2, 0), run(7, 2, 2))
    assert not torch.equal(run(7, 2, 0), run(7, 3, 0))
    assert not torch.equal(run(7, 2, 0), run(8, 2, 0))


def test_every_batch_and_every_epoch_has_draws_of_its_own(part: Part) -> None:
    """Of one photo over and over all that differs is what was drawn."""
    feed = batches(part.select([0] * 6), TO, 3, seed=1, augmentation=["crop", "flip"])
    made = epoch(feed)
    assert not torch.equal(made[:3], made[3:])
    alone = batches(part.select([0]), TO, 3, seed=1, augmentation=["crop", "flip"])
    assert not torch.equal(epoch(alone, 0), epoch(alone, 1))


@pytest.mark.parametrize("size", [2, 8, 9, 100])
def test_a_part_smaller_than_a_batch_and_a_last_batch_of_one_work(
    part: Part, tmp_path: Path, size: int
) -> None:
    for where in (None, tmp_path / "c"):
        feed = batches(part, TO, size, seed=1, augmentation=["crop", "flip"], cache=where)
        made = list(feed)
        assert len(made) == len(feed)
        assert sorted(torch.cat([batch["index"] for batch in made]).tolist()) == list(range(9))
        assert all(len(batch["index"]) > 1 for batch in made)
        for batch in made:
            assert batch["labels"].tolist() == [part.labels[i] for i in batch["index"].tolist()]


def test_one_photo_is_a_batch(part: Part, tmp_path: Path) -> None:
    one = part.select([3])
    feed = batches(one, TO, 8, seed=1, augmentation=["crop", "grey", "cutout"][:2], cache=tmp_path / "c")
    assert epoch(feed).shape == (1, 3, 80, 80)


def test_grey_photos_are_augmented_in_one_channel(part: Part, tmp_path: Path) -> None:
    to = Preprocessing((80, 72), mean=(0.0,), std=(1.0,), channels="L")
    feed = batches(part, to, 4, seed=1, augmentation=["crop", "flip", "rotation"], cache=tmp_path / "c")
    assert epoch(feed).shape == (9, 1, 80, 72)
    with pytest.raises(Misuse, match="pca_colour changes colours and grey images have none"):
        batches(part, to, 4, seed=1, augmentation=["pca_colour"])


def test_blue_first_networks_get_the_same_changes_with_the_channels_turned(part: Part) -> None:
    blue = Preprocessing((80, 80), mean=(0.0,) * 3, std=(1.0,) * 3, channels="BGR")
    names = ["crop", "colour_jitter", "grey"]
    one, other = (epoch(batches(part, to, 4, seed=5, augmentation=names)) for to in (TO, blue))
    assert torch.equal(one, other.flip(1))


def test_small_images_are_kept_in_memory_and_read_from_the_cache(part: Part, tmp_path: Path) -> None:
    to = Preprocessing((32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    plain, kept = batches(part, to, 4), batches(part, to, 4, cache=tmp_path / "c")
    assert isinstance(kept, InMemory)
    assert torch.equal(epoch(plain), epoch(kept))


def test_large_photos_kept_in_memory_are_the_same_from_files_and_from_the_cache(
    large: Part, tmp_path: Path
) -> None:
    to = Preprocessing((32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    plain, kept = (batches(large, to, 2, seed=1, cache=where) for where in (None, tmp_path / "c"))
    assert torch.equal(epoch(plain), epoch(kept))


class Counted:
    """Counts the files that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        before = pictures.read

        def read(path: Path, draft: tuple[int, int] | None = None) -> Image.Image:
            self.paths.append(path.name)
            return before(path, draft)

        monkeypatch.setattr("cnnkit.data.sets.read", read)


def test_a_warm_cache_decodes_nothing_and_only_a_changed_file_is_read_again(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Cache:
        return cached(files(part), tmp_path / "c", room=8 / 7)

    seen = Counted(monkeypatch)
    before = make()
    assert len(seen.paths) == 9
    old = [before.stored(i).clone() for i in range(9)]
    seen.paths.clear()
    make()
    assert seen.paths == []

    Image.new("RGB", (150, 110), "red").save(part.path(4))
    after = make()
    assert seen.paths == [part.path(4).name]
    assert after.sizes([4]).tolist() == [[92, 125]]
    assert (after.stored(4).view(-1, 3).float().mean(0) - torch.tensor([254.0, 0, 0])).abs().max() < 3
    assert all(torch.equal(after.stored(i), old[i]) for i in range(9) if i != 4)
    assert all(torch.equal(before.stored(i), old[i]) for i in range(9))  # a run that has it open goes on


def test_only_the_newest_state_stays_on_the_disk(part: Part, tmp_path: Path) -> None:
    cached(files(part), tmp_path / "c", room=None)
    Image.new("RGB", (150, 110), "red").save(part.path(4))
    (place,) = (tmp_path / "c").iterdir()
    (place / ".pixels-1.x").write_bytes(b"of a run that was killed")
    cache = cached(files(part), tmp_path / "c", room=None)
    assert {file.name for file in place.iterdir()} == {"lock", "index.npy", cache.path.name}


@pytest.mark.parametrize("damage", ["index", "pixels", "short", "rows"])
def test_a_damaged_cache_is_made_again(part: Part, tmp_path: Path, damage: str) -> None:
    expected = cached(files(part), tmp_path / "c", room=None).all().clone()
    (place,) = (tmp_path / "c").iterdir()
    (pixels,) = place.glob("pixels-*")
    if damage == "index":
        (place / "index.npy").write_bytes(b"\x93NUMPY")
    elif damage == "rows":
        np.save(place / "index.npy", np.zeros(3))
    elif damage == "pixels":
        pixels.unlink()
    else:
        os.truncate(pixels, 100)
    assert torch.equal(cached(files(part), tmp_path / "c", room=None).all(), expected)


def test_what_is_kept_depends_on_part_size_and_fit(part: Part, tmp_path: Path) -> None:
    smaller = Preprocessing((70, 80), mean=(0.0,) * 3, std=(1.0,) * 3)
    squashed = Preprocessing((80, 80), fit="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
    for one, to, room in (
        (part, TO, None),
        (part.select([0, 1]), TO, None),
        (part, smaller, None),
        (part, squashed, None),
        (part, TO, 8 / 7),
        (part, squashed, 8 / 7),  # fits do not matter to boxes
        (part, TO, 16 / 7),
    ):
        cached(files(one, to), tmp_path / "c", room=room)
    assert len(list((tmp_path / "c").iterdir())) == 6


def test_photos_are_kept_no_larger_than_they_are(part: Part, tmp_path: Path) -> None:
    cache = cached(files(part), tmp_path / "c", room=2.0)
    for i in range(9):
        width, height = part.size(i)
        scale = min(1, 160 / min(width, height))
        assert cache.sizes([i])[0].tolist() == [round(height * scale), round(width * scale)]


def test_a_cache_that_does_not_fit_is_refused_in_one_sentence(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=9 * 80 * 80 * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Failure, match=r"the cache of 9 images takes .* GB free; name a folder on a larger"):
        cached(files(part), tmp_path / "c", room=None)
    assert not list((tmp_path / "c").glob("*/pixels*"))


def test_a_disk_that_fills_up_and_a_folder_that_is_none_are_said(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="file cannot be used"):
        cached(files(part), tmp_path / "file", room=None)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caches, "_require_disk", full)
    with pytest.raises(Failure, match="No space left on device"):
        cached(files(part), tmp_path / "c", room=None)


def test_a_photo_that_is_gone_or_broken_is_named(part: Part, tmp_path: Path) -> None:
    part.path(2).write_bytes(part.path(2).read_bytes()[:2000])
    with pytest.raises(Failure, match=rf"{part.path(2).name} cannot be decoded"):
        cached(files(part), tmp_path / "c", room=None)
    part.path(2).unlink()
    with pytest.raises(Failure, match=f"there is no file .*{part.path(2).name}"):
        cached(files(part), tmp_path / "c", room=None)


def _make_one(part: Part, folder: Path, started: Any, found: Any) -> None:
    torch.set_num_threads(1)
    started.wait()
    decoded: list[str] = []
    before = pictures.read

    def read(path: Path, draft: tuple[int, int] | None = None) -> Image.Image:
        decoded.append(path.name)
        return before(path, draft)

    data.sets.read = read  # type: ignore[attr-defined]
    made = cached(Files(part, TO, draft=False), folder, room=None)
    found.put((len(decoded), int(made.all().sum())))


def test_two_runs_that_start_together_make_the_cache_once(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the new processes find this file
    context = multiprocessing.get_context("spawn")
    started, found = context.Event(), context.Queue()
    runs = [context.Process(target=_make_one, args=(part, tmp_path / "c", started, found)) for _ in range(2)]
    for run in runs:
        run.start()
    started.set()
    results = [found.get(timeout=120) for _ in runs]
    for run in runs:
        run.join()
    assert sorted(count for count, _ in results) == [0, 9]
    assert results[0][1] == results[1][1]


def test_progress_is_told(part: Part, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    batches(part, TO, 4, cache=tmp_path / "c", tick=lambda done, total: told.append((done, total)))
    assert told == [(i, 9) for i in range(1, 10)]


@pytest.fixture
def large(tmp_path: Path) -> Part:
    """Two photos of 800 x 600, one of them lying on its side."""
    folder = tmp_path / "large" / "a"
    folder.mkdir(parents=True)
    coarse = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC)
    photo.save(folder / "0.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "1.jpg", quality=95, exif=exif)
    return data.open(tmp_path / "large").parts["all"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes at which files were decoded."""
    sizes: list[tuple[int, int]] = []
    before = ImageFile.ImageFile.load

    def load(image: ImageFile.ImageFile) -> Any:
        sizes.append(image.size)
        return before(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    return sizes


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    ("box", "share"), [((0, 0, 600, 600), 4), ((40, 60, 330, 250), 2), ((40, 60, 100, 90), 1)]
)
def test_a_large_photo_is_decoded_no_larger_than_its_box_needs(
    large: Part, index: int, box: tuple[int, int, int, int], share: int, decoded: list[tuple[int, int]]
) -> None:
    whole = files(large).cut(index, box).float()
    assert decoded[0] == (800, 600)
    decoded.clear()
    drafted = files(large, draft=True).cut(index, box).float()
    assert decoded[0] == (800 // share, 600 // share)
    assert drafted.shape == (3, 80, 80)
    assert (whole - drafted).abs().mean() < 3


@pytest.mark.parametrize(("how", "share"), [("crop", 4), ("squash", 4), ("pad", 8)])
def test_a_large_photo_is_decoded_no_larger_than_its_fit_needs(
    large: Part, how: Any, share: int, decoded: list[tuple[int, int]]
) -> None:
    """To 100 pixels: 600 becomes 114 (crop) or 100 (squash), 800 becomes 100 (pad)."""
    to = Preprocessing((100, 100), fit=how, mean=(0.0,) * 3, std=(1.0,) * 3)
    whole = files(large, to).fitted([0, 1]).float()
    decoded.clear()
    drafted = files(large, to, draft=True).fitted([0, 1]).float()
    assert (800 // share, 600 // share) in decoded
    assert (800, 600) not in decoded
    assert (whole - drafted).abs().mean() < 3


def test_a_tall_photo_stored_on_its_side_is_decoded_small_too(
    tmp_path: Path, decoded: list[tuple[int, int]]
) -> None:
    """Upright 200 x 1600: a box of 200 pixels at 80 needs 80 x 640, so that half the size suffices."""
    (tmp_path / "tall" / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 200), "teal").save(tmp_path / "tall" / "a" / "0.jpg", exif=exif)
    tall = data.open(tmp_path / "tall").parts["all"]
    assert tall.size(0) == (200, 1600)
    files(tall, draft=True).cut(0, (300, 0, 200, 200))
    assert decoded[0] == (800, 100)


def test_a_box_of_a_cached_photo_is_the_box_of_the_photo(part: Part, tmp_path: Path) -> None:
    """Kept at its own size, a photo is cut the same from the cache as from its file."""
    cache = cached(files(part), tmp_path / "c", room=10.0)
    for i in range(9):
        box = (10, 20, 60, 50)
        assert torch.equal(cache.cut(i, box), files(part).cut(i, box))
        assert torch.equal(cache.sizes([i]), files(part).sizes([i]))


def test_unknown_names_are_refused_before_anything_is_read(part: Part, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="did you mean"):
        batches(part, TO, 4, seed=1, augmentation=["krop"], cache=tmp_path / "c")
    assert not (tmp_path / "c").exists()
    assert parse([]) == ()
