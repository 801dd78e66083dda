"""`cnnkit inspect` as a person meets it: every flag, every way to name a network, one sentence an error."""

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from cnnkit import create
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

from .inspected import NET, run


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A person's own file."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an artefact of LeNet-5 for three classes."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = create("lenet5_relu", num_classes=3, in_channels=1)
    to = Preprocessing(size=(28, 28), mean=(0.5,), std=(0.5,), channels="L")
    arguments = {"num_classes": 3, "in_channels": 1}
    classes = ["a", "b", "c"]
    card = Card(model="lenet5_relu", task="classify", classes=classes, preprocessing=to, arguments=arguments)
    artefact.save(folder / "best.safetensors", model.state_dict(), card)
    return folder


def record(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:  # type: ignore[type-arg]
    """What `--json` says."""
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found: dict = json.loads(out)  # type: ignore[type-arg]
    return found


# -- the table -------------------------------------------------------------------------------------


def test_a_name_is_enough_and_the_canon_stands_beside_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "resnet18")
    assert code == 0
    first = next(line for line in out.splitlines() if line.startswith("stem.0.0"))
    assert first.split()[:5] == ["stem.0.0", "Conv2d", "7x7/2", "p3", "64x112x112"]
    assert "multiply-adds 1,814,073,344 = 3,628,146,688 FLOPs" in out
    assert "parameters 11,689,512 agree with the canon" in out


def test_a_table_that_is_piped_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "efficientnet_b0", "--depth", 2)
    head = next(line for line in out.splitlines() if line.startswith("layer"))
    assert head.split()[-5:] == ["op/B", "field", "local", "jump", "centre"]


def test_depth_sums_up_and_the_total_stays(capsys: pytest.CaptureFixture[str]) -> None:
    full, coarse = record(capsys, "resnet18"), record(capsys, "resnet18", "--depth", 1)
    assert [row["layer"] for row in coarse["rows"]] == [
        "stem",
        *(f"stages.{i}" for i in range(4)),
        *(row["layer"] for row in coarse["rows"][5:]),
    ]
    assert sum(row["macs"] for row in coarse["rows"]) == full["macs"] == coarse["macs"]
    assert [c["difference"] for c in coarse["canon"]] == [0, 0]


def test_batch_and_input_change_the_costs_and_the_canon_is_asked_where_it_can_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, four = (record(capsys, "resnet18", "--batch", n) for n in (1, 4))
    assert four["macs"] == 4 * one["macs"]
    assert [c["difference"] for c in four["canon"]] == [0, 0]
    small = record(capsys, "resnet18", "--input", "3,64,64")
    assert [c["what"] for c in small["canon"]] == ["parameters"]
    assert small["inputs"][0]["shape"] == [1, 3, 64, 64]


def test_csv_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "lenet5", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert sum(int(row["parameters"]) for row in rows) == 60_000


def test_a_page_and_a_drawing_are_written_and_said_nothing_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page, figure = tmp_path / "a.html", tmp_path / "a.svg"
    code, out, err = run(capsys, "googlenet", "--html", page, "--figure", figure)
    assert f"page: {page}" in err
    assert f"drawing: {figure}" in err
    assert (code, out) == (0, "")
    assert "depth" in page.read_text()
    assert ElementTree.parse(figure).getroot().tag.endswith("svg")


def test_what_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "lenet5", "--html", tmp_path / "nowhere" / "a.html")
    assert (code, err.count("\n")) == (1, 1)
    assert f"{tmp_path}/nowhere/a.html could not be written: No such file" in err


# -- ways to name a network ------------------------------------------------------------------------


