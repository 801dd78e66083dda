"""`cnnkit evaluate` and the views of `cnnkit predict`, as a person meets them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cnnkit.cli import main
from cnnkit.cli.evaluate import command
from cnnkit.models import create
from cnnkit.tasks.views import VIEWS
from cnnkit.weights import artefact
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks for digits that learnt nothing."""
    folder, paths = tmp_path_factory.mktemp("networks"), []
    for seed in range(2):
        torch.manual_seed(seed)
        model = create("lenet5_relu", num_classes=10, in_channels=1)
        card = Card(
            model="lenet5_relu",
            task="classify",
            classes=[str(i) for i in range(10)],
            preprocessing=Preprocessing((28, 28), mean=(0.3,), std=(0.4,), channels="L"),
            arguments={"num_classes": 10, "in_channels": 1},
        )
        paths.append(folder / f"{seed}.safetensors")
        artefact.save(paths[-1], model.state_dict(), card)
    return paths


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_every_network_and_their_fusion_are_shown(
    capsys: pytest.CaptureFixture[str], networks: list[Path]
) -> None:
    code, out, _ = run(capsys, "evaluate", *networks, "digits", "--views", "translate")
    assert code == 0
    for network in networks:
        assert str(network) in out
    assert "together accuracy " in out
    assert " on all, 1,797 images, translate" in out
    assert "not known without the run's folder" in out
    code, out, _ = run(capsys, "evaluate", *networks, "digits", "--json")
    found = json.loads(out)
    assert [one["network"] for one in found["networks"]] == [str(n) for n in networks]
    assert 0 <= found["accuracy"] <= 1


def test_one_network_is_shown_as_one(capsys: pytest.CaptureFixture[str], networks: list[Path]) -> None:
    code, out, _ = run(capsys, "evaluate", networks[0], "digits")
    assert code == 0
    assert "together" not in out
    code, out, _ = run(capsys, "evaluate", networks[0], "digits", "--json")
    found = json.loads(out)
    assert "networks" not in found
    assert found["views"] == "center"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Missing argument 'RUN_OR_ARTEFACT... DATA'"),
        (["digits"], "Missing argument 'DATA'"),
        (["x.safetensors", "digits", "--views", "tencrop"], "'tencrop' is not one of 'center'"),
    ],
)
def test_a_wrong_command_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, "evaluate", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err


def test_a_run_in_the_place_of_the_data_is_told(
    capsys: pytest.CaptureFixture[str], networks: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "best.safetensors").write_bytes(networks[0].read_bytes())
    code, _, err = run(capsys, "evaluate", networks[1], tmp_path)
    assert code == 2
    assert f"{tmp_path} is a run; name the data last" in err


def test_the_views_that_can_be_asked_for_are_those_that_there_are() -> None:
    option = next(p for p in command.params if p.name == "views")
    assert list(option.type.choices) == list(VIEWS)  # type: ignore[attr-defined]
    assert all(f"\n      {name} " in (command.help or "") for name in VIEWS if name != "center")


def test_predict_averages_views(
    capsys: pytest.CaptureFixture[str], networks: list[Path], tmp_path: Path
) -> None:
    picture = Image.new("L", (40, 33))
    picture.paste(255, (3, 5, 12, 30))
    picture.save(tmp_path / "p.png")
    found = {}
    for views in VIEWS:
        code, out, _ = run(capsys, "predict", networks[0], tmp_path / "p.png", "--views", views, "--json")
        assert code == 0
        (found[views],) = json.loads(out)
    model, card = artefact.load(networks[0])
    crops = VIEWS["ten_crop"].cut(picture, card.preprocessing)[0]
    with torch.inference_mode():
        mean = model(card.preprocessing.normalise(crops)).softmax(1).mean(0)
    assert found["ten_crop"]["probabilities"][0] == pytest.approx(mean.max().item(), rel=1e-4)
    assert found["ten_crop"]["probabilities"] != found["center"]["probabilities"]
