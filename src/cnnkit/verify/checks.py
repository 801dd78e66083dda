"""The checks: functions on a network's Spec. They make the ledger, and are the reference tests.

Rung 1 compares parameters and MACs with the canon, rung 2 the shapes with what the network states of itself,
rung 3 outputs and gradients of the image with those of an independent implementation given the same weights.
Rungs 1 and 2 run on the meta device: nothing is allocated or computed, whatever the size of the network.
"""

from collections.abc import Iterator, Mapping
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit import canon
from cnnkit.layers import Backbone, feature_strides
from cnnkit.registry import Spec
from cnnkit.verify.finding import Finding, Status
from cnnkit.verify.meta import MAC_COUNTERS, SameShape, on_meta
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.oracles import ORACLES

#: Same weights, same outputs: the largest difference over the largest value, in float64.
TOLERANCE = 1e-9


def cheap(spec: Spec) -> Iterator[Finding]:
    """Rungs 1 and 2, from one network on the meta device."""
    network = on_meta(spec)
    yield parameters(spec, network)
    yield macs(spec, network)
    yield shapes(spec, network)


def parameters(spec: Spec, network: nn.Module) -> Finding:
    """Trainable parameters against the canon."""
    counted = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return _against_canon(spec, "parameters", counted, canon.entry(spec.canon, spec.name).params, "")


@torch.no_grad()
def macs(spec: Spec, network: nn.Module) -> Finding:
    """Multiply-adds of convolutions and linear layers at the canon's input size, against the canon."""
    entry = canon.entry(spec.canon, spec.name)
    image = torch.empty(1, *entry.input, device="meta")
    counts = {name: count(network, image) for name, count in MAC_COUNTERS.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count:,} by {name}" for name, count in counts.items())
        return Finding(spec.name, 1, "macs", "failed", "ours", f"the counters disagree: {told}")
    (counted,) = set(counts.values())
    return _against_canon(spec, "macs", counted, entry.macs, f", by {' and '.join(counts)}")


def _against_canon(spec: Spec, what: str, counted: int, known: canon.Count | None, how: str) -> Finding:
    if known is None:
        evidence = f"{counted:,} counted{how}; the canon has no exact figure"
        return Finding(spec.name, 1, what, "not run", "ours", evidence, counted)
    told = f"the canon's {known.value:,} ({known.by}: {known.source})"
    same = counted == known.value
    evidence = f"{counted:,} counted{how}, {'equal to' if same else 'not'} {told}"
    return Finding(spec.name, 1, what, "passed" if same else "failed", known.by, evidence, counted)


