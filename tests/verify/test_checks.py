"""The checks themselves: each must fail on what is wrong, and never pass on what could not be checked."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import nn

from cnnkit import canon
from cnnkit.models.classify.resnet import Basic, Bottleneck, CifarStem, ResNet, option_a
from cnnkit.registry import Spec, spec
from cnnkit.verify import checks
from cnnkit.verify.finding import Finding, reached
from cnnkit.verify.meta import MAC_COUNTERS, SameShape, on_meta
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.oracles import ORACLES


def built(name: str, factory: Callable[..., nn.Module], **kwargs: Any) -> Spec:
    """A network that claims to be the one of that name."""
    return replace(spec(name), factory=factory, kwargs=kwargs)


def cheap(suspect: Spec) -> dict[str, Finding]:
    return {finding.check: finding for finding in checks.cheap(suspect)}


def test_a_true_network_passes_and_its_findings_are_json() -> None:
    true = spec("resnet20_cifar10")
    findings = [*checks.cheap(true), checks.same_outputs(true)]
    assert [(f.rung, f.check, f.status) for f in findings] == [
        (1, "parameters", "passed"),
        (1, "macs", "passed"),
        (2, "shapes", "passed"),
        (3, "same outputs", "passed"),
    ]
    assert reached(findings) == 3
    assert json.loads(json.dumps([asdict(f) for f in findings]))[0]["evidence"].startswith("269,722 counted")


def test_one_channel_more_fails_on_parameters_and_macs_but_not_on_shapes() -> None:
    wide = built("resnet20_cifar10", ResNet, **{**spec("resnet20_cifar10").kwargs, "stem_channels": 17})
    findings = cheap(wide)
    assert {name: f.status for name, f in findings.items()} == {
        "parameters": "failed",
        "macs": "failed",
        "shapes": "passed",
    }
    assert "not the canon's 269,722" in findings["parameters"].evidence
    assert reached(list(findings.values())) == 0


class Shifted(ResNet):
    """States other strides than it has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_strides = (2, 4, 8)


class Short(ResNet):
    """States fewer channels than it has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_channels = self.feature_channels[:2]


class Headless(ResNet):
    """Has one class too few."""

    def __init__(self, *, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes=num_classes - 1, **kwargs)


@pytest.mark.parametrize(
    ("factory", "fault"),
    [(Shifted, "8 more pixels than (4, 4) add"), (Short, "features have"), (Headless, "gives (2, 9)")],
)
def test_shapes_that_are_not_the_stated_ones_fail(factory: Callable[..., nn.Module], fault: str) -> None:
    found = cheap(built("resnet20_cifar10", factory, **spec("resnet20_cifar10").kwargs))["shapes"]
    assert found.status == "failed"
    assert fault in found.evidence


def test_an_unknown_figure_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    known = canon.entry("classification/resnet", "resnet20_cifar10")
    monkeypatch.setattr(canon, "entry", lambda *_: replace(known, params=None, macs=None))
    findings = cheap(spec("resnet20_cifar10"))
    assert findings["parameters"].status == findings["macs"].status == "not run"
    assert not findings["macs"].is_evidence


def test_a_figure_of_our_own_passes_and_is_no_evidence() -> None:
    findings = cheap(spec("resnet18_c"))
    assert findings["parameters"].status == "passed"
    assert findings["parameters"].by == "ours"
    assert not findings["parameters"].is_evidence


def test_two_counters_that_share_no_code_are_asked() -> None:
    found = cheap(spec("resnet20_cifar10"))["macs"]
    assert "counted, by torch's flop counter and cnnkit inspect, equal to" in found.evidence


@pytest.mark.parametrize("name", ["resnet20_cifar10", "mobilenet_v2", "efficientnet_b0", "highway19_cifar10"])
def test_answers_by_shape_are_those_of_the_meta_device(name: str) -> None:
    network = on_meta(spec(name))
    images = torch.empty(2, 3, 64, 96, device="meta")
    with torch.no_grad():
        expected = [x.shape for x in network.features(images)]
        with SameShape():
            assert [x.shape for x in network.features(images)] == expected


def test_a_norm_of_other_channels_than_arrive_is_not_answered() -> None:
    wrong = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5)).to("meta").eval()
    with torch.no_grad(), SameShape(), pytest.raises(RuntimeError, match="4 elements not 5"):
        wrong(torch.empty(1, 3, 8, 8, device="meta"))


def test_counters_that_disagree_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAC_COUNTERS, "another", lambda network, images: 1)
    found = cheap(spec("resnet20_cifar10"))["macs"]
    assert found.status == "failed"
    assert "the counters disagree: 40,551,040" in found.evidence


def test_the_stride_in_the_wrong_convolution_passes_the_counts_and_fails_on_outputs() -> None:
    wrong = built("resnet50", ResNet, branch=Bottleneck(stride_in="1x1"), depths=(3, 4, 6, 3))
    assert cheap(wrong)["parameters"].status == "passed"
    found = checks.same_outputs(wrong)
    assert found.status == "failed"
    assert found.by.startswith("torchvision")


def test_half_of_the_scales_are_negative_and_none_is_near_zero() -> None:
    norm = nn.BatchNorm2d(1000)
    checks.randomise(norm, torch.Generator().manual_seed(0))
    scales = norm.weight.detach()
    assert 400 < int((scales < 0).sum()) < 600
    assert scales.abs().min() >= 0.5
    assert scales.abs().max() <= 1.5
    assert norm.running_var is not None
    assert norm.running_var.min() >= 0.5


@pytest.mark.reference
def test_a_norm_behind_a_pooling_is_not_the_same_as_one_before_it() -> None:
    """timm's pre-activation networks pool first, which shows where a scale is negative."""
    true = ORACLES["preresnet50"]
    assert [change.__name__ for change in true.changes] == ["activated_stem"]
    assert checks.same_outputs(spec("preresnet50")).status == "passed"
    found = checks.same_outputs(spec("preresnet50"), {"preresnet50": replace(true, changes=())})
    assert found.status == "failed"
    assert found.by.endswith("resnetv2_50")


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "change"), [("shufflenet_v1_g3_0_25x", "reorder"), ("shufflenet_v1_g3_0_25x", "changes")]
)
def test_kernels_that_are_not_renumbered_and_maps_stacked_otherwise_fail(name: str, change: str) -> None:
    true = ORACLES[name]
    wrong = replace(true, reorder=dict) if change == "reorder" else replace(true, changes=())
    assert checks.same_outputs(spec(name)).status == "passed"
    assert checks.same_outputs(spec(name), {name: wrong}).status == "failed"


