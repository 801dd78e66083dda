"""Normalisation comes and goes as one change, and an artefact makes the change again."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cnnkit.errors import Failure
from cnnkit.layers import ResponseNorm
from cnnkit.models import create
from cnnkit.surgery.changes import replay
from cnnkit.surgery.norms import (
    add_batch_norm,
    add_response_norm,
    first_activations,
    remove_batch_norm,
    remove_response_norm,
)
from cnnkit.surgery.stochastic_depth import Survival, stochastic_depth
from cnnkit.weights.artefact import Card, load, save
from cnnkit.weights.preprocessing import Preprocessing


def test_vgg_with_batch_norm_is_torchvisions_form_of_it() -> None:
    torch.manual_seed(0)
    theirs = create("vgg11_bn", width=0.125, num_classes=4).eval()
    ours = add_batch_norm(create("vgg11", width=0.125, num_classes=4)).eval()
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


def test_the_layer_that_makes_the_logits_is_not_normalised() -> None:
    network = add_batch_norm(create("squeezenet1_1", width=0.25))
    assert "head.1.weight" in network.state_dict()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 25  # the first convolution and three in each of eight fire modules


@pytest.mark.parametrize("name", ["resnet20_cifar10", "preresnet110_cifar10", "mobilenet_v2", "vgg11_bn"])
def test_without_batch_norm_every_convolution_has_a_bias_that_learns(name: str) -> None:
    network = remove_batch_norm(create(name, width=0.25))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    network.train()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            assert module.bias.grad is not None


def test_response_norm_stands_where_alexnet_has_it() -> None:
    torch.manual_seed(0)
    theirs = create("alexnet_one_tower", width=0.0625).eval()
    bare = remove_response_norm(create("alexnet_one_tower", width=0.0625))
    assert not any(isinstance(m, ResponseNorm) for m in bare.modules())
    assert first_activations(bare) == ["stages.0.1", "stages.1.2"]
    ours = add_response_norm(bare, first_activations(bare)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = 50 * torch.randn(2, 3, 67, 67)
    torch.testing.assert_close(ours(images), theirs(images))
    remove_response_norm(ours)
    assert not torch.allclose(ours(images), theirs(images))


def test_what_cannot_be_added_or_removed_is_refused() -> None:
    resnet, vgg = create("resnet20_cifar10", width=0.25), create("vgg11_lrn", width=0.125)
    with pytest.raises(ValueError, match="ResNet has batch norm already"):
        add_batch_norm(resnet)
    with pytest.raises(ValueError, match="VGG has no batch norm"):
        remove_batch_norm(vgg)
    with pytest.raises(ValueError, match="ResNet has no response normalisation"):
        remove_response_norm(resnet)
    with pytest.raises(ValueError, match="VGG has response normalisation already"):
        add_response_norm(vgg, ["stages.0.0.1"])
    with pytest.raises(ValueError, match="ResNet has no module 'x'"):
        add_response_norm(resnet, ["x"])


CHANGED = {
    "lenet5_relu": [{"change": "add_batch_norm"}],
    "squeezenet1_1": [
        {"change": "add_batch_norm"},
        {"change": "add_response_norm", "after": ["stages.0.1"]},
    ],
    "resnet20_cifar10": [{"change": "stochastic_depth", "survival": 0.8}, {"change": "remove_batch_norm"}],
    "alexnet_two_tower": [{"change": "remove_response_norm"}],
}


def card(name: str, changes: list[dict[str, object]]) -> Card:
    to = Preprocessing((67, 67))
    width = {} if name.startswith("lenet") else {"width": 0.25}
    arguments = {"num_classes": 2, "in_channels": 3, **width}
    return Card(
        model=name,
        task="classify",
        classes=["a", "b"],
        preprocessing=to,
        arguments=arguments,
        surgery=changes,
    )


@pytest.mark.parametrize("name", CHANGED)
def test_an_artefact_gives_back_the_changed_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    document = card(name, CHANGED[name])
    network = replay(create(name, **document.arguments), document.surgery).train()
    images = torch.randn(4, 3, *((28, 28) if name.startswith("lenet") else (67, 67)))
    network(images)  # so that batch norms have seen something
    save(tmp_path / "a.safetensors", network.state_dict(), document)
    loaded, read = load(tmp_path / "a.safetensors")
    assert read.surgery == document.surgery
    assert torch.equal(loaded(images), network.eval()(images))
    plain = create(name, **document.arguments).eval()
    if plain.state_dict().keys() == network.state_dict().keys():
        plain.load_state_dict(network.state_dict())
        assert not torch.allclose(plain(images), network(images))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"change": "add_batchnorm"}, "no change 'add_batchnorm'; did you mean add_batch_norm"),
        (
            {"change": "stochastic_depth", "share": 1},
            r"stochastic_depth: .*got an unexpected keyword argument",
        ),
        ({"change": "add_response_norm", "after": ["nowhere"]}, "has no module 'nowhere'"),
        ({"change": "stochastic_depth", "survival": "x"}, "stochastic_depth: .*not supported between"),
        ({"survival": 0.5}, "no change 'None'"),
    ],
)
def test_a_document_with_a_change_that_cannot_be_made_is_a_failure(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    document = card("resnet20_cifar10", [change])
    save(tmp_path / "a.safetensors", create(document.model, **document.arguments).state_dict(), document)
    with pytest.raises(Failure, match=sentence):
        load(tmp_path / "a.safetensors")


RESIDUAL = {  # registry name -> residual units, of which there are
    "resnet50": 16,
    "resnet18_a": 8,
    "wide_resnet50_2": 16,
    "preresnet110_cifar10": 54,
    "mobilenet_v2": 10,
    "efficientnet_b0": 9,
    "squeezenet1_0_simple_bypass": 4,
    "squeezenet1_0_complex_bypass": 8,
    "inception_resnet_v1": 20,
    "inception_resnet_v2": 40,
    "xception": 12,
    "shufflenet_v1_g3_1x": 13,
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_residual_network_can_have_stochastic_depth(name: str) -> None:
    with torch.device("meta"):
        network = create(name)
        names = [n.replace(".branch.branch.", ".branch.") for n in network.state_dict()]
        stochastic_depth(network, 0.5)
        found = [m for m in network.modules() if isinstance(m, Survival)]
        assert len(found) == RESIDUAL[name]
        assert [n.replace(".branch.branch.", ".branch.") for n in network.state_dict()] == names
        for survival in found:
            survival.p = 0.0
        side = max(getattr(network, "smallest_image", 299), 96)
        logits = network.train()(torch.empty(2, 3, side, side))
        assert (logits if isinstance(logits, torch.Tensor) else logits.logits).shape[0] == 2


@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "vgg11", "googlenet", "densenet121"])
def test_a_network_without_sums_has_no_residual_unit(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="has no residual unit"):
        stochastic_depth(create(name))
