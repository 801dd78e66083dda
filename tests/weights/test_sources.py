"""Weights of others: recognised, carried over with the same logits, or refused with what did not fit."""

import hashlib
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import cnnkit.weights
from cnnkit.data.pictures import fit, to_tensor
from cnnkit.errors import Failure, Misuse
from cnnkit.models import create
from cnnkit.weights import published
from cnnkit.weights.artefact import Card, save
from cnnkit.weights.definitions import TIMM, TORCHVISION, Definition, dense_layers, shortcuts_last
from cnnkit.weights.preprocessing import Preprocessing
from cnnkit.weights.sources import load


def random(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every entry drawn anew, statistics of batch norm too."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, entry in network.state_dict().items():
            if entry.ndim > 1:
                nn.init.kaiming_normal_(entry, generator=draw)
            elif entry.is_floating_point():
                entry.uniform_(0.5, 1.5, generator=draw) if "var" in name else entry.normal_(
                    0, 0.2, generator=draw
                )
    return network.eval()


def theirs(definition: Definition, **kwargs: Any) -> nn.Module:
    library = torchvision.models.get_model if definition.library == "torchvision" else timm_model
    return random(library(definition.name, **definition.kwargs, **kwargs))


def timm_model(name: str, **kwargs: Any) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, **kwargs)


@torch.no_grad()
def differ(ours: nn.Module, other: nn.Module, side: int = 64) -> float:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = ours.double().eval()(images), other.double().eval()(images)
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "resnet18", "mobilenet_v2"])
def test_a_state_dict_of_torchvision_is_recognised_and_gives_the_same_logits(
    name: str, tmp_path: Path
) -> None:
    network = theirs(TORCHVISION[name])
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert found.name == name
    assert found.provenance["origin"] == f"torchvision {name}"
    assert found.classes is not None
    assert found.classes[281:283] == ["tabby", "tiger cat"]
    assert differ(found.model, network) < 1e-9


@torch.no_grad()
def test_a_network_of_torchvision_that_labels_pixels_comes_with_its_classes_and_scale(tmp_path: Path) -> None:
    """Its published files have an auxiliary head, which training alone uses."""
    network = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert (found.name, found.card.task) == ("fcn_resnet50", "segment")
    assert found.card.classes[:2] == ["__background__", "aeroplane"]
    assert found.card.preprocessing == Preprocessing((520, 520), keep=1.0)
    images = torch.randn(1, 3, 65, 64)
    torch.testing.assert_close(found.model(images), network.eval()(images)["out"])