def test_a_finding_says_what_the_other_network_was_built_with_and_what_was_changed() -> None:
    def turned(network: nn.Module) -> nn.Module:
        return network

    oracle = Oracle("timm", "resnetv2_50", {"layers": (1, 1), "flag": False}, changes=(turned,))
    assert oracle.title == "resnetv2_50(layers=(1, 1)), turned"


def test_weights_that_do_not_fit_fail() -> None:
    other = {"resnet20_cifar10": Oracle("torchvision", "resnet18")}
    found = checks.same_outputs(spec("resnet20_cifar10"), other)
    assert found.status == "failed"
    assert "the weights do not fit: the other state dict has 122 entries" in found.evidence
    narrow = built("resnet20_cifar10", ResNet, **{**spec("resnet20_cifar10").kwargs, "stem_channels": 17})
    assert "size mismatch" in checks.same_outputs(narrow).evidence


def test_a_missing_library_is_not_run() -> None:
    def absent() -> nn.Module:
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    found = checks.same_outputs(spec("resnet18"), {"resnet18": Oracle("timm", "resnet18", make=absent)})
    assert found.status == "not run"
    assert "timm is not installed" in found.evidence
    assert checks.same_outputs(spec("highway19_cifar10"), {}).status == "not run"


class Lost(nn.Module):
    """Gives no number at all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) * torch.nan


def test_outputs_that_are_no_numbers_fail() -> None:
    true = ORACLES["resnet20_cifar10"]
    found = checks.same_outputs(
        spec("resnet20_cifar10"), {"resnet20_cifar10": replace(true, make=lambda: Lost(true.build()))}
    )
    assert found.status == "failed"


def test_the_arguments_that_ours_was_built_with_are_told() -> None:
    layout = dict(branch=Basic(), depths=(3, 3, 3), stem=CifarStem, stem_channels=16, channels=16)
    plain = built("resnet20_cifar10", ResNet, **layout, shortcut=None, num_classes=10)
    true = ORACLES["resnet20_cifar10"]
    found = checks.same_outputs(plain, {"resnet20_cifar10": replace(true, ours={"shortcut": option_a})})
    assert found.status == "passed"
    assert "ours built with shortcut=option_a" in found.evidence
