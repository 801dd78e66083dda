"""What a trace sees, what it leaves alone, and what it says when it cannot go on."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cnnkit.inspect.failure import TraceError
from cnnkit.inspect.graph import Call, Node, Trace, Value
from cnnkit.inspect.lines import Line
from cnnkit.inspect.recorder import Recorder
from cnnkit.inspect.table import Row, Table, table
from cnnkit.inspect.trace import trace

from .networks import figures

torchvision = pytest.importorskip("torchvision")


class Lambda(nn.Module):
    """A function as a module, with modules of its own."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.function = nn.ModuleList(parts), function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self.parts)


class Chosen(nn.Module):
    """One of the results of a module."""

    def __init__(self, part: nn.Module, which: int) -> None:
        super().__init__()
        self.part, self.which = part, which

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)[self.which]


def ops(traced: Trace) -> list[str]:
    return [node.op for node in traced.nodes]


# -- one route -------------------------------------------------------------------------------------


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "broadcasting": (lambda: Lambda(lambda x: (x + x[:1, :, :1]) * x.mean(1, keepdim=True)), (2, 4, 8, 8)),
    "in place": (lambda: Lambda(lambda x: (x * 2).relu_().add_(1).mul_(x)), (2, 4, 8, 8)),
    "numbers": (lambda: Lambda(lambda x: 2 / (1 + x) - x), (2, 4, 8, 8)),
    "concatenation": (lambda: Lambda(lambda x: torch.cat([x, x, x[:, :1]], 1)), (2, 4, 8, 8)),
    "odd pooling": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 4, 8, 8)),
    "dilated pooling": (lambda: nn.MaxPool2d(2, 1, dilation=2), (2, 4, 8, 8)),
    "average pooling": (lambda: nn.AvgPool2d((3, 2), (2, 1), (1, 0)), (2, 4, 8, 8)),
    "bins": (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 4, 8, 8)),
    "one image": (lambda: nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU(), nn.MaxPool2d(2)), (4, 8, 8)),
    "same size": (lambda: nn.Conv2d(4, 2, 3, padding="same", dilation=2), (2, 4, 8, 8)),
    "mirrored": (lambda: nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    "statistics of the batch": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (2, 4, 8, 8)),
    "without scale": (lambda: nn.BatchNorm2d(4, affine=False), (2, 4, 8, 8)),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(8), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)), (2, 4, 8, 8)),
    "activations": (
        lambda: nn.Sequential(
            nn.SiLU(True), nn.GELU(), nn.Hardswish(True), nn.ELU(), nn.Sigmoid(), nn.Softmax(1)
        ),
        (2, 4, 8, 8),
    ),
    "pooling that says where": (lambda: Chosen(nn.MaxPool2d(2, return_indices=True), 0), (2, 4, 8, 8)),
    "average in ceil mode": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), (2, 4, 8, 8)),
    "linear without bias": (lambda: nn.Linear(8, 3, bias=False), (2, 4, 8, 8)),
    "convolution without bias": (lambda: nn.Conv2d(4, 6, 3, 2, 1, 1, 2, bias=False), (2, 4, 8, 8)),
    "modules one after another": (
        lambda: nn.Sequential(
            nn.ReLU(True),
            *(nn.Conv2d(channels, 9, 1) for channels in (4, 9, 9)),
            nn.Sequential(nn.BatchNorm2d(9), nn.SiLU(True)),
            *(nn.Softmax(1), nn.ReLU(True), nn.MaxPool2d(2), nn.Dropout(), nn.Sigmoid()),
        ),
        (2, 4, 8, 8),
    ),
    "halves": (lambda: nn.Conv2d(4, 2, 3).half(), (2, 4, 8, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_form_shapes_are_those_of_pytorch(name: str) -> None:
    make, shape = CASES[name]
    model = make()
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    inputs = torch.rand(shape, dtype=kind)
    quick, pure, real = (
        trace(model, inputs),
        trace(model, inputs, rules={}),
        trace(model, inputs, run=True),
    )
    outs = [[(tuple(v.shape), v.dtype) for node in t.nodes for v in node.outs] for t in (quick, pure, real)]
    assert outs[0] == outs[1] == outs[2]
    assert figures(table(quick)) == figures(table(pure)) == figures(table(real))
    assert quick.peak == pure.peak == real.peak
    (out,) = quick.root.outs
    assert (tuple(out.shape), out.dtype) == (tuple(model(inputs).shape), model(inputs).dtype)


PARTS = st.sampled_from(
    [
        *(lambda: nn.ReLU(True), nn.Sigmoid, nn.Dropout, nn.Identity, lambda: nn.Softmax(1)),
        *(lambda: nn.Conv2d(2, 2, 1), lambda: nn.Conv2d(2, 2, 3, padding=1)),
    ]
)
CHAINS = st.recursive(
    PARTS.map(lambda make: make()),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: nn.Sequential(*parts)),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(CHAINS, max_size=4))
def test_chains_in_chains_without_tensors_are_those_with_tensors(parts: list[nn.Module]) -> None:
    model, images = nn.Sequential(*parts), torch.zeros(1, 2, 4, 4)
    quick, pure = trace(model, images), trace(model, images, rules={})
    assert quick.peak == pure.peak
    assert figures(table(quick)) == figures(table(pure))
    calls = [
        [(call.path, [tuple(out.shape) for out in call.outs]) for call in t.calls] for t in (quick, pure)
    ]
    assert calls[0] == calls[1]


def test_a_module_that_occurs_twice_is_run_twice() -> None:
    twice, inner = nn.Sigmoid(), nn.Sequential(nn.Conv2d(2, 2, 3), nn.Tanh())
    model = nn.Sequential(twice, inner, twice, inner)
    assert ops(trace(model, torch.zeros(1, 2, 8, 8))) == ["sigmoid", "conv2d", "tanh"] * 2


def test_whoever_listens_to_modules_or_functions_is_heard() -> None:
    class Heard(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            heard.append(func.__name__)
            return func(*args, **(kwargs or {}))

    heard: list[str] = []
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8)
    with Heard():
        traced = trace(model, images)
    assert {"conv2d", "relu"} <= set(heard)
    assert ops(traced) == ["conv2d", "relu"]
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: heard.append(type(module).__name__)
    )
    try:
        trace(model, images)
    finally:
        handle.remove()
    assert heard[-3:] == ["Conv2d", "ReLU", "Sequential"]


