"""Several networks on the same images: each by itself, and the mean of their probabilities."""

from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cnnkit import data
from cnnkit.data.pictures import fit, read, to_tensor
from cnnkit.errors import Failure, Misuse
from cnnkit.models import create
from cnnkit.tasks import load
from cnnkit.tasks.views import Viewer
from cnnkit.train.directory import Directory
from cnnkit.train.evaluate import evaluate, fuse
from cnnkit.train.fit import fit as train
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

from ..conftest import MakeFolder

FOLDER = {"red": 10, "green": 10, "blue": 10}
CLASSES = ["blue", "green", "red"]


def network(path: Path, seed: int, size: int = 28, classes: list[str] = CLASSES) -> Path:
    """An artefact of a network that learnt nothing, with an input size of its own."""
    torch.manual_seed(seed)
    channels = 1 if seed % 2 else 3
    arguments = {"num_classes": len(classes), "in_channels": channels}
    name = "lenet5_relu" if size == 28 else "squeezenet1_1"
    model = create(name, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # so that predictions differ
    to = Preprocessing(
        (size, size),
        mean=(0.4 + 0.1 * seed,) * channels,
        std=(0.2,) * channels,
        channels="L" if channels == 1 else "RGB",
    )
    card = Card(model=name, task="classify", classes=classes, preprocessing=to, arguments=arguments)
    artefact.save(path, model.state_dict(), card)
    return path


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    return make_folder(FOLDER)


def by_hand(path: Path, photos: Path, classes: list[str] = CLASSES) -> Tensor:
    """Probabilities of all pictures, in the order of their files. Shape: (30, 3)"""
    model, card = artefact.load(path)
    to, order = card.preprocessing, [card.classes.index(c) for c in classes]
    files = [file for name in sorted(FOLDER) for file in sorted((photos / name).iterdir())]
    pixels = torch.stack([to_tensor(fit(read(file), to), to) for file in files])
    with torch.inference_mode():
        return model(to.normalise(pixels)).softmax(1)[:, order]


def test_the_fusion_is_the_mean_worked_out_by_hand(tmp_path: Path, photos: Path) -> None:
    """Two networks of other preprocessing and sizes, one of which knows the classes in another order."""
    paths = [
        network(tmp_path / "a.safetensors", 0),
        network(tmp_path / "b.safetensors", 1, 28, CLASSES[::-1]),
        network(tmp_path / "c.safetensors", 2, 36),
    ]
    labels = torch.arange(3).repeat_interleave(10)
    each = [by_hand(path, photos) for path in paths]
    found = fuse(paths, photos)
    assert (found.together.part, found.together.images) == ("all", 30)
    for path, mine in zip(paths, each, strict=True):
        alone = found.alone[str(path)]
        assert alone.scores.accuracy == (mine.argmax(1) == labels).double().mean().item()
        assert alone.scores.loss == pytest.approx(-mine[range(30), labels].log().mean().item(), rel=1e-4)
        assert alone.scores.accuracy == evaluate(path, photos).scores.accuracy
    mean = torch.stack(each).mean(0)
    together = found.together.scores
    assert together.predicted.tolist() == mean.argmax(1).tolist()
    assert together.confidence.tolist() == pytest.approx(mean.amax(1).tolist(), rel=1e-4)
    assert together.loss == pytest.approx(-mean[range(30), labels].log().mean().item(), rel=1e-4)
    assert together.loss < sum(one.scores.loss for one in found.alone.values()) / 3  # -log is convex


def test_views_and_fusion_go_together(tmp_path: Path, photos: Path) -> None:
    paths = [network(tmp_path / f"{i}.safetensors", i) for i in range(2)]
    found = fuse(paths, photos, views="flip")
    files = [file for name in sorted(FOLDER) for file in sorted((photos / name).iterdir())]
    expected = torch.zeros(30, 3)
    for path in paths:
        model, card = artefact.load(path)
        to = card.preprocessing
        pixels = to.normalise(torch.stack([to_tensor(fit(read(file), to), to) for file in files]))
        with torch.inference_mode():
            expected += (model(pixels).softmax(1) + model(pixels.flip(-1)).softmax(1)) / 4
    assert found.together.scores.predicted.tolist() == expected.argmax(1).tolist()
    assert found.together.scores.confidence.tolist() == pytest.approx(expected.amax(1).tolist(), rel=1e-4)
    assert found.to_json()["views"] == "flip"
    assert evaluate(paths[0], photos, views="flip").views == "flip"


def test_other_classes_are_refused(tmp_path: Path, photos: Path) -> None:
    paths = [
        network(tmp_path / "a.safetensors", 0),
        network(tmp_path / "b.safetensors", 1, classes=["blue", "green", "pink"]),
    ]
    with pytest.raises(
        Misuse, match=r"b\.safetensors and .*a\.safetensors do not know the same classes: .*'pink'"
    ):
        fuse(paths, photos)


def test_a_network_with_itself_is_no_fusion(tmp_path: Path, photos: Path) -> None:
    path = network(tmp_path / "a.safetensors", 0)
    with pytest.raises(Misuse, match="named twice"):
        fuse([path, str(path)], photos)


def test_a_missing_network_is_told_before_the_data_are_opened(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="there is no file"):
        fuse([tmp_path / "none.safetensors"], tmp_path / "no data")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Directory]:
    """Two short runs on the digits, which set the same images aside."""
    folder = tmp_path_factory.mktemp("runs")
    quiet = Console(quiet=True)
    return [
        train("digits", output=folder / str(seed), seed=seed, model="lenet5_relu", epochs=1, console=quiet)
        for seed in range(2)
    ]


