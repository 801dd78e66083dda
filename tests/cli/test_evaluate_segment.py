"""`cnnkit evaluate` with networks that label pixels, as a person meets it."""

import json
from pathlib import Path

import pytest
import torch

from cnnkit.cli import main
from cnnkit.models import create
from cnnkit.tasks.borders import WAYS
from cnnkit.weights import artefact
from cnnkit.weights.preprocessing import Preprocessing

from ..data.masked import write


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks for three classes that learnt nothing."""
    folder, paths = tmp_path_factory.mktemp("networks"), []
    arguments = {"num_classes": 3, "width": 1 / 16}
    to = Preprocessing(size=(32, 32), fit="window", mean=(0.3,) * 3, std=(0.1,) * 3)
    for seed in range(2):
        torch.manual_seed(97 + seed)
        card = artefact.Card(
            model="unet_padded_bn",
            task="segment",
            classes=["0", "1", "2"],
            preprocessing=to,
            arguments=arguments,
        )
        paths.append(folder / f"{seed}.safetensors")
        weights = create(card.model, **arguments).state_dict()
        weights["score.weight"] *= 40  # sure of what it says, or a CRF would make all pixels alike
        artefact.save(paths[-1], weights, card)
    return paths


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "patches"
    write(root / "images", root / "masks", [(36, 48)] * 4)
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def test_one_network_is_shown_with_its_classes(
    capsys: pytest.CaptureFixture[str], networks: list[Path], patches: Path
) -> None:
    code, out, _ = run(capsys, networks[0], patches, "--views", "flip", "--crf")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["class", "pixels", "precision", "recall", "f1", "iou", "boundary_f1"]
    code, out, _ = run(capsys, networks[0], patches, "--views", "flip", "--crf", "--json")
    found = json.loads(out)
    assert f"miou {found['miou']:.2%} on all, 4 images, flip, crf" in lines
    assert found["views"] == "flip, crf"
    code, out, _ = run(capsys, networks[0], patches, "--views", "flip", "--json")
    assert json.loads(out)["miou"] != found["miou"]


def test_several_networks_have_a_row_each_and_are_not_fused(
    capsys: pytest.CaptureFixture[str], networks: list[Path], patches: Path
) -> None:
    code, out, _ = run(capsys, *networks, patches)
    assert code == 0
    heads, *lines = out.splitlines()
    assert heads.split() == ["network", "miou", "boundary_f1", "accuracy"]
    code, out, _ = run(capsys, *networks, patches, "--json")
    for network, line, figures in zip(networks, lines, json.loads(out)["networks"], strict=False):
        assert line.split() == [
            str(network),
            *(f"{figures[name]:.2%}" for name in ("miou", "boundary_f1", "accuracy")),
        ]
    assert lines[2:4] == ["", "on all, 4 images"]
    assert all("not known without the run's folder" in line for line in lines[4:6])
    assert not any("together" in line for line in lines)


def test_borders_have_a_row_for_each_network_and_way(
    capsys: pytest.CaptureFixture[str], networks: list[Path], patches: Path
) -> None:
    code, out, _ = run(capsys, *networks, patches, "--borders", "--most", "3")
    assert code == 0
    heads, *lines = out.splitlines()
    assert heads.split() == ["network", "looked", "at", "miou", "boundary_f1", "seconds"]
    code, out, _ = run(capsys, *networks, patches, "--borders", "--most", "3", "--json")
    found = json.loads(out)
    rows = [(one["network"], way) for one in found["networks"] for way in one["ways"]]
    assert [(name, way["way"]) for name, way in rows] == [(str(n), way) for n in networks for way in WAYS]
    for line, (name, way) in zip(lines, rows, strict=False):
        assert line.startswith(name)
        assert line.split()[-3:-1] == [f"{way['miou']:.2%}", f"{way['boundary_f1']:.2%}"]
    assert lines[len(rows) :][:2] == ["", "on all, 3 of 4 images, evenly spread"]
    assert (found["images"], found["of"]) == (3, 4)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--borders", "--crf"], "--borders looks in all ways itself; leave out --views and --crf"),
        (["--borders", "--views", "flip"], "--borders looks in all ways itself"),
        (["--most", "3"], "--most is of --borders; other scores are of all images"),
        (["--borders", "--most", "0"], "Invalid value for '--most'"),
        (["--views", "ten_crop"], "--views ten_crop is for networks that classify whole images"),
    ],
)
def test_flags_that_make_no_sense_together_are_told(
    capsys: pytest.CaptureFixture[str], networks: list[Path], patches: Path, flags: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, networks[0], patches, *flags)
    assert (code, out) == (2, "")
    assert sentence in err