def test_a_forward_of_ones_own_is_run() -> None:
    model = nn.Sequential(nn.ReLU())
    model[0].forward = torch.sigmoid
    assert ops(trace(model, torch.zeros(1, 3))) == ["sigmoid"]


def test_a_sequential_with_an_order_of_its_own_is_run() -> None:
    class Backwards(nn.Sequential):
        def __iter__(self) -> Iterator[nn.Module]:
            return reversed(list(super().__iter__()))

    assert ops(trace(Backwards(nn.ReLU(), nn.Tanh()), torch.zeros(1, 3))) == ["tanh", "relu"]


def test_a_call_of_ones_own_is_run() -> None:
    class Twice(nn.Conv2d):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(super().__call__(x))

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name.lower(), value)

        def forward(self, x: Tensor) -> Tensor:
            self.COUNT = 1
            return super().forward(x)

    model = nn.Sequential(Twice(3, 3, 3), nn.ReLU())
    traced = trace(model, torch.zeros(1, 3, 8, 8))
    assert [call.path for call in traced.calls] == ["", "0", "0", "1"]
    assert tuple(traced.root.outs[0].shape) == (1, 3, 4, 4)
    assert not hasattr(model[0], "count")
    assert [vars(kind).get("__call__") for kind in (nn.Sequential, nn.ReLU)] == [None, None]


@pytest.mark.slow
def test_a_compiled_network_is_seen_through() -> None:
    inner, model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(nn.Linear(4, 4))
    model.compile()
    for compiled in (torch.compile(nn.Sequential(model, inner)), nn.Sequential(model, torch.compile(inner))):
        traced = trace(compiled, torch.zeros(1, 4))
        assert ops(traced) == ["linear", "linear", "relu"]
        assert table(traced).total.params == 40


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_network_of_torchscript_is_counted() -> None:
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(1, 3, 8, 8)
    traced = torch.jit.trace(model, images)
    for script in (torch.jit.script(model), traced, nn.Sequential(traced)):
        total = table(trace(script, images)).total
        assert (total.params, total.macs) == (112, 36 * 4 * 27)


def test_an_activation_of_whole_numbers_is_left_to_pytorch() -> None:
    traced = trace(nn.ReLU(), torch.zeros(3, dtype=torch.int64))
    assert traced.root.outs[0].dtype is torch.int64
    assert trace(nn.Sigmoid(), torch.zeros(3, dtype=torch.int64)).root.outs[0].dtype is torch.float32


# -- what is seen ----------------------------------------------------------------------------------


def test_functional_calls_in_any_nesting_are_seen() -> None:
    inner = Lambda(lambda x, conv: functional.relu(functional.conv2d(x, conv.weight)), nn.Conv2d(3, 4, 3))
    outer = Lambda(lambda x, part: part(x) + part(x), nn.Sequential(inner))
    made = table(trace(outer, torch.zeros(1, 3, 8, 8)))
    assert [(row.path, row.kind, row.macs, row.params) for row in made.rows] == [
        ("parts.0.0", "Lambda", 36 * 4 * 27, 4 * 27),
        ("parts.0.0", "Lambda", 36 * 4 * 27, 0),
        ("", "add", 0, 0),
        ("parts.0.0.parts.0", "Conv2d", 0, 4),  # the bias, which the function leaves out
    ]


def test_a_network_is_traced_wherever_its_weights_are() -> None:
    real = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    with torch.device("meta"):
        meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    expected = figures(table(trace(real, torch.zeros(1, 3, 8, 8))))
    assert figures(table(trace(meta, torch.zeros(1, 3, 8, 8, device="meta")))) == expected
    assert figures(table(trace(real, torch.zeros(1, 3, 8, 8), run=True))) == expected