def test_runs_are_scored_on_what_they_set_aside(runs: list[Directory]) -> None:
    found = fuse([run.path for run in runs], "digits")
    assert (found.together.part, found.together.images) == ("test", len(runs[0].split["test"]))
    assert [one.scores.accuracy for one in found.alone.values()] == [
        run.summary["test"]["accuracy"] for run in runs
    ]
    assert found.together.remark == ""
    chosen = fuse([run.path for run in runs], "digits", split="val")
    assert chosen.together.remark == "this part chose the checkpoint, so the score flatters it"


def test_what_is_not_known_of_one_network_is_said_of_it(runs: list[Directory], tmp_path: Path) -> None:
    away = tmp_path / "away.safetensors"
    away.write_bytes(runs[1].best.read_bytes())
    found = fuse([runs[0].path, away], "digits")
    assert found.alone[str(runs[0].path)].remark == ""
    assert found.together.images == len(runs[0].split["test"])
    assert found.together.remark.startswith(
        f"{away}: what these images were used for in training is not known"
    )
    other = fuse([away, runs[0].path], "digits")
    assert other.together.scores.accuracy == found.together.scores.accuracy


def test_runs_that_set_other_images_aside_are_not_fused(runs: list[Directory], tmp_path: Path) -> None:
    other = Directory(tmp_path / "other")
    other.path.mkdir()
    for file in (runs[1].best, runs[1].path / "config.toml"):
        (other.path / file.name).write_bytes(file.read_bytes())
    split = runs[1].split
    other.write_json("split.json", split | {"test": split["test"][1:]})
    with pytest.raises(Failure, match="have set other images of digits aside"):
        fuse([runs[0].path, other.path], "digits")


def test_json_has_each_network_and_the_fusion(runs: list[Directory]) -> None:
    found = fuse([run.path for run in runs], "digits").to_json()
    assert [one["network"] for one in found["networks"]] == [str(run.path) for run in runs]
    assert {"accuracy", "loss", "remark"} <= set(found["networks"][0])
    assert "classes" not in found["networks"][0]
    assert len(found["classes"]) == 10
    assert found["images"] == 359


def test_many_views_of_digits_equal_their_predictions(runs: list[Directory]) -> None:
    """Shifted digits, as a part and one by one."""
    classifier = load(runs[0].path)
    part = data.open("digits").parts["all"].select(range(40))
    viewer = Viewer(classifier, "translate")
    found = torch.cat([rows for rows, _ in viewer.outputs(part)])
    each = [viewer.predict(part.picture(i), top=1) for i in range(40)]
    assert [classifier.classes[i] for i in found.argmax(1).tolist()] == [one.classes[0] for one in each]
