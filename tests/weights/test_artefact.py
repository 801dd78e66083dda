"""An artefact holds all that is needed to predict, and a hostile file runs nothing."""

import json
import math
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cnnkit.errors import Failure
from cnnkit.models import create
from cnnkit.weights import artefact, files
from cnnkit.weights.artefact import Card
from cnnkit.weights.preprocessing import Preprocessing

CARD = Card(
    model="lenet5_relu",
    task="classify",
    classes=["ant", "bee", "wasp"],
    preprocessing=Preprocessing((28, 28), "pad", mean=(0.1,), std=(0.3,), channels="L"),
    arguments={"num_classes": 3, "in_channels": 1},
    recipe={"lr": 0.1},
    metrics={"val/accuracy": 0.5},
    provenance={"data": "insects"},
    licence="CC0-1.0",
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    artefact.save(tmp_path / "a.safetensors", create("lenet5_relu", **CARD.arguments).state_dict(), CARD)
    return tmp_path / "a.safetensors"


def forged(path: Path, document: Any, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """An artefact with any document."""
    tensors = weights or create("lenet5_relu", **CARD.arguments).state_dict()
    save_file(tensors, path, metadata={"cnnkit": json.dumps(document)})
    return path


def document(**changes: Any) -> dict[str, Any]:
    return json.loads(artefact._card.dump_json(CARD)) | changes


def test_what_was_saved_comes_back(saved: Path) -> None:
    torch.manual_seed(0)
    original = create("lenet5_relu", **CARD.arguments).eval()
    model, card = artefact.load(saved)
    assert card == CARD
    assert not model.training
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(images), original(images))


def test_the_same_weights_give_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    model, card = artefact.load(saved)
    for i in range(4):
        artefact.save(tmp_path / f"{i}.safetensors", model.state_dict(), card)
        assert (tmp_path / f"{i}.safetensors").read_bytes() == saved.read_bytes()


def test_reading_the_card_needs_no_weights(saved: Path) -> None:
    assert artefact.read_card(saved) == CARD


def test_metrics_of_a_part_are_added(saved: Path) -> None:
    found = artefact.with_metrics(CARD, "test", {"accuracy": 0.25})
    assert found.metrics == {"val/accuracy": 0.5, "test/accuracy": 0.25}


def test_a_metric_that_is_no_number_is_left_out(saved: Path, tmp_path: Path) -> None:
    model, card = artefact.load(saved)
    found = artefact.with_metrics(card, "val", {"accuracy": 0.25, "loss": math.nan, "error": math.inf})
    artefact.save(tmp_path / "again.safetensors", model.state_dict(), found)
    assert artefact.read_card(tmp_path / "again.safetensors").metrics["val/accuracy"] == 0.25


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("exploded").touch, ())


def test_a_pickle_that_runs_code_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.safetensors").write_bytes(pickle.dumps(Bomb()))
    torch.save({"weights": Bomb()}, "evil.pt")
    for name in ("evil.safetensors", "evil.pt"):
        with pytest.raises(Failure, match="damaged or no safetensors file"):
            artefact.load(Path(name))
    assert not Path("exploded").exists()


@pytest.mark.parametrize("claimed", [0, 10, 2**20, 2**63])
def test_a_lying_header_is_refused(saved: Path, claimed: int) -> None:
    saved.write_bytes(struct.pack("<Q", claimed) + saved.read_bytes()[8:])
    with pytest.raises(Failure, match="damaged or no safetensors file"):
        artefact.load(saved)


def test_offsets_outside_the_file_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1600]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    with pytest.raises(Failure, match="damaged"):
        artefact.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, keep: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(Failure, match="damaged"):
        artefact.load(saved)


def test_a_newer_document_is_refused(tmp_path: Path) -> None:
    path = forged(tmp_path / "new.safetensors", document(schema=99, unheard_of=True))
    with pytest.raises(Failure, match="document version 99 and this cnnkit reads up to 2; upgrade"):
        artefact.load(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "lenet6"}, "no model 'lenet6'; did you mean"),
        ({"classes": "abc"}, "classes"),
        ({"preprocessing": {"size": [28, 28], "channels": "XYZ"}}, "preprocessing"),
        ({"preprocessing": {"size": [28, 28], "mean": [0], "std": [1], "channels": "L", "x": 1}}, "x: "),
        (
            {"preprocessing": {"size": [28, 28], "normalisation": "zca", "whitening": [[1]]}},
            "the whitening does not fit",
        ),
        ({"surprise": 1}, "surprise"),
        ({"surgery": [{"change": "unheard of"}]}, "no change .unheard of.; there are add_batch_norm"),
        ({"arguments": {"num_classes": 3, "colour": 1}}, "cannot be built with"),
        ({"arguments": {"num_classes": 10**12}}, "does not fit"),
        ({"arguments": {"num_classes": 4}}, "does not fit lenet5_relu"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Failure, match=reason):
        artefact.load(forged(tmp_path / "x.safetensors", document(**changes)))


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "null"])
def test_a_document_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"cnnkit": text})
    with pytest.raises(Failure, match="document"):
        artefact.load(tmp_path / "x.safetensors")


def test_weights_without_a_document_are_no_artefact(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(Failure, match="was not written by cnnkit"):
        artefact.load(tmp_path / "x.safetensors")


def test_missing_strange_and_misshapen_entries_are_named(tmp_path: Path) -> None:
    weights = create("lenet5_relu", **CARD.arguments).state_dict()
    weights["extra"] = torch.zeros(1)
    del weights["head.5.bias"]
    weights["stages.0.0.bias"] = torch.zeros(7)
    with pytest.raises(Failure) as caught:
        artefact.load(forged(tmp_path / "x.safetensors", document(), weights))
    for part in (
        "head.5.bias is missing",
        "extra is not part of it",
        "stages.0.0.bias is (7,) instead of (6,)",
    ):
        assert part in str(caught.value)


def test_an_older_document_without_new_fields_is_read(tmp_path: Path) -> None:
    old = {k: v for k, v in document().items() if k not in {"licence", "surgery", "metrics"}}
    assert artefact.read_card(forged(tmp_path / "x.safetensors", old)) == replace(
        CARD, licence=None, metrics={}
    )


def test_a_document_of_version_1_is_read(tmp_path: Path) -> None:
    old = document(schema=1)
    del old["preprocessing"]["normalisation"]
    _, card = artefact.load(forged(tmp_path / "x.safetensors", old))
    assert card == replace(CARD, schema=1)


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def write() -> None:
        with files.atomic(path) as scratch:
            scratch.write_text("half of what")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
