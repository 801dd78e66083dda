"""The packaged experiments: each says whose claim it is, compares what it says, and can be run."""

import re
from importlib.resources import files

import pytest
import torch
from pydantic import ValidationError

from cnnkit import canon
from cnnkit.errors import Misuse
from cnnkit.models import create
from cnnkit.reproduce.experiment import Arm, Experiment, experiment, experiments
from cnnkit.surgery.activations import ACTIVATIONS
from cnnkit.train.changing import change
from cnnkit.train.recipe import make
from cnnkit.weights.preprocessing import Preprocessing

ALL = experiments()
each = pytest.mark.parametrize("found", ALL.values(), ids=list(ALL))


@each
def test_every_arm_at_every_scale_is_a_recipe_whose_network_can_be_built(found: Experiment) -> None:
    assert {"tiny", "small", "full"} == set(found.scales)
    for size, scale in found.scales.items():
        assert set(scale.arms) <= set(found.arms)
        for arm in found.arms:
            recipe = make({**found.recipe(size, arm), **{n: v[0] for n, v in scale.tune.items()}}, arm)
            channels, side = (1, 28) if recipe.data in {"digits", "mnist"} else (3, recipe.image_size or 32)
            to = Preprocessing(
                size=(side, side),
                mean=(0.0,) * channels,
                std=(1.0,) * channels,
                channels="L" if channels == 1 else "RGB",
            )
            with torch.device("meta"):
                built = create(
                    str(recipe.model), num_classes=10, in_channels=channels, **recipe.arguments or {}
                )
                change(built, recipe, to, None)


@each
def test_claims_are_about_arms_and_measures_that_there_are(found: Experiment) -> None:
    assert found.claims
    for claim in found.claims:
        assert {claim.less, claim.more} <= set(found.arms)
        assert claim.less != claim.more
        assert claim.measure in found.measures
    for measure in found.measures.values():
        if measure.kind == "epochs_to":
            assert (measure.level is None) == (measure.level_of in found.arms)
        assert (measure.kind == "score") == (measure.figure is not None)
        assert measure.figure in {None, "miou", "boundary_f1"}
    for arm in found.arms.values():
        assert set(arm.paper) <= set(found.measures)
    tuned = [scale for scale in found.scales.values() if scale.tune]
    assert all(len(scale.tune) == 1 for scale in tuned)
    first = found.measures[found.claims[0].measure]
    assert not tuned or (first.level_of is None and first.kind != "score")  # the least of it is chosen


@each
def test_arms_differ_in_what_is_compared_and_in_nothing_else(found: Experiment) -> None:
    for size, scale in found.scales.items():
        first, *others = found.arms
        for other in others:
            one, two = found.recipe(size, first), found.recipe(size, other)
            differ = {name for name in {*one, *two} if one.get(name) != two.get(name)}
            own = [found.arms[a].settings | scale.arms.get(a, {}) for a in (first, other)]
            assert differ <= {name.partition(".")[0] for settings in own for name in settings}
            assert differ


@each
def test_the_paper_its_place_and_the_differences_are_told_and_no_figure_is_from_memory(
    found: Experiment,
) -> None:
    assert all(
        [found.paper.title, found.paper.authors, found.paper.venue, found.paper.where, found.paper.read]
    )
    assert all(scale.differences and scale.time for scale in found.scales.values())
    text = (files("cnnkit.reproduce") / "experiments" / f"{found.name}.toml").read_text("utf-8")
    assert "from memory" not in text
    assert "says nothing of the claim" in " ".join(found.scales["tiny"].differences)
    assert re.search(r"CIFAR-10|MNIST|ImageNet|CamVid", found.scales["small"].time)


def test_figures_of_residual_networks_are_those_of_the_canon() -> None:
    def of(name: str, figure: str) -> float:
        return float(canon.entry("classification/resnet", name).published[figure])

    deep = experiment("degradation").arms
    assert deep["resnet20"].paper["error"] == of("resnet20_cifar10", "test_err")
    assert deep["resnet56"].paper["error"] == of("resnet56_cifar10", "test_err")
    ways = experiment("shortcuts").arms
    assert ways["plain"].paper["error"] == of("plain34", "top1_err")
    assert ways["option_a"].paper["error"] == of("resnet34_a", "top1_err")


def test_figures_of_skips_are_those_of_the_released_networks() -> None:
    for arm in experiment("skips").arms.values():
        published = canon.entry("segmentation/fcn", arm.settings["model"]).published
        assert arm.paper == {"miou": published["voc2011_seg11valid_mIoU_release"]}


def parameters(found: Experiment, size: str, arm: str) -> int:
    recipe = make(found.recipe(size, arm), arm)  # type: ignore[arg-type]
    with torch.device("meta"):
        network = create(str(recipe.model), num_classes=10, **recipe.arguments or {})
    return sum(p.numel() for p in network.parameters())


def test_deep_and_wide_have_as_many_weights() -> None:
    found = experiment("depth_width")
    deep, wide = (parameters(found, "small", arm) for arm in ("deep", "wide"))
    assert abs(deep - wide) < 0.03 * deep
    told = found.scales["full"].differences[1]
    for family, arm in (("preresnet", "deep"), ("wideresnet", "wide")):
        count = canon.entry(f"classification/{family}", found.recipe("full", arm)["model"]).params
        assert count is not None
        assert f"{count.value / 1e6:.1f}" in told


def test_a_plain_network_has_the_weights_of_the_residual_one() -> None:
    found = experiment("degradation")
    for depth in (20, 56):
        assert parameters(found, "full", f"plain{depth}") == parameters(found, "full", f"resnet{depth}")


def test_the_full_scale_starts_from_the_recipe_of_its_paper() -> None:
    settings = experiment("depth_width").recipe("full", "deep")
    assert settings["schedule"]["gamma"] == 0.2
    assert settings["model"] == "preresnet1001_cifar10"
    assert settings["arguments"] == {}


def test_an_experiment_that_is_not_there_is_answered_with_its_nearest() -> None:
    with pytest.raises(Misuse, match="relu_tanh"):
        experiment("relu_tan")


def test_a_key_that_is_not_known_is_refused() -> None:
    from pydantic import TypeAdapter

    with pytest.raises(ValidationError, match="setting"):
        TypeAdapter(Arm).validate_python({"about": "an arm", "setting": {}})


def test_activations_of_recipes_are_those_that_can_be_put_in() -> None:
    for kind in ACTIVATIONS:
        assert make({"activation": kind}, "test").activation == kind
    with pytest.raises(Misuse, match="activation"):
        make({"activation": "softmax"}, "test")