def sizes(spec: Spec, network: nn.Module) -> list[tuple[int, int]]:
    """Heights and widths to try besides the canon's: the smallest and an odd one, or the canon's alone."""
    _, height, width = canon.entry(spec.canon, spec.name).input
    smallest = getattr(network, "smallest_image", None)
    if smallest is None:
        return [(height, width)]
    step = getattr(network, "image_step", 1)  # sides are the smallest and a number of steps more
    return [(smallest, smallest), (smallest + 5 * step, smallest + step * (smallest // step + 1))]


@torch.no_grad()
def shapes(spec: Spec, network: nn.Module) -> Finding:
    """Shapes of logits and maps against what the network states of itself."""
    entry = canon.entry(spec.canon, spec.name)
    tried = sizes(spec, network)
    images = torch.empty(2, entry.input[0], *tried[-1], device="meta")
    with SameShape():
        logits = network(images)
    faults: list[str] = []
    expected = (2, entry.num_classes, *_labelled(spec, network, tried[-1]))
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        faults.append(f"forward of {tuple(images.shape)} gives {_shape(logits)}")
    told = f"logits ({entry.num_classes}) of images {tried[-1]}"
    if isinstance(network, Backbone):
        image = torch.empty(1, entry.input[0], *tried[0], device="meta")
        with SameShape():
            faults += _faults_of_features(network, image)
        told += f", maps of {network.feature_channels} channels at strides {feature_strides(network)}"
    status: Status = "failed" if faults else "passed"
    return Finding(spec.name, 2, "shapes", status, "definition", "; ".join(faults) or told)


def _labelled(spec: Spec, network: nn.Module, size: tuple[int, int]) -> tuple[int, ...]:
    """The sides of the logits: none of a classifier; a segmentation network's margin is not labelled."""
    margin = getattr(network, "margin", 0)
    return tuple(side - 2 * margin for side in size) if spec.task == "segment" else ()


def _faults_of_features(network: Backbone, image: Tensor) -> Iterator[str]:
    """Stride by its definition: an image larger by the coarsest stride has maps larger by a whole number.

    That is tried only of networks which state that they take images larger than the smallest.
    """
    maps, strides = network.features(image), feature_strides(network)
    found = tuple(x.shape[1] for x in maps)
    if found != network.feature_channels or len(strides) != len(maps):
        yield f"features have {found} channels, not {network.feature_channels} at strides {strides}"
    elif hasattr(network, "smallest_image"):
        more = max(strides)
        larger = network.features(functional.pad(image, (0, more, 0, more)))
        growth = [
            tuple(b - a for a, b in zip(x.shape[2:], y.shape[2:], strict=True))
            for x, y in zip(maps, larger, strict=True)
        ]
        stated = [(more // stride, more // stride) for stride in strides]
        if growth != stated:
            yield f"{more} more pixels than {tuple(image.shape[2:])} add {growth} to the maps, not {stated}"


def _shape(output: object) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__


def same_outputs(spec: Spec, oracles: Mapping[str, Oracle] = ORACLES) -> Finding:
    """Outputs and gradients of the image, in float64, against another implementation with the same weights.

    Weights are random, and so are statistics, scales and shifts of batch norm, so that none hides another.
    """
    if spec.name not in oracles:
        told = "no independent implementation is known to the oracles"
        return Finding(spec.name, 3, "same outputs", "not run", "ours", told)
    oracle = oracles[spec.name]
    try:
        theirs = oracle.build().double().eval()
    except ModuleNotFoundError as missing:
        told = f"{oracle.library} is not installed ({missing.name})"
        return Finding(spec.name, 3, "same outputs", "not run", "ours", told)
    by = f"{oracle.library} {version(oracle.library)} {oracle.title}"
    ours = spec.build(**oracle.ours).double().eval()
    draw = torch.Generator().manual_seed(0)
    randomise(theirs, draw)
    try:
        carry_over(oracle.reorder(theirs.state_dict()), ours)
    except (ValueError, RuntimeError) as misfit:
        return Finding(spec.name, 3, "same outputs", "failed", by, f"the weights do not fit: {misfit}")
    channels = canon.entry(spec.canon, spec.name).input[0]
    images = torch.randn(2, channels, oracle.size, oracle.size, dtype=torch.float64, generator=draw)
    errors = [
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(
            _outputs_and_gradient(ours, images), _outputs_and_gradient(theirs, images), strict=True
        )
    ]
    status: Status = "passed" if all(error < TOLERANCE for error in errors) else "failed"
    told = (
        f"same random weights, float64, {' x '.join(map(str, images.shape))}: outputs differ by at most "
        f"{max(errors[:-1]):.1e} of the largest, gradients of the image by {errors[-1]:.1e}"
    )
    if oracle.ours:
        arguments = (f"{name}={getattr(part, '__name__', part)}" for name, part in oracle.ours.items())
        told += f" (ours built with {', '.join(arguments)})"
    return Finding(spec.name, 3, "same outputs", status, by, told)


@torch.no_grad()
def randomise(network: nn.Module, draw: torch.Generator) -> None:
    """Redraw parameters and statistics of batch norm so that values keep their scale from layer to layer.

    Half of the scales of norms are negative, as those of trained networks may be.
    """
    learned = dict(network.named_parameters())
    for name, entry in network.state_dict().items():
        if name.endswith("running_var"):
            entry.uniform_(0.5, 1.5, generator=draw)
        elif name in learned and name.endswith("weight") and entry.ndim == 1:
            entry.uniform_(-1, 1, generator=draw).add_(0.5 * entry.sign())
        elif name in learned and entry.ndim > 1:
            nn.init.kaiming_normal_(entry, nonlinearity="relu", generator=draw)
        elif name in learned or name.endswith("running_mean"):
            entry.normal_(0, 0.2, generator=draw)


def carry_over(entries: Mapping[str, Tensor], network: nn.Module) -> None:
    """Load another definition's entries by position.

    Raises:
        ValueError: there are more or fewer of them than the network has.
        RuntimeError: a shape differs.
    """
    names = list(network.state_dict())
    if len(names) != len(entries):
        raise ValueError(f"the other state dict has {len(entries)} entries and ours {len(names)}")
    network.load_state_dict(dict(zip(names, entries.values(), strict=True)))


def _outputs_and_gradient(network: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_()
    output = network(images)
    outputs = [output] if isinstance(output, Tensor) else list(output)
    draw = torch.Generator().manual_seed(1)
    weighted = [(x * torch.randn(x.shape, dtype=x.dtype, generator=draw)).sum() for x in outputs]
    (gradient,) = torch.autograd.grad(torch.stack(weighted).sum(), images)
    return [*(x.detach() for x in outputs), gradient]
