"""Gradients of networks that are named, on data that are named: the question `cnnkit inspect --gradients`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnkit.data import DataSet
from cnnkit.data.batches import fitted, statistics
from cnnkit.data.sets import Part
from cnnkit.errors import Misuse
from cnnkit.inspect.flows import chart, record, text
from cnnkit.inspect.gradients import Flow, batch_loss, flow
from cnnkit.inspect.otherwise import CHANGES, study
from cnnkit.inspect.questions import Answer, traced
from cnnkit.inspect.subject import Subject
from cnnkit.weights.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]
Told = Callable[[str], None]
#: Images of a study of stacks, where no data are given.
SMALL = (3, 32, 32)
SEED = 0


def descended(
    some: Sequence[Subject],
    changes: Sequence[Sequence[str]],
    data: DataSet | None,
    *,
    steps: int,
    batch: int,
    told: Told,
) -> Answer:
    """Norms of activations and gradients, at first and after some steps, of networks and changed ones.

    Args:
        some: networks; without one, stacks of equal layers are compared.
        changes: for each comparison what is changed, names of `CHANGES`.
        data: where the images come from; without it images and labels are random.
        steps: of gradient descent; 0 measures at initialisation alone.
        batch: images a step.
        told: is called with what is being done.

    Raises:
        Misuse: a network is no classifier, or has nothing that could be changed.
    """
    moments = (0, steps) if steps else (0,)
    flows: list[Flow] = []
    if not some:
        told("stacks of equal layers")
        flows += study(*next(iter(batches(SMALL, 10, None, data, batch, 0))), steps=moments, seed=SEED)
    for one in some:
        shape, classes = form_of(one, data)
        given = batches(shape, classes, one.preprocessing, data, batch, steps)
        arguments = {"num_classes": classes, "in_channels": shape[0]} if one.takes_classes else {}
        for names in [(), *changes]:
            model, loss = one.real(SEED, **arguments), batch_loss(*given)
            for name in names:
                model, loss = CHANGES[name](model, loss)
            title = ", ".join([one.name, *names])
            flows += flow(
                model,
                loss,
                name=title,
                steps=moments,
                start="as trained" if one.is_trained else "at initialisation",
                told=partial(announce, told, title, steps),
            )
    return Answer(record(flows), [text(flows)], [w for f in flows if (w := f.warning)], picture=chart(flows))


def announce(told: Told, name: str, steps: int, step: int) -> None:
    """Say which step of which network comes."""
    told(f"{name}: step {step} of {steps}")


def form_of(one: Subject, data: DataSet | None) -> tuple[tuple[int, ...], int]:
    """Shape of an image, and the number of classes to build or to draw labels from.

    Raises:
        Misuse: the network does not read one batch of images.
    """
    form = one.forms[0]
    if len(one.forms) > 1 or len(form.shape) != 3 or form.listed or form.dtype != "float32":
        raise Misuse(f"gradients are measured in classifiers of images, and {one.name} reads something else")
    if data is not None and one.takes_classes:
        return form.shape, len(data.classes)
    if one.entry is not None:
        return form.shape, one.entry.num_classes
    outs = traced(one, 1)[1].root.outs
    return form.shape, outs[0].shape[-1] if outs and outs[0].shape else 1


def batches(
    shape: tuple[int, ...],
    classes: int,
    to: Preprocessing | None,
    data: DataSet | None,
    batch: int,
    steps: int,
) -> list[Batch]:
    """A batch for each step and one before, of different images as far as there are enough."""
    generator = torch.Generator().manual_seed(SEED)
    if data is None:
        images = torch.randn(batch, *shape, generator=generator)
        return [(images, torch.randint(0, classes, (batch,), generator=generator))]
    part = data.parts.get("train") or next(iter(data.parts.values()))
    to = to or preprocessing(shape, part)
    order = torch.randperm(len(part), generator=generator)[: batch * (steps + 1)]
    images = to.normalise(fitted(part, to, order.tolist()))
    labels = torch.tensor(part.labels)[order]
    starts = range(0, len(order), batch)
    return [(images[i : i + batch], labels[i : i + batch]) for i in starts if len(order) - i > 1]


def preprocessing(shape: tuple[int, ...], part: Part) -> Preprocessing:
    """Images of a part made to fit a network: scaled to its size, with mean 0 and deviation 1.

    Raises:
        Misuse: pictures do not have so many channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise Misuse(f"pictures have 1 or 3 channels, and the network reads {channels}")
    plain: dict[str, Any] = {
        "size": (height, width),
        "fit": "squash",
        "channels": "L" if channels == 1 else "RGB",
    }
    mean, std = statistics(part, Preprocessing(**plain, mean=(0.0,) * channels, std=(1.0,) * channels))
    return Preprocessing(**plain, mean=mean, std=std)
