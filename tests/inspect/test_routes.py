"""Receptive fields by two routes: arithmetic, and the support of gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.inspect.check import check
from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.receptive import fields
from cnnkit.inspect.spans import spans
from cnnkit.inspect.trace import trace

from .networks import SPECS, Chain, built

torchvision = pytest.importorskip("torchvision")


def disagreements(module: nn.Module, *inputs: Tensor, **how: Any) -> list[Any]:
    found = check(module, *inputs, **how)
    assert found, "nothing was compared"
    return [verdict for verdict in found if not verdict.agrees]


def unpooled(x: Tensor, kernel: int, stride: int) -> Tensor:
    values, places = functional.max_pool2d(x, kernel, stride, return_indices=True)
    return functional.max_unpool2d(2 * values, places, kernel, stride, output_size=x.shape[2:])


OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "pooling in ceil mode": lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True),
    "dilated pooling": lambda x: functional.max_pool2d(x, 2, 1, dilation=3),
    "pooling with a border": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "unpooling": lambda x: unpooled(x, 2, 2),
    "unpooling of windows that overlap": lambda x: unpooled(x, 3, 2),
    "unpooling of windows apart": lambda x: unpooled(x, 2, 3),
    "adaptive pooling": lambda x: functional.adaptive_avg_pool2d(x, (5, 7)),
    "adaptive maximum": lambda x: functional.adaptive_max_pool2d(x, (4, 5)),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": lambda x: functional.interpolate(
        x, size=(29, 30), mode="bilinear", align_corners=True
    ),
    "bilinear, smaller": lambda x: functional.interpolate(x, scale_factor=0.6, mode="bilinear"),
    "bicubic": lambda x: functional.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "nearest": lambda x: functional.interpolate(x, scale_factor=3, mode="nearest"),
    "nearest, odd": lambda x: functional.interpolate(x, size=(31, 17), mode="nearest"),
    "reflected border": lambda x: functional.pad(x, (3, 1, 2, 4), mode="reflect"),
    "repeated border": lambda x: functional.pad(x, (3, 1, 2, 4), mode="replicate"),
    "circular border": lambda x: functional.pad(x, (3, 1, 2, 4), mode="circular"),
    "border cut off": lambda x: functional.pad(x, (-3, 1, 2, -4)),
    "rolled": lambda x: x.roll((3, -2), (2, 3)),
    "flipped": lambda x: x.flip(3),
    "turned": lambda x: x.transpose(2, 3),
    "space to depth": lambda x: functional.pixel_unshuffle(x[:, :, :14, :16], 2),
    "depth to space": lambda x: functional.pixel_shuffle(x, 2),
    "rows and columns left out": lambda x: x[:, :, 1::2, ::3],
    "windows as columns": lambda x: functional.unfold(x, 3, padding=1, stride=2),
    "windows of a shifted map": lambda x: x.roll(2, 2)[:, :, :12, :12].reshape(1, 4, 3, 4, 3, 4).sum((3, 5)),
    "chosen rows": lambda x: x[:, :, torch.tensor([5, 1, 1, 7])],
    "chosen channels": lambda x: torch.cat([x, functional.avg_pool2d(x, 3, 1, 1)], 1)[:, [0, 5, 6]],
    "softmax over the rows": lambda x: x.softmax(2),
    "running sum": lambda x: x.cumsum(3),
    "product of maps": lambda x: x.mT @ x,
    "maps on a new axis": lambda x: torch.stack([x, functional.avg_pool2d(x, 3, 1, 1), x * 2], 2)[:, :, 1:],
    "maps on a new last axis": lambda x: torch.stack([x, functional.avg_pool2d(x, 5, 1, 2)], -1),
    "channels in groups": lambda x: torch.stack(x.unbind(1)[::2], 1),
    "repeated": lambda x: x.repeat(1, 2, 2, 1),
    "local response": lambda x: functional.local_response_norm(x, 3),
    "instance norm": lambda x: functional.instance_norm(x),
    "largest of the channels": lambda x: x.amax(1, keepdim=True),
    "columns summed": lambda x: x + x.mean(3, keepdim=True),
    "rows several times": lambda x: x.repeat_interleave(2, 2),
    "some columns several times": lambda x: x.repeat_interleave(torch.arange(x.shape[3]) % 3, 3),
    "everything several times": lambda x: x.repeat_interleave(2),
    "beside a map of no rows": lambda x: torch.cat([x[:, :, 3:3] * 2, x], 2),
    "beside a text of no words": lambda x: torch.cat([x[:, :, :0].flatten(2), x.flatten(2)], 2),
    "beside the mean of no images": lambda x: x + x[[]].flatten(1).sum(),
    "other types of numbers": lambda x: functional.conv2d(
        functional.conv2d(x.to(torch.float32), torch.ones(4, 1, 1, 1), groups=4).half(),
        x.half().new_ones(4, 1, 3, 3),
        groups=4,
    ),
    "complex numbers": lambda x: torch.fft.fft2(x).abs(),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_by_both_routes(name: str) -> None:
    mixing = nn.Conv2d(4, 4, 3, 2, 1)
    before, after = Chain(mixing, OPERATORS[name]), Chain(OPERATORS[name])
    for module, size in ((before, (31, 33)), (after, (15, 16))):
        assert disagreements(module, torch.zeros(1, 4, *size), units=33) == []


def test_a_network_with_an_argument_called_image_is_checked() -> None:
    class Answering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.words = nn.Conv2d(3, 4, 3), nn.Embedding(10, 4)

        def forward(self, *, image: Tensor, question: Tensor) -> Tensor:
            return self.conv(image) + self.words(question).mean(1)[:, :, None, None]

    question = torch.zeros(1, 5, dtype=torch.int64)
    assert disagreements(Answering(), image=torch.zeros(1, 3, 9, 9), question=question) == []
    (alike,) = check(Answering(), image=torch.zeros(1, 3, 9, 9), question=question, layers=["words"]) or [
        None
    ]
    assert alike is None


def test_what_a_check_cannot_run_is_one_sentence() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype is torch.float64:
                raise RuntimeError("no doubles")
            return x

    with pytest.raises(TraceError, match=r"the network itself \(Halves\) fails .*: no doubles"):
        check(Halves(), torch.zeros(1, 3, 9, 9))


GRAPHS = {
    "swin": lambda: torchvision.models.swin_t(),
    "regnet": lambda: torchvision.models.regnet_x_400mf(),
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(),
    "fcn": lambda: torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None),
    "deeplabv3": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_networks_of_others_by_both_routes(name: str) -> None:
    module, images = GRAPHS[name](), torch.zeros(1, 3, 64, 96)
    paths = [call.path for call in trace(module, images).root.calls()]
    layers = [paths[len(paths) // 5], paths[len(paths) // 2], paths[4 * len(paths) // 5]]
    assert disagreements(module, images, layers=layers, units=3) == []


# -- figures that others state ---------------------------------------------------------------------

#: A network, as narrow as it gets; what its last map sees; a strip of an image in which that has room.
STATED = {
    "alexnet": (195, 1 / 16, (64, 400)),
    "vgg16": (212, 1 / 16, (32, 448)),
    "resnet50": (427, 1 / 16, (32, 900)),
    "resnet50_v1": (483, 1 / 16, (32, 1000)),
    "inception_v3": (1311, None, (75, 1419)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if STATED[n][1] is None else []) for n in STATED]
)
def test_gradients_find_the_published_receptive_fields(name: str) -> None:
    size, width, shape = STATED[name]
    model = built(SPECS[name], **({} if width is None else {"width": width}))
    images = torch.zeros(1, 3, *shape, device="meta")
    traced = trace(model, images)
    found = fields(traced)
    even = [call for call in traced.calls if all(s.jump is not None for s in spans(found, call.outs[0]))]
    last = max(even, key=lambda call: max((s.most for s in spans(found, call.outs[0])), default=0))
    seen = [v for v in check(model, images, layers=[last.path], units=3) if v.axis == 1]
    assert all(verdict.agrees for verdict in seen)
    first, end = seen[1].measured or (0, 0)
    assert end - first + 1 == size


# -- random graphs with branches -------------------------------------------------------------------


class Graph(nn.Module):
    """A program of random operators on a growing list of maps, the last of which are added.

    What does not fit is left out.

    Args:
        program: steps, each an operator's number, which maps it reads, and numbers for its settings.
    """

    def __init__(self, program: list[tuple[int, int, int, tuple[int, int, int, int]]]) -> None:
        super().__init__()
        self.program = program
        self.weights = nn.ParameterList()
        for number, _, _, (a, b, c, d) in program:
            wide = WEIGHTS.get(STEPS[number])
            self.weights.append(nn.Parameter(torch.zeros(wide(a, b, c, d) if wide else (1,))))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for (number, first, second, numbers), weight in zip(self.program, self.weights, strict=True):
            one, two = maps[first % len(maps)], maps[second % len(maps)]
            try:
                made = STEPS[number](one, two, weight, *numbers)
            except (ValueError, RuntimeError):  # too small for it
                continue
            if min(made.shape[2:]) >= 5 and max(made.shape[2:]) <= 40 and made.shape[1] == 4:
                maps.append(made)
        out = maps[-1]
        for other in maps[-4:-1]:
            out = added(out, other)
        return out


def convolved(x: Tensor, y: Tensor, w: Tensor, k: int, s: int, p: int, d: int) -> Tensor:
    return functional.conv2d(x, w, None, (s, 1 + p % 2), (p % w.shape[2], 0), (d, 1))


def depthwise(x: Tensor, y: Tensor, w: Tensor, k: int, s: int, p: int, d: int) -> Tensor:
    return functional.conv2d(x, w, None, 1, (0, p % w.shape[3]), (1, d), groups=4)


def enlarged(x: Tensor, y: Tensor, w: Tensor, k: int, s: int, p: int, d: int) -> Tensor:
    return functional.conv_transpose2d(x, w, None, (2, 1 + d % 2), (p % 2, 0), output_padding=(d % 2, 0))


def overlap(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    height, width = min(x.shape[2], y.shape[2]), min(x.shape[3], y.shape[3])
    return x[:, :, :height, :width], y[:, :, -height:, -width:]


def added(x: Tensor, y: Tensor, *_: Any) -> Tensor:
    x, y = overlap(x, y)
    return x + 2 * y


def multiplied(x: Tensor, y: Tensor, *_: Any) -> Tensor:
    x, y = overlap(x, y)
    return x * y


def chained(x: Tensor, y: Tensor, w: Tensor, k: int, *_: Any) -> Tensor:
    x, y = overlap(x, y)
    return torch.cat([x[:, : k % 3 + 1], y[:, k % 3 + 1 :]], 1)


def shuffled(x: Tensor, *_: Any) -> Tensor:
    return x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)


def mixed(x: Tensor, y: Tensor, w: Tensor, *_: Any) -> Tensor:
    return functional.conv2d(x, w)


STEPS: list[Callable[..., Tensor]] = [
    convolved,
    depthwise,
    enlarged,
    added,
    multiplied,
    chained,
    shuffled,
    mixed,
    lambda x, y, w, k, s, p, d: functional.max_pool2d(x, (k, 2), (s, 1), (p % (k // 2 + 1), 0), 1, d == 1),
    lambda x, y, w, k, s, p, d: functional.avg_pool2d(x, (2, k), (1, s), 0, d == 1),
    lambda x, y, w, k, s, p, d: functional.interpolate(x, scale_factor=2.0),
    lambda x, y, w, k, s, p, d: functional.interpolate(x, size=(7 + k, 9 + s), mode="bilinear"),
    lambda x, y, w, k, s, p, d: functional.pad(x, (p, 0, 0, s), mode=("reflect", "circular")[d % 2]),
    lambda x, y, w, k, s, p, d: functional.pad(x, (p, k, 0, s)),
    lambda x, y, w, k, s, p, d: x[:, :, d - 1 :: s, p : p + 12],
    lambda x, y, w, k, s, p, d: x.roll(p, 2),
    lambda x, y, w, k, s, p, d: x.transpose(2, 3),
    lambda x, y, w, k, s, p, d: x * x.mean(2 + p % 2, keepdim=True),
    lambda x, y, w, k, s, p, d: functional.adaptive_avg_pool2d(x, (5 + k, 6)),
    lambda x, y, w, k, s, p, d: functional.batch_norm(x, w.new_zeros(4), w.new_ones(4)).relu(),
]
#: Shapes of the weights of those that have some.
WEIGHTS: dict[Callable[..., Tensor], Callable[..., tuple[int, ...]]] = {
    convolved: lambda k, s, p, d: (4, 4, k, 1 + k % 3),
    depthwise: lambda k, s, p, d: (4, 1, 1 + k % 3, k),
    enlarged: lambda k, s, p, d: (4, 4, 2 + k % 3, 2),
    mixed: lambda k, s, p, d: (4, 4, 1, 1),
}
numbers = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2))
steps = st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 9), st.integers(0, 9), numbers)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(steps, min_size=3, max_size=9))
def test_random_graphs_with_branches_by_both_routes(program: list[Any]) -> None:
    assert disagreements(Graph(program), torch.zeros(1, 4, 13, 16), layers=[""], units=5) == []
