"""A classifier that slides gives at every position what it gives on the crop there."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from tests.ops.agreement import assert_equal
from torch import Tensor, nn
from torch.nn import functional

import cnnkit
from cnnkit.layers import ResponseNorm
from cnnkit.surgery import convolutionalize


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def torchvisions(name: str, hidden: int = 16) -> nn.Module:
    """AlexNet or VGG-11 with random weights; the linear layers narrow, or they would fill the memory."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name)
    maps = 256 * 6 * 6 if name == "alexnet" else 512 * 7 * 7
    model.classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(maps, hidden), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 5)),
    )
    return model.double().eval()


def unpadded(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            module.padding = 0
    return model


@pytest.mark.parametrize(("name", "crop", "rows"), [("alexnet", 355, 2), ("vgg11", 342, 1)])
@torch.no_grad()
def test_without_padding_every_position_is_the_classifier_on_its_crop(
    name: str, crop: int, rows: int
) -> None:
    """The crop is so large that 6 x 6 or 7 x 7 maps are left; positions are 32 pixels apart."""
    model = unpadded(torchvisions(name))
    dense = convolutionalize(model, (3, crop, crop))
    assert dense.meta["stride"] == (32, 32)
    image = images(1, 3, crop + 32 * (rows - 1) + 5, crop + 32)
    scores = dense(image)
    assert scores.shape == (1, 5, rows, 2)
    assert scores.std(dim=(2, 3)).min() > 0
    for i in range(rows):
        for j in range(2):
            window = image[:, :, 32 * i : 32 * i + crop, 32 * j : 32 * j + crop]
            assert_equal(scores[:, :, i, j], model(window), 1e-10)


@pytest.mark.parametrize(("name", "window"), [("alexnet", 6), ("vgg11", 7)])
@torch.no_grad()
def test_with_padding_every_position_is_the_head_on_its_window_of_the_maps(name: str, window: int) -> None:
    model = torchvisions(name)
    dense = convolutionalize(model)
    crop = images(2, 3, 224, 224)
    assert_equal(dense(crop)[:, :, 0, 0], model(crop), 1e-10)
    image = images(1, 3, 256, 256)
    scores, maps = dense(image), model.features(image)
    assert scores.shape == (1, 5, maps.shape[2] - window + 1, maps.shape[3] - window + 1) == (1, 5, 2, 2)
    for i in range(2):
        for j in range(2):
            head = model.classifier(maps[:, :, i : i + window, j : j + window].flatten(1))
            assert_equal(scores[:, :, i, j], head, 1e-10)


class Global(nn.Module):
    """Unpadded, with branches of every kind that slides, and a global pooling that a parameter chooses."""

    def __init__(self, pooling: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), ResponseNorm(alpha=0.1), nn.ELU())
        self.left = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.SiLU())
        self.right = nn.Conv2d(6, 4, 1, stride=1)
        self.pool, self.pooling = nn.MaxPool2d(3, 2), pooling
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = self.left(x), self.right(x)
        x = self.pool(torch.cat([left + right, left * right], dim=1))
        x = functional.max_pool2d(x, 2)[:, :, ::2, ::1]
        return self.fc(self.pooling(functional.relu(x)))


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean that keeps its axes": lambda x: torch.mean(x, [-2, -1], keepdim=True).flatten(1),
    "adaptive average": lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "adaptive maximum": lambda x: torch.flatten(functional.adaptive_max_pool2d(x, (1, 1)), 1),
    "view": lambda x: functional.adaptive_avg_pool2d(x, 1).view(x.size(0), -1),
    "reshape": lambda x: functional.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], x.shape[1]),
}


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_global_pooling_slides_as_windows_of_the_maps_size(pooling: str) -> None:
    torch.manual_seed(0)
    model = Global(POOLINGS[pooling]).double().eval()
    dense = convolutionalize(model, (3, 51, 39))
    assert dense.meta["stride"] == (16, 8)
    image = images(2, 3, 51 + 32, 39 + 16)
    scores = dense(image)
    assert scores.shape == (2, 4, 3, 3)
    for i in range(3):
        for j in range(3):
            window = image[:, :, 16 * i : 16 * i + 51, 8 * j : 8 * j + 39]
            assert_equal(scores[:, :, i, j], model(window), 1e-10)


