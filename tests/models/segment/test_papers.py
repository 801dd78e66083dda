"""What the segmentation networks say of themselves, checked in numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import WithAux
from cnnkit.models import create
from cnnkit.models.segment import deconvnet, dilation, fcn, segnet
from cnnkit.models.segment.crf_rnn import BILATERAL, SPATIAL
from cnnkit.models.segment.trunks import WithClasses, start_from
from cnnkit.ops.crf import dense_crf
from cnnkit.ops.superpixels import patch_means, spread, superpixels
from cnnkit.verify.checks import randomise


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random(name: str, **arguments: Any) -> Any:
    """The network in evaluation mode and double precision, with every weight redrawn."""
    network = create(name, **arguments).double().eval()
    randomise(network, torch.Generator().manual_seed(1))
    return network


@contextmanager
def heights(network: nn.Module, *kinds: type[nn.Module]) -> Iterator[list[int]]:
    """How high the maps are that modules of some kinds make."""
    seen: list[int] = []

    def note(_module: nn.Module, _given: Any, made: Any) -> None:
        seen.append((made if isinstance(made, Tensor) else made[0]).shape[2])

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, kinds)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("name", "size", "kinds", "expected"),
    [
        (
            "fcn8s_vgg16",
            (500, 500),
            (nn.MaxPool2d, nn.ConvTranspose2d),
            [349, 175, 88, 44, 22, 34, 70, 568],
        ),
        ("fcn32s_vgg16", (500, 500), (nn.ConvTranspose2d,), [544]),
        ("fcn16s_vgg16", (500, 500), (nn.ConvTranspose2d,), [34, 560]),
        ("fcn32s_alexnet", (500, 500), (nn.MaxPool2d, nn.ConvTranspose2d), [86, 43, 21, 543]),
        (
            "segnet",
            (360, 480),
            (nn.MaxPool2d, nn.MaxUnpool2d),
            [180, 90, 45, 23, 12, 23, 45, 90, 180, 360],
        ),
        (
            "deconvnet",
            (224, 224),
            (nn.MaxPool2d, nn.MaxUnpool2d),
            [112, 56, 28, 14, 7, 14, 28, 56, 112, 224],
        ),
        (
            "unet",
            (572, 572),
            (nn.MaxPool2d, nn.ConvTranspose2d),
            [284, 140, 68, 32, 56, 104, 200, 392],
        ),
        ("deeplab_v1_largefov_vgg16", (321, 321), (nn.MaxPool2d,), [161, 81, 41, 41, 41]),
    ],
)
def test_maps_have_the_sizes_of_the_authors_definitions(
    name: str, size: tuple[int, int], kinds: tuple[type[nn.Module], ...], expected: list[int]
) -> None:
    with torch.device("meta"):
        network = create(name).eval()
        with heights(network, *kinds) as seen:
            network(torch.empty(1, 1 if name == "unet" else 3, *size))
    assert seen == expected


def test_the_front_end_has_the_sizes_of_the_deploy_definition() -> None:
    with torch.device("meta"):
        network = create("dilation8_voc").eval()
        with heights(network, nn.Conv2d) as seen:
            network(torch.empty(1, 3, 900, 900))
    assert seen[9] == 102
    assert seen[12:16] == [90, 66, 66, 66]
    assert seen[16:] == [130, 128, 124, 116, 100, 68, 66, 66]


@pytest.mark.parametrize("name", ["fcn8s_vgg16", "fcn32s_alexnet"])
def test_an_fcn_labels_images_of_every_size_from_one_pixel_on(name: str) -> None:
    with torch.device("meta"):
        network = create(name, width=1 / 16).eval()
        for side in range(1, 34):  # the poolings round alike for sides that differ by 32
            assert network(torch.empty(1, 3, side, 35 - side)).shape == (1, 21, side, 35 - side)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8), (64, 32), (63, 32)])
def test_frozen_upsampling_is_interpolation(kernel: int, stride: int) -> None:
    """A ramp stays a ramp away from the border, and maps do not mix."""
    up = fcn.Bilinear(2, kernel, stride).double()
    ramp = torch.arange(6, dtype=torch.float64).expand(6, 6)
    made = up(torch.stack([ramp, torch.ones_like(ramp)])[None])[0]
    inside = slice(kernel, -kernel)
    steps = made[0, inside, inside].diff(dim=1)
    torch.testing.assert_close(steps, torch.full_like(steps, 1 / stride))
    torch.testing.assert_close(made[1, inside, inside], torch.ones_like(made[1, inside, inside]))
    assert not any(p.requires_grad for p in up.parameters())


def test_upsampling_learns_where_it_is_told_to() -> None:
    with torch.device("meta"):
        learned, frozen = create("fcn8s_vgg16", learned=True), create("fcn8s_vgg16")
    assert sum(p.numel() for p in learned.parameters() if p.requires_grad) == 134_489_759
    assert sum(p.numel() for p in frozen.parameters() if p.requires_grad) == 134_362_751


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_unpooling_puts_the_maxima_back_where_they_were(size: tuple[int, int]) -> None:
    x = seeded(2, 3, *size).abs()
    pooled, switches = segnet.pooling()(x)
    back = nn.MaxUnpool2d(2)(pooled, switches, output_size=x.shape[2:])
    there = back != 0
    assert int(there.sum()) == pooled.numel()
    assert torch.equal(back[there], x[there])
    torch.testing.assert_close(functional.max_pool2d(back, 2, ceil_mode=True), pooled)


@pytest.mark.parametrize(("name", "side"), [("segnet", 35), ("deconvnet", 229)])
def test_a_decoder_unpools_with_the_switches_of_its_own_encoder(name: str, side: int) -> None:
    network = random(name, width=1 / 32)
    taken: list[tuple[Tensor, Tensor]] = []
    made: list[Tensor] = []
    for pool in network.pools:
        pool.register_forward_hook(lambda _m, given, out: taken.append((given[0], out[1])))
    for unpool in network.unpools:
        unpool.register_forward_hook(lambda _m, _given, out: made.append(out))
    with torch.no_grad():
        network(seeded(1, 3, side, side + 2))
    for (map_, switches), sparse in zip(reversed(taken), made, strict=True):
        assert sparse.shape == map_.shape
        allowed = torch.zeros_like(sparse).flatten(2).scatter(2, switches.flatten(2), 1.0)
        assert not sparse.flatten(2)[allowed == 0].any()
        assert sparse.any()


@pytest.mark.parametrize("module", [dilation.basic(3), dilation.large(3)], ids=["basic", "large"])
def test_a_context_module_starts_as_the_identity_but_for_small_noise(module: dilation.ContextModule) -> None:
    scores = seeded(1, 3, 40, 40).abs().float()
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data[layer.weight.abs() < 0.009 * 3] = 0.0  # the noise: shares are 1/32 and more
    with torch.no_grad():
        found = module(scores)
    inside = slice(3, -3)
    error = (found - scores)[..., inside, inside].abs().mean()
    assert error < 0.2 * scores.mean()
    assert found.shape == scores.shape


def test_the_basic_context_module_sees_67_pixels_across() -> None:
    module = dilation.basic(1)
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    image = torch.zeros(1, 1, 101, 101, requires_grad=True)
    module(image)[0, 0, 50, 50].backward()
    seen = image.grad[0, 0].nonzero()
    assert seen.amin(0).tolist() == [50 - 33] * 2
    assert seen.amax(0).tolist() == [50 + 33] * 2


def test_a_tile_is_labelled_as_in_the_whole_image() -> None:
    """U-Net pads nothing, so that a tile that lies on the grid of its poolings has all that it needs."""
    network = random("unet", width=1 / 16)
    image = seeded(1, 1, 268, 284)
    with torch.no_grad():
        whole, tile = network(image), network(image[:, :, 32 : 32 + 204, 64 : 64 + 188])
    torch.testing.assert_close(tile, whole[:, :, 32 : 32 + 20, 64 : 64 + 4])


@torch.no_grad()
def test_unet_is_its_figure_step_by_step() -> None:
    """Fig. 1: what is copied comes first, cropped by 4, 16, 40 and 88 on each side."""
    network, image = random("unet", width=1 / 32), seeded(2, 1, 188, 204)
    parts = iter(p for _, p in network.named_parameters())

    def twice(x: Tensor) -> Tensor:
        for _ in range(2):
            x = functional.conv2d(x, next(parts), next(parts)).relu()
        return x

    copied = [x := twice(image)]
    for _ in range(4):
        copied.append(x := twice(functional.max_pool2d(x, 2)))
    copied.pop()
    for border in (4, 16, 40, 88):
        risen = functional.conv_transpose2d(x, next(parts), next(parts), stride=2)
        kept = copied.pop()[:, :, border:-border, border:-border]
        x = twice(torch.cat([kept, risen], dim=1))
    torch.testing.assert_close(network(image), functional.conv2d(x, next(parts), next(parts)))


@torch.no_grad()
def test_padded_unet_pads_what_an_odd_map_has_lost_behind_it() -> None:
    network = random("unet_padded_bn", width=1 / 32)
    seen: list[Tensor] = []
    network.ups[3].convolutions.register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    network.ups[3].up.register_forward_hook(lambda _m, _given, made: seen.append(made))
    network.downs[0].register_forward_hook(lambda _m, _given, made: seen.append(made))
    assert network(seeded(1, 3, 33, 35)).shape == (1, 2, 33, 35)
    copied, risen, joined = seen
    assert risen.shape[2:] == (32, 34)
    assert torch.equal(joined[:, :2], copied)
    assert torch.equal(joined[:, 2:, :32, :34], risen)
    assert not joined[:, 2:, 32:].any()


def test_the_released_unet_rectifies_its_up_convolutions_and_keeps_128_maps_in_the_last() -> None:
    paper, release = create("unet", width=1 / 16), create("unet_release_phseg_v5", width=1 / 16)
    assert [len(level.up) for level in paper.ups] == [1] * 4
    assert [type(level.up[-1]) for level in release.ups] == [nn.ReLU] * 4
    assert release.ups[3].convolutions[0].in_channels == 3 * paper.ups[3].up[0].out_channels


def test_pyramid_branches_are_added() -> None:
    network = random("deeplab_v2_aspp_vgg16", width=1 / 16)
    images = seeded(1, 3, 33, 33)
    with torch.no_grad():
        x = network.trunk(images)
        total = sum(branch(x) for branch in network.branches)
        expected = functional.interpolate(total, (33, 33), mode="bilinear", align_corners=True)
        torch.testing.assert_close(network(images), expected)
    assert [branch[1].dilation[0] for branch in network.branches] == [6, 12, 18, 24]


@pytest.mark.reference
def test_the_auxiliary_head_is_torchvisions_and_speaks_in_training_only() -> None:
    models = pytest.importorskip("torchvision.models.segmentation")
    theirs = models.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True, num_classes=4)
    ours = create("fcn_resnet50", aux=True, num_classes=4)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 33, 41, generator=torch.Generator().manual_seed(0))
    theirs.eval(), ours.eval()
    assert isinstance(ours(images), Tensor)
    ours.training = True  # the network alone: dropout and statistics stay as they are
    with torch.no_grad():
        said, expected = ours(images), theirs(images)
    assert isinstance(said, WithAux)
    torch.testing.assert_close(said.logits, expected["out"])
    torch.testing.assert_close(said.aux[0], expected["aux"])


def test_dropout_goes_on_when_bayesian_segnet_is_sampled_and_stops_after_it() -> None:
    network = create("bayesian_segnet_camvid", width=1 / 16).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = segnet.sampled(network, images, samples=3)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(1, 32, 32))
    assert found.variance.mean() > 0
    assert not any(m.training for m in network.modules())
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == 6
    certain = segnet.sampled(create("segnet", width=1 / 16).eval(), images)
    assert not certain.variance.any()
    with pytest.raises(ValueError, match="samples must be at least 2 to have a variance, got 1"):
        segnet.sampled(network, images, samples=1)


def test_the_recurrent_rounds_are_a_dense_crf_while_labels_do_not_mix() -> None:
    network = create("fcn8s_crf_rnn", width=1 / 32, num_classes=3, levels=50.0).double().eval()
    logits, images = seeded(2, 3, 9, 11), seeded(2, 3, 9, 11)
    expected = dense_crf(logits, 50 * images, (SPATIAL, BILATERAL), iterations=10)
    torch.testing.assert_close(network.mean_field(logits, images), expected)
    trained = dense_crf(logits, 50 * images, (SPATIAL, BILATERAL), iterations=5)
    torch.testing.assert_close(network.mean_field.train()(logits, images), trained)


def test_the_recurrent_rounds_learn_with_the_network_that_scores() -> None:
    network = create("fcn8s_crf_rnn", width=1 / 32, num_classes=3)
    randomise(network, torch.Generator().manual_seed(0))
    network(torch.randn(1, 3, 20, 22)).square().sum().backward()
    for name in ("spatial", "bilateral", "compatibility"):
        assert network.mean_field.get_parameter(name).grad.abs().sum() > 0
    assert network.fcn.score.weight.grad.abs().sum() > 0


def decoupled() -> Any:
    return random("decouplednet", width=1 / 32, num_classes=4)


def test_bridging_layers_take_the_gradient_of_a_class_score_to_the_last_pooling() -> None:
    """With ReLUs and switches as gates and the weights transposed, g_c is that derivative."""
    classifier = decoupled().classifier
    state = classifier(seeded(2, 3, 256, 256))
    pooled = state["maps"][0].detach().requires_grad_()
    a7 = classifier.relus[1](classifier.fc7(classifier.relus[0](classifier.fc6(pooled))))
    scores = classifier.score(a7).amax((2, 3))
    chosen = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    (expected,) = torch.autograd.grad((scores * chosen).sum(), pooled)
    torch.testing.assert_close(classifier.back(state, chosen), expected)


@torch.no_grad()
def test_only_classes_that_the_image_has_are_looked_for() -> None:
    network, images = decoupled(), seeded(1, 3, 224, 224)
    scores = network.classify(images).sigmoid()[0]
    network.threshold = float(scores.sort().values[1:].mean())  # the likeliest class alone is above it
    (kept,) = (scores > network.threshold).nonzero()[0].tolist()
    passes: list[int] = []
    network.segmentation.register_forward_hook(lambda *_: passes.append(1))
    probabilities = network(images).exp()
    assert len(passes) == 2  # all together for the background, and one
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 224, 224, dtype=torch.float64))
    others = [place for place in (1, 2, 3) if place != kept + 1]
    assert float(probabilities[:, others].max()) < 1e-30
    assert float(probabilities[:, kept + 1].min()) > 0


def test_masks_train_the_segmentation_network_and_leave_the_classifier() -> None:
    network, images = decoupled().train(), seeded(2, 3, 224, 224)
    present = torch.eye(3, dtype=torch.float64)[:2]
    network.segment(images, present).square().sum().backward()
    assert all(p.grad is None for p in network.classifier.parameters())
    assert all(p.grad is not None for p in network.segmentation.parameters())


@pytest.mark.parametrize(
    ("name", "classes"), [("co_cnn_iccv2015", 5), ("decouplednet", 4)], ids=["co_cnn", "decouplednet"]
)
def test_classes_of_the_image_come_with_the_logits_in_training_where_asked(name: str, classes: int) -> None:
    network = create(name, width=1 / 32, num_classes=5, aux=True)
    images = torch.randn(2, 3, 224, 224) if name == "decouplednet" else torch.randn(2, 3, 31, 45)
    said = network.train()(images)
    assert isinstance(said, WithClasses)
    assert said.classes.shape == (2, classes)
    assert said.logits.shape == (2, 5, *images.shape[2:])
    assert isinstance(network.eval()(images), Tensor)


@torch.no_grad()
def test_a_superpixel_of_co_cnn_has_one_answer() -> None:
    network, images = random("co_cnn_iccv2015", width=1 / 16, num_classes=3), seeded(1, 3, 31, 45)
    probabilities = network(images).exp()
    patches = superpixels(images, network.context.step)
    torch.testing.assert_close(spread(patch_means(probabilities, patches), patches), probabilities)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 31, 45, dtype=torch.float64))


@torch.no_grad()
def test_co_cnn_adds_early_maps_to_coarse_ones_and_tells_every_scale_the_classes() -> None:
    network, images = random("co_cnn_iccv2015", width=1 / 16, num_classes=3), seeded(1, 3, 31, 45)
    early: list[Tensor] = []
    coarse: list[Tensor] = []
    told: list[Tensor] = []
    for down, lateral, up in zip(network.downs[:3], network.laterals, network.ups, strict=True):
        down.register_forward_hook(lambda _m, _given, made: early.append(made))
        lateral.register_forward_hook(lambda _m, _given, made: coarse.append(made))
        up.register_forward_pre_hook(lambda _m, given: told.append(given[0]))
    network.classes.register_forward_hook(lambda _m, _given, made: told.append(made))
    network(images)
    classes, *read = told
    for fine, rough, both in zip(reversed(early), coarse, read, strict=True):
        channels = fine.shape[1]
        enlarged = functional.interpolate(rough, fine.shape[2:], mode="bilinear")
        torch.testing.assert_close(both[:, :channels], fine + enlarged)
        torch.testing.assert_close(both[0, channels:, 0, 0], classes[0].sigmoid())


def test_every_scale_of_every_unit_of_sdn_is_supervised_in_training() -> None:
    network = create("sdn_m3", width=1 / 16, num_classes=4, aux=True)
    images = torch.randn(2, 3, 37, 65)
    said = network.train()(images)
    assert isinstance(said, WithAux)
    assert len(said.aux) == 3 * 3 - 1
    assert {tuple(logits.shape) for logits in (said.logits, *said.aux)} == {(2, 4, 37, 65)}
    assert isinstance(network.eval()(images), Tensor)
    assert len(create("sdn_m3", width=1 / 16, units=1).decoders) == 1


def classifier_of(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(3)
    return create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "classifier", "filled"),
    [
        ("fcn8s_vgg16", "vgg16", 15),
        ("fcn32s_alexnet", "alexnet_two_tower", 7),
        ("deconvnet", "vgg16", 15),
        ("segnet", "vgg16", 13),
        ("segnet", "vgg16_bn", 26),
        ("deeplab_v1_largefov_vgg16", "vgg16", 13),
        ("dilation8_voc", "vgg16", 15),
        ("fcn8s_crf_rnn", "vgg16", 15),
        ("decouplednet", "vgg16", 15),
        ("fcn_resnet50", "resnet50", 106),
        ("deeplab_v2_aspp_resnet101", "resnet101_v1", 208),
        ("fcn_squeezenet1_0", "squeezenet1_0", 25),
        ("unet", "vgg16", 0),
    ],
)
def test_a_trained_classifier_fills_the_trunk(name: str, classifier: str, filled: int) -> None:
    source = classifier_of(classifier, width=1 / 16)
    network = create(name, width=1 / 16)
    names = start_from(network, source)
    assert len(names) == filled
    sources = [m for m in source.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    targets = [network.get_submodule(n) for n in names]
    convolutions = [m for m in targets if isinstance(m, nn.Conv2d)]
    for ours, theirs in zip(convolutions, sources, strict=False):
        assert torch.equal(ours.weight.flatten(1), theirs.weight.flatten(1))


@torch.no_grad()
def test_a_filled_fcn_scores_a_window_as_the_classifier_does() -> None:
    """fc7 of a window of 7 x 7 at the last pooling, wherever it lies."""
    source, network = classifier_of("vgg16", width=1 / 16).eval(), create("fcn32s_vgg16", width=1 / 16).eval()
    start_from(network, source)
    pooled = torch.randn(1, 32, 9, 10)
    over = network.fc(pooled)
    one = source.head[2:-1](pooled[:, :, 1:8, 2:9])
    torch.testing.assert_close(over[:, :, 1, 2], one)


def test_the_classifiers_answers_stay_behind_and_others_weights_do_not_fit() -> None:
    source = classifier_of("vgg16", width=1 / 16, num_classes=21)
    network = create("fcn32s_vgg16", width=1 / 16, num_classes=21)
    assert "score" not in start_from(network, source)
    assert not network.score.weight.any()
    assert start_from(network, classifier_of("vgg16", width=1 / 8)) == []


@pytest.mark.parametrize("backbone", ["resnet18", "squeezenet1_1", "densenet121", "mobilenet_v1", "vgg11"])
def test_an_fcn_stands_on_any_classifier_that_has_maps(backbone: str) -> None:
    network = create("fcn_squeezenet1_0", backbone=backbone, width=1 / 8, num_classes=4).eval()
    assert network(torch.randn(1, 3, 41, 53)).shape == (1, 4, 41, 53)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (dict(backbone="resnet19"), LookupError, "did you mean"),
        (dict(backbone="fcn8s_vgg16"), ValueError, "fcn8s_vgg16 is no backbone"),
        (dict(backbone="lenet5"), ValueError, "lenet5 is no backbone"),
        (dict(finest=64), ValueError, "none at 64 or coarser"),
        (dict(backbone="googlenet", width=0.5), ValueError, "googlenet has no width to multiply by 0.5"),
    ],
)
def test_a_backbone_that_is_none_is_refused(
    arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said), torch.device("meta"):
        create("fcn_squeezenet1_0", **arguments)


def test_new_layers_of_deconvnet_start_small_and_its_norms_above_zero() -> None:
    network = create("deconvnet", width=1 / 8)
    transposed = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(transposed) == 1 + sum(map(len, deconvnet.DECODERS))
    for layer in transposed:
        assert 0.008 < float(layer.weight.detach().std()) < 0.012
        assert not layer.bias.any()
    assert {float(m.bias.detach()[0]) for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {
        float(torch.tensor(0.001))
    }
