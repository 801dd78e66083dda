"""Features are made once and the head that learns on them is the one that would have learnt on images."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.models import create
from cnnkit.models.classify.resnet import ResNet
from cnnkit.surgery import freeze
from cnnkit.tasks import load
from cnnkit.train.cached import cut, room
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit

from ..conftest import MakeFolder

FOLDER = {"red": 9, "green": 9}
PLAIN = {"precision": "32", "layout": "channels_first", "threads": 1, "batch_size": 8, "workers": 0}


def states(run: Directory) -> dict[str, Tensor]:
    return run.load_checkpoint()["state_dict"]


def history(run: Directory) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    timed = {"seconds", "images_per_second", "waiting"}
    return [{k: v for k, v in row.items() if k not in timed} for row in lines]


def test_each_image_goes_through_the_frozen_part_once_and_the_head_learns_the_same(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: list[int] = []
    features = ResNet.features

    def counted(self: ResNet, x: Tensor) -> list[Tensor]:
        images.append(len(x) if x.device.type != "meta" else 0)
        return features(self, x)

    root = make_folder(FOLDER)
    settings = {"weights": str(source), "freeze": "features", "epochs": 3, "console": silent, **PLAIN}
    usual = fit(root, augment=(), output=tmp_path / "usual", **settings)
    monkeypatch.setattr(ResNet, "features", counted)
    cached = fit(root, cached_features=1, output=tmp_path / "cached", **settings)
    tried, once = 2 * 8, 18 - 4  # a batch by both ways; all but the test part
    in_the_end = 4 + 2  # test and validation parts are scored once more, as images
    assert sum(images) <= tried + once + in_the_end + 12, "the report looks at some"
    assert sum(images) < 3 * 14
    for name, value in states(usual).items():
        torch.testing.assert_close(states(cached)[name], value, rtol=1e-4, atol=1e-5)
    assert history(cached)[-1]["train/loss"] == pytest.approx(history(usual)[-1]["train/loss"], rel=1e-4)
    assert cached.summary["val"]["loss"] == pytest.approx(history(cached)[-1]["val/loss"], rel=1e-4)
    assert load(cached.best).predict(root / "red" / "0.png").classes
    assert cached.config["recipe"]["augment"] == []
    assert [p.name for p in cached.path.glob(".*")] == [".lock"]


@pytest.mark.parametrize(
    "settings",
    [{"freeze": "1", "cached_features": 1}, {"cached_features": 2, "augment": ["flip"], "ema": 0.5}],
)
def test_a_resumed_run_on_features_equals_the_uninterrupted_one(
    make_folder: MakeFolder,
    source: Path,
    tmp_path: Path,
    silent: Console,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
) -> None:
    root, copy = make_folder(FOLDER), tmp_path / "copy.safetensors"
    copy.write_bytes(source.read_bytes())
    given = {"weights": str(copy), "freeze": "features", "epochs": 3, "console": silent, **PLAIN, **settings}
    whole = fit(root, output=tmp_path / "whole", **given)
    write = Directory.save_checkpoint

    def dies(self: Directory, checkpoint: dict[str, object]) -> None:
        write(self, checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(Directory, "save_checkpoint", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(root, output=tmp_path / "parts", **given)
    monkeypatch.setattr(Directory, "save_checkpoint", write)
    copy.unlink()
    parts = fit(resume=True, output=tmp_path / "parts", console=silent)
    assert history(parts) == history(whole)
    assert len(history(parts)) == 3
    assert all(torch.equal(value, states(parts)[name]) for name, value in states(whole).items())


SMALL = {
    "resnet20_cifar10": (2, 32),
    "vgg11": (5, 32),
    "squeezenet1_1": (0, 64),
    "mobilenet_v2": (None, 32),
    "densenet_40_12_cifar10": (2, 32),
    "googlenet": (None, 64),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_parted_before_the_first_layer_of_its_head_that_learns_or_draws(name: str) -> None:
    fixed, side = SMALL[name]
    network = create(
        name, num_classes=3, **({} if name in ("densenet_40_12_cifar10", "googlenet") else {"width": 0.25})
    )
    freeze(network, "features")
    images = torch.randn(2, 3, side, side)
    found = cut(network, "features", images)
    assert network.training
    if fixed is not None:
        assert found.fixed == fixed
    body, tail = found.body(network), found.tail(network)
    assert not body(images).requires_grad
    assert any(p.requires_grad for p in tail.parameters())
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(tail(body(images)), network(images), rtol=1e-4, atol=1e-5)


def test_what_is_not_frozen_or_has_no_head_cannot_be_parted() -> None:
    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(Misuse, match="frozen as far as they reach; ResNet is not"):
        cut(create("resnet20_cifar10", width=0.25), "features", images)
    with pytest.raises(Misuse, match="Sequential has no such parts"):
        cut(nn.Sequential(nn.Conv2d(3, 3, 3)), "features", images)

    class Doubled(ResNet):
        def forward(self, images: Tensor) -> Tensor:
            return 2 * super().forward(images)

    network = Doubled(**{**create_arguments(), "num_classes": 3})
    freeze(network, "features")
    with pytest.raises(Misuse, match=r"its stages and its head in turn.*; Doubled is not"):
        cut(network, "features", images)
    densenet = create("densenet_40_12_cifar10", num_classes=3)
    freeze(densenet, 1)
    with pytest.raises(Misuse, match="DenseNet is not"):  # it has a norm between its stages and its head
        cut(densenet, "1", torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("name", "stages"), [("resnet20_cifar10", 1), ("squeezenet1_1", 3), ("vgg11", 5)])
def test_stages_that_are_not_frozen_belong_to_what_learns(name: str, stages: int) -> None:
    network = create(name, num_classes=3, width=0.25)
    freeze(network, stages)
    images = torch.randn(2, 3, 64, 64)
    found = cut(network, str(stages), images)
    assert found.stage == stages
    network.eval()
    features = found.body(network)(images)
    assert features.shape[1] == network.feature_channels[stages - 1]
    torch.testing.assert_close(found.tail(network)(features), network(images), rtol=1e-4, atol=1e-5)


def create_arguments() -> dict[str, object]:
    from cnnkit.registry import spec

    return {**spec("resnet20_cifar10").kwargs, "width": 0.25}


def test_features_that_are_too_many_for_the_memory_live_in_a_file_that_leaves_nothing(tmp_path: Path) -> None:
    stored = room((2, 3, 4), tmp_path, most=10)
    assert list(tmp_path.iterdir()) == []
    assert not stored.any()
    stored[1, torch.tensor([2, 0])] = torch.arange(8.0).view(2, 4)
    assert stored[1, 2].tolist() == [0, 1, 2, 3]
    assert room((2, 3, 4), tmp_path, most=96).untyped_storage().nbytes() == 96