@pytest.mark.reference
@pytest.mark.parametrize("name", ["preresnet50", "mobilenet_v2_0_5", "xception"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_of_timm_is_recognised_and_gives_the_same_logits(
    name: str, suffix: str, tmp_path: Path
) -> None:
    """safetensors sort entries by name, so their order must come from the definition."""
    network = theirs(TIMM[name])
    if scale := TIMM[name].not_negative:
        network.get_parameter(scale).data.abs_()
    path = tmp_path / f"w{suffix}"
    torch.save(network.state_dict(), path) if suffix == ".pth" else save_file(network.state_dict(), path)
    found = load(path, name)
    assert found.provenance["origin"] == f"timm {TIMM[name].name}"
    assert differ(found.model, network) < 1e-9


@pytest.mark.reference
def test_a_network_that_pools_before_its_first_norm_is_refused_where_that_matters(tmp_path: Path) -> None:
    """Pooling and a norm of negative scale do not commute: the same weights would give other logits."""
    network = theirs(TIMM["preresnet50"])
    torch.save(network.state_dict(), tmp_path / "w.pth")
    negative = int((network.get_parameter(TIMM["preresnet50"].not_negative) < 0).sum())
    assert negative > 0
    with pytest.raises(Failure, match=rf"norm1\.weight is negative in {negative} places"):
        load(tmp_path / "w.pth", "preresnet50")


@pytest.mark.reference
def test_what_timm_prepares_its_images_with_comes_along(tmp_path: Path) -> None:
    save_file(theirs(TIMM["xception"]).state_dict(), tmp_path / "w.safetensors")
    to = load(tmp_path / "w.safetensors", "xception").preprocessing
    expected = Preprocessing(
        (299, 299), keep=0.8975, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert to == expected


def test_what_torchvision_prepares_its_images_with_equals_its_own_transforms() -> None:
    """By torchvision's own arithmetic on one picture, and its network's where that brings a part of it."""
    picture = torchvision.transforms.functional.to_pil_image(torch.rand(3, 256, 256))
    for name in ("resnet50", "inception_v3"):
        definition = TORCHVISION[name]
        to = published.record(definition).preprocessing
        how = torchvision.models.get_model_weights(definition.name).DEFAULT.transforms()
        expected = how(picture)
        if name == "inception_v3":
            expected = torchvision.models.inception_v3(
                weights=None, init_weights=False, transform_input=True
            )._transform_input(expected[None])[0]
        ours = to.normalise(to_tensor(fit(picture, to), to)[None])[0]
        assert float((ours - expected).abs().max()) < 0.05  # a rounding of bytes at the scaled size


def test_the_version_of_a_published_file_is_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "renamed.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    assert "IMAGENET1K_V2" in load(path, "mobilenet_v2").provenance["preprocessing"]
    monkeypatch.setattr(published, "_hash_of", lambda url: digest(path)[:8] if "b0353104" in url else "x")
    found = load(path, "mobilenet_v2")
    assert "IMAGENET1K_V1" in found.provenance["preprocessing"]
    assert found.preprocessing == Preprocessing((224, 224), keep=224 / 256)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_other_classes_wrappers_and_prefixes_are_understood(tmp_path: Path) -> None:
    network = theirs(TORCHVISION["squeezenet1_1"], num_classes=7)
    entries = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": entries}, tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert found.arguments == {"num_classes": 7, "in_channels": 3}
    assert found.classes is None
    assert found.card.classes[6] == "class 6"
    assert differ(found.model, network) < 1e-9


def test_old_spellings_and_missing_counters_of_published_densenets_are_understood(tmp_path: Path) -> None:
    network = theirs(TORCHVISION["densenet121"])
    entries = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in network.state_dict().items()
        if "num_batches" not in name
    }
    assert any("denselayer1.norm.1.weight" in name for name in entries)
    torch.save(entries, tmp_path / "w.pth")
    assert differ(load(tmp_path / "w.pth", "densenet121").model, network) < 1e-9


def test_auxiliary_heads_that_only_training_uses_are_left_out(tmp_path: Path) -> None:
    with_heads = random(
        torchvision.models.googlenet(aux_logits=True, init_weights=False, transform_input=False)
    )
    torch.save(with_heads.state_dict(), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth", "googlenet_bn")
    assert differ(found.model, with_heads, 97) < 1e-9
    assert found.preprocessing is not None
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.reference
def test_entries_that_two_networks_share_are_not_guessed(tmp_path: Path) -> None:
    torch.save(timm_model("tf_efficientnet_b0").state_dict(), tmp_path / "w.pth")
    with pytest.raises(Failure, match=r"and of tf_efficientnet_b0, which pads otherwise; name the weights"):
        load(tmp_path / "w.pth")


def test_what_does_not_fit_is_said_entry_by_entry(tmp_path: Path) -> None:
    entries = torchvision.models.resnet18().state_dict()
    path = tmp_path / "w.pth"

    def said(change: Callable[[dict[str, Tensor]], object]) -> str:
        changed = dict(entries)
        change(changed)
        torch.save(changed, path)
        with pytest.raises(Failure) as refused:
            load(path, "resnet18")
        return str(refused.value)

    told = said(lambda e: e.update({"layer1.0.conv1.weight": torch.zeros(64, 64, 5, 5)}))
    assert told.endswith(
        "does not fit resnet18: layer1.0.conv1.weight is (64, 64, 5, 5) instead of (64, 64, 3, 3)"
    )
    assert said(lambda e: e.pop("fc.bias")).endswith("does not fit resnet18: fc.bias is missing")
    assert said(lambda e: e.update(extra=torch.zeros(1))).endswith("resnet18: extra is not part of it")
    torch.save(entries, path)
    with pytest.raises(
        Failure, match=r"does not fit resnet34: layer1\.2\.conv1\.weight is missing; .*77 more"
    ):
        load(path, "resnet34")
    with pytest.raises(Failure, match=r"\(conv1\.weight, .*fit lenet5_relu neither by name nor by order"):
        load(path, "lenet5_relu")


def test_entries_of_no_known_network_are_refused_and_a_name_is_asked_for(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(Failure, match=r"\(a, \.\.\.\) are those of no known network; try --model"):
        load(tmp_path / "w.pth")


def test_unknown_names_are_carried_over_by_order_but_cannot_predict(tmp_path: Path) -> None:
    ours = random(create("lenet5_relu"))
    entries = {f"x{i}": value for i, value in enumerate(ours.state_dict().values())}
    torch.save(entries, tmp_path / "w.pth")
    found = load(tmp_path / "w.pth", "lenet5_relu")
    assert all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), entries.values(), strict=True)
    )
    assert found.preprocessing is None
    with pytest.raises(Failure, match="does not tell how images become its input"):
        _ = found.card
    save_file(entries, tmp_path / "w.safetensors")  # these keep no order
    with pytest.raises(Failure, match="neither by name nor by order"):
        load(tmp_path / "w.safetensors", "lenet5_relu")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path("exploded").touch, ())