def test_several_inputs_by_name_lists_and_text() -> None:
    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.read = nn.Conv2d(3, 8, 3), nn.Embedding(20, 8)

        def forward(self, images: list[Tensor], *, question: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            seen = torch.stack([self.see(image.unsqueeze(0)).mean((2, 3)).squeeze(0) for image in images])
            return {"scores": scale * seen * self.read(question).sum(1), "seen": seen}

    images = [torch.zeros(3, 8, 8), torch.zeros(3, 6, 10)]
    traced = trace(Answer(), images, question=torch.zeros(2, 5, dtype=torch.int64), scale=2.0)
    assert [value.name for value in traced.inputs] == ["images[0]", "images[1]", "question"]
    assert [tuple(out.shape) for out in traced.root.outs] == [(2, 8), (2, 8)]
    made = table(traced)
    assert made.total.macs == (6 * 6 + 4 * 8) * 8 * 27
    assert made.fields is not None
    assert (made.fields.image.name, made.fields.sizes) == ("images[0]", (8, 8))


def test_course_that_depends_on_shapes_constants_and_buffers_is_followed() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ready", torch.tensor(True))
            self.register_buffer("steps", torch.tensor(3))

        def forward(self, x: Tensor) -> Tensor:
            if self.ready and x.shape[0] > 1:
                for _ in range(int(self.steps)):
                    x = x + torch.arange(4).sum().item()
            return x[:, torch.linspace(0, 3, 4).long().tolist()]

    assert ops(trace(Careful(), torch.zeros(2, 4))).count("add") == 3


def test_a_real_forward_follows_what_numbers_decide() -> None:
    module = Lambda(lambda x: x.relu() if x.sum() > 0 else x.sigmoid())
    assert "relu" in ops(trace(module, torch.ones(1, 3), run=True))
    assert "sigmoid" in ops(trace(module, -torch.ones(1, 3), run=True))


@pytest.mark.slow
def test_a_detector_is_traced_by_a_real_forward() -> None:
    torch.manual_seed(0)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    made = table(trace(model, [torch.rand(3, 320, 320)], run=True))
    assert made.total.params == sum(p.numel() for p in model.parameters())
    with pytest.raises(TraceError, match="run=True"):
        trace(model, [torch.rand(3, 320, 320)])


# -- what is left alone ----------------------------------------------------------------------------


class Moody(nn.Module):
    """Writes into itself, and into its buffers, whenever it runs."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.conv, self.fails, self.cache = nn.Conv2d(3, 4, 3), fails, None
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.cache = self.new = self.conv(x)
        self.count += 1
        self.count = self.count * 2
        if self.fails:
            raise RuntimeError("no mood")
        return self.cache


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails: bool) -> None:
    model = Moody(fails).train()
    calls: list[int] = []
    model.conv.register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept, call = dict(model.__dict__), nn.Module.__call__
    if fails:
        with pytest.raises(TraceError, match="no mood"):
            trace(model, torch.zeros(1, 3, 8, 8))
    else:
        trace(model, torch.zeros(1, 3, 8, 8))
    assert (model.training, model.cache, hasattr(model, "new")) == (True, None, False)
    assert model.__dict__.keys() == kept.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert nn.Module.__call__ is call
    assert "forward" not in model.__dict__
    assert torch.backends.mkldnn.enabled
    assert gc.isenabled()
    assert calls == [1]  # its hooks run as ever
    assert model.conv(torch.rand(1, 3, 8, 8)).isfinite().all()


def test_a_parametrised_weight_costs_what_it_costs() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    made = table(trace(model, torch.zeros(1, 3, 8, 8)))
    assert made.total.params == 4 * 27 + 4 + 4  # direction, magnitude, bias
    assert made.total.macs == 36 * 4 * 27


def resident(field: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(("device", "width"), [("cpu", 5000), ("meta", 160_000)])
def test_memory_does_not_grow_with_the_parameters(device: str, width: int) -> None:
    with torch.device(device):
        model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    inputs = torch.zeros(1, width, device=device)
    _ = table(trace(model, inputs)).training
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
    before = resident("VmHWM")
    made = table(trace(model, inputs))
    assert made.training.peak
    assert made.total.params == 2 * width * (width + 1)  # 200 MB, or 205 GB
    assert resident("VmHWM") - before < 4e6


def test_nothing_that_a_table_is_made_of_waits_for_the_garbage_collector() -> None:
    branches = [nn.Sequential(nn.Conv2d(3, 3, k, padding=k // 2), nn.ReLU(inplace=True)) for k in (1, 3, 5)]
    model = Lambda(lambda x, a, b, c: a(x) + b(x) + c(x + b(x)) + x, *branches)
    images = torch.zeros(1, 3, 8, 8)
    table(trace(model, images))
    gc.collect()
    gc.disable()
    try:
        _ = table(trace(model, images)).training
        left = {type(o) for o in gc.get_objects()} & {Trace, Node, Call, Value, Recorder, Table, Row, Line}
        assert not left
    finally:
        gc.enable()