class Viewing(nn.Module):
    """Flattens by hand, as old code does, and has batch norm and softmax in its head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.fc, self.norm, self.out = nn.Linear(3 * 4 * 3, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x.view(x.size(0), x.size(1) * x.size(2) * x.size(3))
        return self.softmax(self.out(torch.tanh(self.norm(self.fc(x)))).flatten(1))


@torch.no_grad()
def test_a_view_batch_norm_and_softmax_in_the_head_slide_too() -> None:
    torch.manual_seed(0)
    model = Viewing().double()
    nn.init.uniform_(model.norm.running_mean)
    nn.init.uniform_(model.norm.weight)
    model.eval()
    dense = convolutionalize(model, (1, 5, 4))
    image = images(3, 1, 7, 6)
    scores = dense(image)
    assert scores.shape == (3, 4, 3, 3)
    for i in range(3):
        for j in range(3):
            assert_equal(scores[:, :, i, j], model(image[:, :, i : i + 5, j : j + 4]), 1e-10)


@torch.no_grad()
def test_a_last_pooling_of_the_whole_map_slides_by_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(2, 3)).double().eval()
    dense = convolutionalize(model, (1, 4, 4))
    assert dense.meta["stride"] == (1, 1)
    image = images(1, 1, 6, 5)
    assert dense(image).shape == (1, 3, 3, 2)
    assert_equal(dense(image)[:, :, 2, 1], model(image[:, :, 2:6, 1:5]), 1e-10)


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        *(("resnet18", 64), ("densenet121", 64), ("squeezenet1_0", 95), ("mobilenet_v2", 64)),
        *(("mnasnet0_5", 64), ("regnet_x_400mf", 64)),
    ],
)
@torch.no_grad()
def test_torchvisions_networks_are_themselves_on_a_crop(name: str, crop: int) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=7).double().eval()
    dense = convolutionalize(model, (3, crop, crop))
    image = images(2, 3, crop, crop)
    assert_equal(dense(image)[:, :, 0, 0], model(image), 1e-9)
    stride = dense.meta["stride"]
    larger = dense(images(1, 3, crop + stride[0], crop + 2 * stride[1]))
    assert larger.shape == (1, 7, 2, 3)


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        *(("alexnet", 224), ("alexnet_two_tower", 227), ("vgg16", 224), ("vgg11_lrn", 224)),
        *(("zfnet", 224), ("googlenet", 224), ("nin_imagenet", 224), ("resnet20_cifar10", 32)),
        *(
            ("inception_v3", 299),
            ("xception", 299),
            ("shufflenet_v1_g3_1x", 224),
            ("shufflenet_v2_x0_5", 224),
        ),
    ],
)
def test_our_networks_slide(name: str, crop: int) -> None:
    with torch.device("meta"):
        dense = convolutionalize(cnnkit.create(name).eval(), (3, crop, crop))
        assert dense(torch.empty(1, 3, crop, crop)).shape[2:] == (1, 1)
        down, across = dense.meta["stride"]
        assert dense(torch.empty(1, 3, crop + down, crop + 2 * across)).shape[2:] == (2, 3)


@torch.no_grad()
def test_maps_that_are_cut_along_the_channels_and_joined_again_slide() -> None:
    torch.manual_seed(0)
    model = Ends(
        lambda x: torch.cat([x.chunk(2, dim=1)[1], torch.split(x, 1, 1)[0]], 1),
        nn.Flatten(),
        nn.Linear(108, 2),
    )
    model = model.double().eval()
    dense, image = convolutionalize(model, (3, 8, 8)), images(1, 3, 10, 9)
    assert dense(image).shape == (1, 2, 3, 2)
    assert_equal(dense(image)[:, :, 2, 1], model(image[:, :, 2:10, 1:9]), 1e-10)


@torch.no_grad()
def test_lenet_slides_over_a_page() -> None:
    """Its first convolution pads: the positions are the head on windows of the maps."""
    torch.manual_seed(0)
    model = cnnkit.create("lenet5_relu").double().eval()
    dense = convolutionalize(model, (1, 28, 28))
    page = images(1, 1, 40, 36)
    scores, maps = dense(page), model.features(page)[-1]
    assert dense.meta["stride"] == (4, 4)
    assert scores.shape == (1, 10, 4, 3)
    assert_equal(scores[:, :, 3, 1], model.head(maps[:, :, 3:8, 1:6]), 1e-10)


def test_the_original_is_not_changed_and_names_are_kept() -> None:
    model = torchvisions("alexnet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dense = convolutionalize(model)
    assert model.training
    assert not dense.training
    assert isinstance(model.classifier[1], nn.Linear)
    assert list(dense.state_dict()) == list(before)
    assert dense.state_dict()["classifier.1.weight"].shape == (16, 256, 6, 6)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_dense_classifier_can_be_trained_and_copied() -> None:
    dense = convolutionalize(cnnkit.create("lenet5_relu"), (1, 28, 28))
    again = copy.deepcopy(dense).train()
    assert again.meta["stride"] == (4, 4)
    again(torch.randn(2, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in again.parameters())


class Ends(nn.Module):
    """A trunk with an end of its own."""

    def __init__(self, end: Callable[[Tensor], Any], *modules: nn.Module) -> None:
        super().__init__()
        self.conv, self.end, self.rest = nn.Conv2d(3, 4, 3), end, nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.end(self.conv(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Ends(lambda x: x.flatten(1), nn.Linear(99, 2)), r"Ends does not take images of \(3, 8, 8\)"),
        (Ends(lambda x: x if x.sum() > 0 else -x), r"forward of Ends cannot be followed: .*control flow"),
        (Ends(lambda x: x), r"Ends does not end in one vector of scores for each image"),
        (Ends(lambda x: (x.flatten(1), x)), r"does not end in one vector"),
        (Ends(lambda x: x.flatten(1)), r"ends in flattened maps that no linear layer reads"),
        (
            Ends(lambda x: functional.adaptive_avg_pool2d(x, 3), nn.Flatten(), nn.Linear(36, 2)),
            r"pools maps of \(6, 6\) to \(3, 3\) at adaptive_avg_pool2d",
        ),
        (
            Ends(lambda x: x * functional.adaptive_avg_pool2d(x, 1), nn.Flatten(), nn.Linear(144, 2)),
            r"uses mul at mul: it reads maps that were pooled",
        ),
        (
            Ends(lambda x: x.transpose(1, 2), nn.Flatten(), nn.Linear(144, 2)),
            r"uses transpose at transpose: it is not known to slide",
        ),
        (
            Ends(lambda x: x, nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(144, 2)),
            r"uses InstanceNorm2d at rest_0",
        ),
        (Ends(lambda x: x, nn.Flatten(), nn.LayerNorm(144), nn.Linear(144, 2)), r"uses LayerNorm at rest_1"),
        (Ends(lambda x: x, nn.Flatten(), nn.BatchNorm1d(144), nn.Linear(144, 2)), r"uses BatchNorm1d"),
        (Ends(lambda x: x, nn.Linear(6, 2)), r"uses Linear at rest_0: it is not known to slide"),
        (Ends(lambda x: x.mean((1, 2)), nn.Linear(6, 2)), r"uses mean at mean"),
        (Ends(lambda x: x[:, :2], nn.Flatten(), nn.Linear(72, 2)), r"uses getitem at getitem"),
        (Ends(lambda x: x[:, :, 1:], nn.Flatten(), nn.Linear(120, 2)), r"uses getitem at getitem"),
        (Ends(lambda x: torch.cat([x, x], 2), nn.Flatten(), nn.Linear(288, 2)), r"uses cat at cat"),
        (Ends(lambda x: x.chunk(2, dim=3)[0], nn.Flatten(), nn.Linear(72, 2)), r"uses chunk at chunk"),
        (Ends(lambda x: torch.cat(x.chunk(2, 1), 1), nn.Flatten(), nn.Linear(144, 2)), r"uses cat at cat"),
        (
            Ends(lambda x: x + x[:, :, :1], nn.Flatten(), nn.Linear(144, 2)),
            r"uses getitem at getitem",
        ),
        (Ends(lambda x: x * x.size(2), nn.Flatten(), nn.Linear(144, 2)), r"uses mul at mul"),
    ],
)
def test_what_is_not_known_to_slide_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convolutionalize(model, (3, 8, 8))


class Gated(nn.Module):
    """A kernel as large as the map gives one gate a map, which is stretched over it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.fc = nn.Conv2d(3, 3, 8), nn.Linear(192, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x * self.gate(x)).flatten(1))


def test_maps_of_different_sizes_are_not_laid_on_each_other() -> None:
    with pytest.raises(ValueError, match="uses mul at mul: it is not known to slide"):
        convolutionalize(Gated(), (3, 8, 8))


def test_squeeze_and_excitation_is_refused_because_it_pools_the_whole_image() -> None:
    with torch.device("meta"):
        model = torchvision.models.efficientnet_b0()
    with pytest.raises(
        ValueError, match=r"EfficientNet uses Conv2d at .*fc1: it reads maps that were pooled"
    ):
        convolutionalize(model)