def test_a_file_that_carries_code_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Evil(), {"state_dict": Evil()}):
        torch.save(content, "w.pth")
        with pytest.raises(Failure, match=r"w\.pth is damaged or not safe to load"):
            load("w.pth", "resnet18")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".net"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    with pytest.raises(Failure, match="there is no file"):
        load(path)
    path.write_bytes(b"\x80\x02nonsense" * 9)
    with pytest.raises(Failure, match=r"damaged|ends within"):
        load(path)


def test_an_artefact_comes_back_with_its_document_and_no_other_name(tmp_path: Path) -> None:
    card = Card(
        model="lenet5_relu",
        task="classify",
        classes=["a", "b"],
        preprocessing=Preprocessing((28, 28), mean=(0.1,), std=(0.3,), channels="L"),
        arguments={"num_classes": 2, "in_channels": 1},
        licence="CC0-1.0",
    )
    save(tmp_path / "best.safetensors", create("lenet5_relu", **card.arguments).state_dict(), card)
    for source in (tmp_path, tmp_path / "best.safetensors"):
        found = cnnkit.weights.load(source)
        assert (found.card, found.licence, found.arguments) == (card, "CC0-1.0", card.arguments)
    with pytest.raises(Misuse, match="holds weights of lenet5_relu, not of resnet18"):
        load(tmp_path, "resnet18")


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    sentence = (
        r"torchvision resnet18 IMAGENET1K_V1 is not in the cache and could not be downloaded from https.*"
    )
    with pytest.raises(Failure, match=sentence + r"no route to host.*; with no network, give a file"):
        load("torchvision", "resnet18")


@pytest.mark.reference
def test_no_network_is_one_sentence_for_timm_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")

    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(Failure, match=r"timm resnet50\.a1_in1k is not in the cache .* \(ConnectionError\)"):
        load("timm:resnet50.a1_in1k")


def test_without_timm_its_weights_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(Failure, match="weights of timm need timm; install it with: pip install timm"):
        load("timm:a1_in1k", "resnet50")


def test_a_download_is_kept_checked_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = theirs(TORCHVISION["squeezenet1_1"])
    torch.save(network.state_dict(), tmp_path / "w.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "torch.hub.download_url_to_file",
        lambda url, to, *_, **__: Path(to).write_bytes((tmp_path / "w.pth").read_bytes()),
    )
    with pytest.raises(
        Failure, match=r"is not what torchvision squeezenet1_1 .* published \(its hash differs\)"
    ):
        load("torchvision", "squeezenet1_1")
    monkeypatch.setattr(published, "_hash_of", lambda url: digest(tmp_path / "w.pth")[:8])
    found = load("torchvision:IMAGENET1K_V1", "squeezenet1_1")
    assert found.licence == published.NO_LICENCE
    assert found.provenance["sha256"] == digest(tmp_path / "w.pth")
    assert found.provenance["source"] == "torchvision:IMAGENET1K_V1"
    assert differ(found.model, network) < 1e-9


@pytest.mark.parametrize(
    ("source", "model", "sentence"),
    [
        ("torchvision", None, "has many networks; name one with --model"),
        ("torchvision:V9", "resnet18", "no weights of resnet18 'V9'; there are DEFAULT"),
        ("torchvision", "lenet5", "torchvision has no weights that fit lenet5"),
        ("torchvision", "resnt18", "no model 'resnt18'; did you mean"),
    ],
)
def test_a_wrong_name_is_a_misuse(source: str, model: str | None, sentence: str) -> None:
    with pytest.raises(Misuse, match=sentence):
        load(source, model)


@pytest.mark.parametrize("name", sorted(TORCHVISION.keys() | TIMM.keys()))
def test_every_row_fits_one_of_our_networks_entry_by_entry(name: str) -> None:
    with torch.device("meta"):
        ours = [tuple(x.shape) for x in create(name).state_dict().values()]
        for row in (TORCHVISION.get(name), TIMM.get(name)):
            if row is not None:
                if row.library == "timm":
                    pytest.importorskip("timm")
                assert [tuple(x.shape) for x in row.reorder(row.build().state_dict()).values()] == ours


def test_what_is_reordered_and_reshaped() -> None:
    names = ["stages.0.blocks.0.downsample.conv.weight", "stages.0.blocks.0.conv1.weight", "head.fc.weight"]
    entries = {name: torch.zeros(2, 3, 1, 1) for name in names}
    found = shortcuts_last(entries)
    assert list(found) == [names[1], names[0], names[2]]
    assert found["head.fc.weight"].shape == (2, 3)
    dense = {"pre_logits.fc1.weight": torch.zeros(4, 2, 7, 7), "pre_logits.fc1.bias": torch.zeros(4)}
    assert [tuple(x.shape) for x in dense_layers(dense).values()] == [(4, 98), (4,)]
