"""What every registered classifier must satisfy. A new network is tested by being registered.

Counts and shapes are checked of all of them on the meta device. What costs time is checked of a
representative of each kind, the smallest, and narrow where it can be.
"""

import inspect
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cnnkit import canon
from cnnkit.models import specs
from cnnkit.registry import Spec
from cnnkit.verify import checks
from cnnkit.verify.oracles import ORACLES

ALL = list(specs(task="classify"))


def kind(spec: Spec) -> tuple[Any, ...]:
    """What sets it apart: factory, paper, the parts passed to it, and whether its images are small."""
    entry = canon.entry(spec.canon, spec.name)
    parts = {
        (name, getattr(part, "__qualname__", type(part).__name__))
        for name, part in spec.kwargs.items()
        if callable(part) or part is None
    }
    return spec.factory, entry.paper, frozenset(parts), entry.input[-1] < 64


def representatives(of: list[Spec]) -> list[Spec]:
    """The smallest network of each kind."""
    chosen: dict[tuple[Any, ...], Spec] = {}
    for spec in sorted(of, key=parameters):
        chosen.setdefault(kind(spec), spec)
    return list(chosen.values())


def parameters(spec: Spec) -> float:
    count = canon.entry(spec.canon, spec.name).params
    return count.value if count else float("inf")


def each(of: list[Spec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", of, ids=lambda spec: spec.name)


#: CNNKIT_EVERY_NETWORK=1 spares none, and builds none narrow.
EVERY = bool(os.environ.get("CNNKIT_EVERY_NETWORK"))
CHOOSE = list if EVERY else representatives
REPRESENTATIVES = CHOOSE(ALL)


def narrow(spec: Spec, **overrides: Any) -> nn.Module:
    """The network with five classes, a quarter as wide where its family has a width; always the same."""
    if not EVERY and "width" in inspect.signature(spec.factory).parameters:
        overrides["width"] = 0.25
    torch.manual_seed(0)
    return spec.build(**{"num_classes": 5, **overrides})


def batches(spec: Spec, network: nn.Module) -> Iterator[Tensor]:
    """Two random images of the smallest size that it takes and two of an odd one, or of its only size."""
    channels = canon.entry(spec.canon, spec.name).input[0]
    for height, width in checks.sizes(spec, network):
        yield torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def settled(network: nn.Module, images: Tensor) -> nn.Module:
    """The network in evaluation mode with the statistics of these images, as if it had been trained.

    Without them a network of a thousand layers multiplies its values until they are infinite.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.training = 1.0, True
    with torch.no_grad():
        network(images)
    return network.eval()


def trainable(network: nn.Module) -> list[nn.Parameter]:
    found = [p for p in network.parameters() if p.requires_grad]
    if not found:
        pytest.skip("nothing in it is trained by gradients")
    return found


@pytest.mark.parametrize("family", [f for f in canon.families() if f.startswith("classification/")])
def test_the_canon_and_the_registry_name_the_same_networks(family: str) -> None:
    registered = {spec.name for spec in ALL if spec.canon == family}
    assert registered == {entry.name for entry in canon.entries(family)}


@each(ALL)
def test_parameters_macs_and_shapes_are_those_of_the_canon(spec: Spec) -> None:
    assert [f"{f.check}: {f.evidence}" for f in checks.cheap(spec) if f.status == "failed"] == []


@pytest.mark.reference
@each(CHOOSE([spec for spec in ALL if spec.name in ORACLES]))
def test_the_same_weights_give_the_outputs_of_an_independent_implementation(spec: Spec) -> None:
    finding = checks.same_outputs(spec)
    assert finding.status == "passed", finding.evidence


@each(REPRESENTATIVES)
def test_classes_and_channels_are_arguments(spec: Spec) -> None:
    channels, height, width = canon.entry(spec.canon, spec.name).input
    with torch.device("meta"):
        network = spec.build(num_classes=7, in_channels=channels + 1).eval()
        logits = network(torch.empty(2, channels + 1, height, width))
    assert logits.shape == (2, 7)


@each(REPRESENTATIVES)
def test_an_image_is_seen_the_same_alone_and_in_a_batch(spec: Spec) -> None:
    network = narrow(spec).double().eval()
    checks.randomise(network, torch.Generator().manual_seed(0))
    images = next(batches(spec, network)).double()
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]))


@each(REPRESENTATIVES)
def test_every_parameter_receives_a_gradient(spec: Spec) -> None:
    network = narrow(spec)
    trainable(network)
    checks.randomise(network, torch.Generator().manual_seed(0))
    *_, images = batches(spec, network)
    settled(network, images)(images).square().sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


class Activations(TorchDispatchMode):
    """Counts the activations that are computed, and those that overwrite their input."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = self.in_place = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.computed += name.rstrip("_") in ("relu", "hardtanh", "silu", "leaky_relu", "hardswish")
        self.in_place += name in ("relu_", "hardtanh_", "silu_", "leaky_relu_", "hardswish_")
        return func(*args, **(kwargs or {}))


@each(REPRESENTATIVES)
def test_each_activation_is_a_module_of_its_own_and_accepts_a_backward_hook(spec: Spec) -> None:
    network, runs = narrow(spec).eval(), []
    rectifiers = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.LeakyReLU, nn.Hardswish)
    activations = [m for m in network.modules() if isinstance(m, rectifiers)]
    for module in activations:
        module.register_full_backward_hook(lambda m, _, grads: (runs.append(m), (grads[0].clamp(min=0),))[1])
    images = next(batches(spec, network)).requires_grad_()
    with Activations() as counter:
        output = network(images)
    output.sum().backward()
    assert counter.in_place == 0
    assert len(runs) == len(set(map(id, runs))) == len(activations) == counter.computed


@each(REPRESENTATIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_step_of_training_changes_it_and_stays_finite(
    spec: Spec, dtype: torch.dtype, training: bool
) -> None:
    # batch norm over two values, the coarsest maps of the smallest images, explodes in a thousand layers
    for images in list(batches(spec, narrow(spec)))[-1 if EVERY else 0 :]:
        network = narrow(spec).train() if training else settled(narrow(spec), images)
        network.to(dtype)
        optimiser = torch.optim.SGD(trainable(network), lr=0.01)
        before = [p.detach().clone() for p in network.parameters()]
        loss = functional.cross_entropy(network(images.to(dtype)).float(), torch.tensor([0, 1]))
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
        assert all(p.isfinite().all() for p in network.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@each(REPRESENTATIVES)
def test_torch_export_gives_the_same_outputs(spec: Spec) -> None:
    network = narrow(spec).eval()
    images = next(batches(spec, network))
    exported = torch.export.export(network, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), network(images))


@pytest.mark.slow
@each(CHOOSE([spec for spec in ALL if parameters(spec) < 1e6]))
def test_torch_compile_takes_it_in_one_graph(spec: Spec) -> None:
    torch.compiler.reset()
    network = narrow(spec).eval()
    images = next(batches(spec, network))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), network(images))
