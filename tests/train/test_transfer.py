"""Starting from weights: what is new, what stays and what learns slowly, and that a run goes on with them."""

import tomllib
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from cnnkit.errors import Misuse
from cnnkit.models import create, specs
from cnnkit.surgery import freeze, replace_head
from cnnkit.surgery.head import frozen_norms
from cnnkit.tasks import load
from cnnkit.tasks.classify import Classify
from cnnkit.train.directory import Directory
from cnnkit.train.fit import fit
from cnnkit.train.module import Training, parameter_groups, slowed
from cnnkit.train.recipe import Recipe
from cnnkit.train.transfer import carry
from cnnkit.weights import load as load_weights
from cnnkit.weights.artefact import Card, read_card, save
from cnnkit.weights.preprocessing import Preprocessing

from ..conftest import MakeFolder

FOLDER = {"red": 12, "green": 12}
HEAD = "head.2"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network with batch norm, for five classes, that reads BGR."""
    torch.manual_seed(5)
    card = Card(
        model="resnet20_cifar10",
        task="classify",
        classes=list("abcde"),
        preprocessing=Preprocessing((24, 24), mean=(0.2, 0.3, 0.4), std=(0.3, 0.3, 0.3), channels="BGR"),
        arguments={"num_classes": 5, "in_channels": 3, "width": 0.25},
        provenance={"data": "letters"},
        licence="CC0-1.0",
    )
    network = create(card.model, **card.arguments)
    path = tmp_path_factory.mktemp("source") / "letters.safetensors"
    save(path, network.state_dict(), card)
    return path


def entries(run: Directory) -> dict[str, Tensor]:
    return load(run.best).model.state_dict()


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {n for n in before if n.split(".")[-1] != "num_batches_tracked" and not same(before, after, n)}


def same(before: dict[str, Tensor], after: dict[str, Tensor], name: str) -> bool:
    return before[name].shape == after[name].shape and torch.equal(before[name], after[name])


def test_a_frozen_network_learns_in_its_head_alone_and_its_statistics_stay(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(
        make_folder(FOLDER),
        weights=str(source),
        freeze="features",
        epochs=2,
        output=tmp_path / "run",
        console=silent,
    )
    assert moved(load(source).model.state_dict(), entries(run)) == {"head.2.weight", "head.2.bias"}
    before, after = load(source).model.state_dict(), entries(run)
    assert all(same(before, after, name) for name in before if not name.startswith(HEAD)), "counters too"


def test_the_first_stages_alone_can_be_frozen(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(
        make_folder(FOLDER),
        weights=str(source),
        freeze="2",
        epochs=1,
        output=tmp_path / "run",
        console=silent,
    )
    found = {
        name.split(".")[0] + name.split(".")[1]
        for name in moved(load(source).model.state_dict(), entries(run))
    }
    assert found == {"stages2", "head2"}


def test_the_rest_learns_more_slowly_than_the_head_and_its_norms_move(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(make_folder(FOLDER), weights=str(source), epochs=1, output=tmp_path / "run", console=silent)
    assert "stages.0.0.0.branch.0.1.running_mean" in moved(load(source).model.state_dict(), entries(run))
    groups = run.load_checkpoint()["optimizer_states"][0]["param_groups"]
    assert [round(g["initial_lr"], 6) for g in groups] == [0.003, 0.003, 0.0003, 0.0003]
    assert [len(g["params"]) for g in groups][:2] == [1, 1]


def test_slow_groups_hold_each_parameter_once_and_keep_their_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    rates = {id(p): 0.25 for p in network[0].parameters()} | {id(p): 0.5 for p in network[1].parameters()}
    groups = slowed(parameter_groups(network, 0.1), rates, 2.0)
    assert [(len(g["params"]), g["weight_decay"], g.get("lr")) for g in groups] == [
        (1, 0.1, None),
        (1, 0.0, None),
        (2, 0.0, 1.0),
        (1, 0.1, 0.5),
        (1, 0.0, 0.5),
    ]


def test_the_artefact_loads_with_nothing_else_and_names_where_it_comes_from(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER)
    run = fit(root, weights=str(source), epochs=1, output=tmp_path / "run", console=silent)
    card = read_card(run.best)
    assert (card.model, card.classes, card.licence) == ("resnet20_cifar10", ["green", "red"], "CC0-1.0")
    assert card.arguments == {"num_classes": 2, "in_channels": 3, "width": 0.25}
    assert card.provenance["weights"] == {"source": str(source), "data": "letters"}
    assert card.preprocessing == read_card(source).preprocessing
    assert len(load(run.path).predict(root / "red" / "0.png").classes) == 2


def test_a_size_that_is_asked_for_wins_over_that_of_the_weights(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    run = fit(
        make_folder(FOLDER),
        weights=str(source),
        image_size=32,
        epochs=1,
        output=tmp_path / "r",
        console=silent,
    )
    to = read_card(run.best).preprocessing
    assert (to.size, to.channels, to.mean) == ((32, 32), "BGR", (0.2, 0.3, 0.4))


@pytest.mark.parametrize("freezing", [{}, {"freeze": "1"}])
def test_resuming_equals_the_uninterrupted_run_without_the_source(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console, freezing: dict[str, str]
) -> None:
    root = make_folder(FOLDER)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(source.read_bytes())
    settings = {"weights": str(copy), "schedule": "constant", **freezing}
    whole = fit(root, epochs=3, output=tmp_path / "whole", console=silent, **settings)
    fit(root, epochs=1, output=tmp_path / "parts", console=silent, **settings)
    copy.unlink()
    parts = fit(resume=True, epochs=3, output=tmp_path / "parts", console=silent)
    states = [run.load_checkpoint()["state_dict"] for run in (whole, parts)]
    assert moved(*states) == set()
    assert "stages.2.0.0.branch.0.0.weight" in moved(
        {f"{n}": v for n, v in load(source).model.state_dict().items()}, entries(parts)
    )
    assert read_card(parts.best).licence == "CC0-1.0"


def test_resuming_before_the_first_epoch_reads_the_source_again(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(FOLDER)
    settings = {"weights": str(source), "schedule": "constant"}
    whole = fit(root, epochs=1, output=tmp_path / "whole", console=silent, **settings)
    killed = fit(root, epochs=1, output=tmp_path / "killed", console=silent, **settings)
    for path in (killed.last, killed.best):
        path.unlink()
    again = fit(resume=True, output=tmp_path / "killed", console=silent)
    assert moved(entries(whole), entries(again)) == set()


def test_the_same_classes_keep_the_head(
    make_folder: MakeFolder, source: Path, tmp_path: Path, silent: Console
) -> None:
    root = make_folder(dict.fromkeys("abcde", 6))
    run = fit(root, weights=str(source), epochs=1, output=tmp_path / "run", console=silent)
    assert run.config["transfer"]["head"] == ""
    other = fit(
        make_folder(FOLDER, name="others"),
        weights=str(source),
        epochs=1,
        output=tmp_path / "o",
        console=silent,
    )
    assert tomllib.loads((other.path / "config.toml").read_text())["transfer"]["head"] == HEAD


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"freeze": "features", "model": "lenet5"}, "--freeze is about weights that are carried over; give"),
        ({"backbone_factor": 0.5, "model": "lenet5"}, "--backbone-factor is about weights"),
        ({"freeze": "7"}, "--freeze: freeze must be 'features' or a number of stages from 1 to 3 of ResNet"),
        ({"freeze": "head"}, "got 'head'"),
        ({"model": "resnet18"}, "holds weights of resnet20_cifar10, not of resnet18"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    make_folder: MakeFolder,
    source: Path,
    tmp_path: Path,
    silent: Console,
    settings: dict[str, object],
    sentence: str,
) -> None:
    given = settings if settings.get("model") == "lenet5" else {"weights": str(source), **settings}
    with pytest.raises(Misuse, match=sentence):
        fit(make_folder(FOLDER), output=tmp_path / "run", console=silent, **given)
    assert not (tmp_path / "run").exists()


#: Their logits are made by something else than a dense layer or a convolution.
WITHOUT_HEAD = {"lenet5", "neocognitron"}


@pytest.mark.parametrize("name", sorted(s.name for s in specs(task="classify") if s.name not in WITHOUT_HEAD))
def test_a_new_head_makes_the_network_that_would_have_been_built(name: str) -> None:
    with torch.device("meta"):
        network, expected = create(name), create(name, num_classes=7)
        replace_head(network, 7)
    found = {n: tuple(t.shape) for n, t in network.state_dict().items()}
    assert found == {n: tuple(t.shape) for n, t in expected.state_dict().items()}


def test_a_network_without_such_a_layer_cannot_start_from_other_classes(
    tmp_path: Path, silent: Console
) -> None:
    torch.save(create("lenet5").state_dict(), tmp_path / "w.pth")
    loaded = load_weights(tmp_path / "w.pth", "lenet5")
    with pytest.raises(Misuse, match=r"carried over to 3 classes: its logits are made by more than"):
        carry(loaded, "w.pth", ["a", "b", "c"])


def test_frozen_norms_stay_in_evaluation_mode_whatever_is_asked() -> None:
    network = create("resnet20_cifar10", width=0.25)
    freeze(network, 1)
    frozen = frozen_norms(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert 0 < len(frozen) < len(norms)
    training = Training(
        network, Classify(["a", "b"]), Preprocessing((24, 24)), Recipe(layout="channels_first")
    )
    training.eval()
    training.train()
    assert [m.training for m in norms] == [m not in frozen for m in norms]
    assert network.training