def test_a_run_and_its_artefact_have_their_own_input(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    for source in (trained, trained / "best.safetensors"):
        found = record(capsys, source)
        assert found["inputs"][0]["shape"] == [1, 1, 28, 28]
        assert found["parameters"] == 61_706 - 7 * 85
        assert found["canon"] == []


def test_a_class_of_a_file_with_two_inputs(capsys: pytest.CaptureFixture[str], net: Path) -> None:
    ordered = record(capsys, f"{net}:Question", "--input", "3,16,16", "--input", "int64:7")
    named = record(capsys, f"{net}:Question", "--input", "question=int64:7", "--input", "images=3,16,16")
    assert ordered["macs"] == named["macs"] == 14 * 14 * 8 * 27 + 12 * 5
    assert [v["type"] for v in ordered["inputs"]] == ["torch.float32", "torch.int64"]
    assert sorted(v["shape"] for v in named["inputs"]) == [[1, 3, 16, 16], [1, 7]]


def test_a_list_of_images_has_one_for_each_example(capsys: pytest.CaptureFixture[str], net: Path) -> None:
    found = record(capsys, f"{net}:Detector", "--input", "list:3,9,9", "--batch", 2)
    assert [v["shape"] for v in found["inputs"]] == [[3, 9, 9], [3, 9, 9]]
    assert found["macs"] == 2 * 16 * 4 * 27


def test_a_file_may_hold_a_network_or_compute_with_numbers_to_make_it(
    capsys: pytest.CaptureFixture[str], net: Path
) -> None:
    assert record(capsys, f"{net}:ready", "--input", "3,8,8")["weighted_layers"] == 2
    assert record(capsys, f"{net}:counts_with_numbers", "--input", "4")["parameters"] == 25


def test_what_a_file_prints_does_not_spoil_the_result(capsys: pytest.CaptureFixture[str], net: Path) -> None:
    code, out, err = run(capsys, f"{net}:ready", "--input", "3,8,8", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "ready"
    assert "this file runs" in err


def test_a_network_that_decides_by_numbers_says_where_and_is_run(
    capsys: pytest.CaptureFixture[str], net: Path
) -> None:
    code, _, err = run(capsys, f"{net}:Decides", "--input", "3,9,9")
    assert code == 2
    assert "decides by the numbers of a tensor" in err
    assert "net.py:22: `return self.small(x) if x.sum() > 0" in err
    assert "--run" in err
    code, out, _ = run(capsys, f"{net}:Decides", "--input", "3,9,9", "--run", "--at", ",1,1")
    assert code == 0
    assert "sees rows" in out
    found = record(capsys, f"{net}:Decides", "--input", "3,9,9", "--run")
    assert found["macs"] in (7 * 7 * 4 * 27, 5 * 5 * 4 * 75)


# -- other questions -------------------------------------------------------------------------------


def test_networks_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "resnet18", "mobilenet_v2", "lenet5", "--compare")
    assert code == 0
    assert "1x3x224x224" in out
    assert "1x1x32x32" in out
    sides = record(capsys, "resnet18", "mobilenet_v2", "--compare")
    assert [side["parameters"] for side in sides] == [11_689_512, 3_504_872]  # type: ignore[index]


def test_fields_are_checked_and_a_difference_is_exit_code_3(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, "lenet5", "--check")
    assert code == 0
    assert "arithmetic and gradient agree to the pixel" in out
    from cnnkit.inspect import questions
    from cnnkit.inspect.check import Verdict

    monkeypatch.setattr(questions, "check", lambda *a, **k: [Verdict("stages.0", 0, 1, (0, 5), (0, 4))])
    code, out, err = run(capsys, "lenet5", "--check", "--layer", "stages.0")
    assert code == 3
    assert "1 do not agree" in out
    assert "unit 1: pixels (0, 5) by rule, (0, 4) by gradient" in err


def test_a_layer_that_is_called_twice_is_one_layer_in_a_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnnkit.inspect import questions
    from cnnkit.inspect.check import Verdict

    twice = 2 * [Verdict("stages.0", 0, i, (i, i + 2), (i, i + 2)) for i in (0, 3, 6)]
    monkeypatch.setattr(questions, "check", lambda *a, **k: twice)
    code, out, _ = run(capsys, "lenet5", "--check", "--layer", "stages.0")
    assert code == 0
    assert re.search(r"stages.0 +0 +0 3 6 +3 to 5 +agree", out)
    assert "6 units of 1 layer: arithmetic" in out


def test_the_effective_field_is_no_larger_than_the_theoretical(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = record(capsys, "resnet20_cifar10", "--effective", "--draws", 2)
    assert all(e["effective_side"] <= e["theoretical"][0]["size"] for e in found)  # type: ignore[index]
    assert len(found) == 3
    chart = tmp_path / "used.svg"
    code, out, _ = run(
        capsys, "resnet20_cifar10", "--effective", "--draws", 1, "--layer", "stages.0", "--out", chart
    )
    assert code == 0
    assert "stages.0" in chart.read_text()
    assert "theoretical" in out


def test_a_trained_network_keeps_its_weights_for_the_effective_field(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    found = record(capsys, trained, "--effective", "--draws", 2, "--layer", "stages.0")
    assert found[0]["layer"] == "stages.0"


def test_a_unit_is_told_and_drawn_on_a_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, trained: Path
) -> None:
    Image.new("L", (40, 30), 200).save(tmp_path / "in.png")
    for source in ("lenet5_relu", trained):
        code, out, _ = run(capsys, source, "--at", "stages.0.0,3,20")
        assert code == 0
        assert out == "stages.0.0 at 3,20 sees rows 1 to 5 and columns 18 to 22 of the 28x28 image: 5x5\n"
        out_file = tmp_path / "out.png"
        code, _, _ = run(
            capsys, source, "--at", "stages.0.0,3,20", "--image", tmp_path / "in.png", "--out", out_file
        )
        assert code == 0
        picture = Image.open(out_file)
        zoom = picture.width // 28
        seen, dimmed = (picture.getpixel((zoom * x + zoom // 2, zoom * 3)) for x in (20, 5))
        assert seen == (200, 200, 200)
        assert dimmed == (233, 233, 233)


def test_a_convolution_as_a_fully_connected_layer(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "lenet5", "--as-dense", "stages.0.0")
    assert code == 0
    dense = next(line.split() for line in out.splitlines() if "fully connected" in line)
    assert dense == ["fully", "connected", "4,821,600", "30,908x", "4,816,896", "41x"]


def test_a_network_without_its_poolings(capsys: pytest.CaptureFixture[str]) -> None:
    own, bare = record(capsys, "vgg16", "--without", "pooling")
    # The maps stay 224x224: the first fully connected layer reads 512 * 224^2 instead of 512 * 7^2.
    assert bare["parameters"] - own["parameters"] == 4096 * 512 * (224**2 - 7**2)  # type: ignore[index]
    assert bare["receptive_field"][0]["size"] == 1 + 13 * 2  # type: ignore[index]


def test_gradients_are_told_plotted_and_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chart = tmp_path / "flow.svg"
    code, out, err = run(
        capsys,
        "resnet18",
        "--input",
        "3,32,32",
        "--gradients",
        "--steps",
        1,
        "--batch",
        4,
        "--out",
        chart,
        "--against",
        "no-norm",
        "--against",
        "sigmoid,no-norm,no-shortcuts",
        "--quiet",
    )
    assert code == 0
    assert sum(line.strip().startswith("resnet18") for line in out.splitlines()) == 6
    assert "warning: resnet18, sigmoid, no-norm, no-shortcuts at initialisation: the gradient vanishes" in err
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")
    found = record(capsys, "lenet5_relu", "--gradients", "--steps", 0, "--data", "digits")
    assert found[0]["layers"][0]["layer"] == "stages.0.0"
