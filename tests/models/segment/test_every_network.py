"""What every registered segmentation network must satisfy. A new network is tested by being registered.

Counts and shapes are checked of all of them on the meta device; what costs time, of one of each kind, narrow.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit import canon
from cnnkit.models import create, spec, specs
from cnnkit.registry import Spec
from cnnkit.verify import checks
from cnnkit.verify.definition import Definition
from cnnkit.verify.oracles import ORACLES
from cnnkit.verify.segmentation import DEFINED, SEGMENTATION
from tests.models.test_every_network import Activations

ALL = list(specs(task="segment"))
#: One network of each kind, by what it is built narrow with.
KINDS: dict[str, dict[str, Any]] = {
    "fcn8s_at_once_vgg16": {},
    "fcn32s_alexnet": {},
    "fcn_resnet50": {},
    "fcn_squeezenet1_0": {},
    "segnet": {},
    "segnet_basic": {},
    "bayesian_segnet_camvid": {},
    "unet": {},
    "unet_release_phseg_v5": {},
    "unet_padded_bn": {},
    "deeplab_v1_largefov_vgg16": {},
    "deeplab_v1_4x4_vgg16": {},
    "deeplab_v2_aspp_vgg16": {},
    "deeplab_v2_aspp_resnet101": {"width": 1 / 16},
    "deeplabv3_resnet50": {"width": 1 / 16},
    "dilation8_voc": {"width": 1 / 16},
    "dilation10_cityscapes": {"width": 1 / 16},
    "deconvnet": {"width": 1 / 16},
    "fcn8s_crf_rnn": {},
    "co_cnn_iccv2015": {},
    "decouplednet": {"width": 1 / 16, "num_classes": 3},
    "sdn_m3": {"width": 1 / 16},
}
#: Those whose graph takes long to trace.
LONG = {
    *("co_cnn_iccv2015", "deeplab_v2_aspp_resnet101", "sdn_m3", "decouplednet", "fcn8s_crf_rnn"),
    *("deeplabv3_resnet50", "bayesian_segnet_camvid", "unet_release_phseg_v5", "dilation10_cityscapes"),
}
each_kind = pytest.mark.parametrize("name", KINDS)
families = sorted({row.canon for row in ALL})


def narrow(name: str, **overrides: Any) -> nn.Module:
    """The network with five classes, an eighth as wide unless its row says otherwise; always the same."""
    torch.manual_seed(0)
    return create(name, **{"num_classes": 5, "width": 1 / 8, **KINDS[name], **overrides})


def images_of(name: str, network: nn.Module) -> Tensor:
    """Two random images of a small size that the network takes, odd ones where it may."""
    channels, *_ = canon.entry(spec(name).canon, name).input
    smallest, step = max(network.smallest_image, 17), getattr(network, "image_step", 1)
    sides = (smallest + 2 * step, smallest + 1) if step == 1 else (smallest + step, smallest)
    return torch.randn(2, channels, *sides, generator=torch.Generator().manual_seed(0))


def labels_of(logits: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, logits.shape[1], (len(logits), *logits.shape[2:]), generator=draw)


@pytest.mark.parametrize("family", [f for f in canon.families() if f.startswith("segmentation/")])
def test_the_canon_and_the_registry_name_the_same_networks(family: str) -> None:
    registered = {row.name for row in ALL if row.canon == family}
    assert registered == {entry.name for entry in canon.entries(family)}


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_parameters_macs_and_shapes_are_those_of_the_canon(row: Spec) -> None:
    findings = list(checks.cheap(row))
    assert [f"{f.check}: {f.evidence}" for f in findings if f.status == "failed"] == []
    assert [f.check for f in findings if f.status == "passed"][:1] == ["parameters"]


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        (row["name"], row["params_with_frozen"])
        for family in families
        for row in canon.facts(family)["variant"]
        if "params_with_frozen" in row and row["name"] != "fcn8s_at_once_vgg16"
    ],
)
def test_with_the_frozen_upsampling_it_has_the_numbers_that_the_authors_store(name: str, whole: int) -> None:
    with torch.device("meta"):
        network = create(name)
    assert sum(p.numel() for p in network.parameters()) == whole
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("upscore" in n for n in frozen)


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name in DEFINED if not name.startswith("dilation8_voc")])
def test_narrow_it_computes_what_the_authors_definition_says(name: str) -> None:
    oracle = SEGMENTATION[name]
    width = 1 / 8 if oracle.size < 64 else 1 / 32
    draw = torch.Generator().manual_seed(0)
    theirs, ours = Definition(name, width).double().eval(), create(name, width=width, **oracle.ours)
    checks.randomise(theirs, draw)
    checks.carry_over(theirs.state_dict(), ours.double().eval())
    images = torch.randn(1, 3, oracle.size, oracle.size, dtype=torch.float64, generator=draw)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)


@pytest.mark.reference
@pytest.mark.parametrize(
    "name", ["segnet_basic", "fcn_resnet50", pytest.param("deeplabv3_resnet50", marks=pytest.mark.slow)]
)
def test_the_same_weights_give_the_outputs_and_gradients_of_an_independent_implementation(name: str) -> None:
    finding = checks.same_outputs(spec(name))
    assert finding.status == "passed", finding.evidence


def test_every_oracle_is_of_a_registered_network() -> None:
    assert set(SEGMENTATION) <= {row.name for row in ALL}
    assert set(SEGMENTATION) <= set(ORACLES)


@each_kind
def test_classes_and_channels_are_arguments(name: str) -> None:
    channels, height, width = canon.entry(spec(name).canon, name).input
    with torch.device("meta"):
        network = create(name, num_classes=7, in_channels=channels + 1).eval()
        logits = network(torch.empty(2, channels + 1, height, width))
    margin = getattr(network, "margin", 0)
    assert logits.shape == (2, 7, height - 2 * margin, width - 2 * margin)


@each_kind
def test_an_image_is_seen_the_same_alone_and_in_a_batch(name: str) -> None:
    network = narrow(name).double().eval()
    checks.randomise(network, torch.Generator().manual_seed(0))
    images = images_of(name, network).double()
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]))


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_one_step_of_training_changes_it_and_stays_finite(name: str, dtype: torch.dtype) -> None:
    network = narrow(name).train().to(dtype)
    images = images_of(name, network).to(dtype)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learned, lr=0.01)
    before = [p.detach().clone() for p in learned]
    logits = network(images)
    margin = getattr(network, "margin", 0)
    assert logits.shape[2:] == tuple(side - 2 * margin for side in images.shape[2:])
    loss = functional.cross_entropy(logits.float(), labels_of(logits))
    loss.backward()
    optimiser.step()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in learned)
    assert any(not torch.equal(a, b) for a, b in zip(before, learned, strict=True))


@each_kind
def test_every_parameter_receives_a_gradient_and_each_activation_is_a_module_of_its_own(name: str) -> None:
    network, runs = narrow(name), []
    checks.randomise(network, torch.Generator().manual_seed(0))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    images = images_of(name, network).requires_grad_()
    with torch.no_grad():
        network.train()(images)  # the statistics of these images, as if it had been trained
    network.eval()
    if name == "decouplednet":
        network.threshold = 0.0  # every class is looked for
    activations = [m for m in network.modules() if isinstance(m, nn.ReLU)]
    for module in activations:
        module.register_full_backward_hook(lambda m, _, grads: (runs.append(m), (grads[0].clamp(min=-1),))[1])
    with Activations() as counter:
        logits = network(images)
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    learned = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    assert [n for n, p in learned if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert counter.in_place == 0
    assert set(map(id, runs)) == set(map(id, activations))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in KINDS]
)
def test_torch_export_gives_the_same_outputs(name: str) -> None:
    network = narrow(name).eval()
    images = images_of(name, network)
    exported = torch.export.export(network, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network(images))


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("unet", (572, 570), "sides of 188 and every 16 pixels more (204, 220, ...), got 572 x 570"),
        ("unet", (172, 172), "got 172 x 172"),
        ("unet_padded_bn", (15, 40), "sides of 16 or more, got 15 x 40"),
        ("deconvnet", (223, 300), "sides of 224 or more, got 223 x 300"),
        ("decouplednet", (300, 100), "sides of 224 or more, got 300 x 100"),
        ("dilation8_voc", (372, 500), "sides of 373 or more, got 372 x 500"),
    ],
)
def test_a_size_that_is_not_taken_is_named_with_those_that_are(
    name: str, size: tuple[int, int], said: str
) -> None:
    with torch.device("meta"):
        network = create(name)
        images = torch.empty(1, canon.entry(spec(name).canon, name).input[0], *size)
        with pytest.raises(ValueError, match="takes images with") as raised:
            network(images)
    assert said in str(raised.value)
