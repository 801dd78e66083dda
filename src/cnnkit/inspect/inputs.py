"""What a network is called with, as a person writes it: `3,224,224`, `int64:16`, `question=int64:16`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnkit.errors import Misuse

TYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)
GRAMMAR = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<listed>list:)?(?:(?P<type>\w+):)?(?P<shape>[\d,x]*)")
#: More elements than this for one input are a slip of the hand.
MOST = 1 << 34


@dataclass(frozen=True, slots=True)
class Form:
    """One input, of which only the form is given.

    Attributes:
        shape: of one example, the batch left out.
        dtype: its type of number, by torch's name.
        name: the argument that it is given for; in order where there is none.
        listed: whether it is a list with a tensor for each example, as detectors take images.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None
    listed: bool = False

    @staticmethod
    def read(text: str) -> Form:
        """From `[NAME=][list:][TYPE:]N,N,...`; `int64:` alone is a number for each example.

        Raises:
            Misuse: it is none.
        """
        found = GRAMMAR.fullmatch(text.replace(" ", ""))
        if found is None or not (found["shape"] or found["type"]):
            raise Misuse(
                f"{text!r} is no input: write the shape of one example as 3,224,224, with another type as "
                "int64:16, for a named argument as question=int64:16, for a list of images as list:3,480,640"
            )
        if found["type"] is not None and found["type"] not in TYPES:
            raise Misuse(f"{found['type']!r} in {text!r} is no type of number; there are {', '.join(TYPES)}")
        parts = re.split("[,x]", found["shape"]) if found["shape"] else []
        if not all(parts) or not all(map(int, parts)) or math.prod(map(int, parts)) > MOST:
            raise Misuse(f"{text!r} is no shape: every side is a whole number from 1, as in 3,224,224")
        shape = tuple(map(int, parts))
        return Form(shape, found["type"] or "float32", found["name"], found["listed"] is not None)

    def tensor(self, batch: int, device: str, seed: int = 0) -> Tensor | list[Tensor]:
        """A tensor of this form; with numbers (normal ones, zeros where they must be whole) but on `meta`."""
        dtype = getattr(torch, self.dtype)

        def made(shape: tuple[int, ...]) -> Tensor:
            if device == "meta" or not dtype.is_floating_point:
                return torch.zeros(shape, dtype=dtype, device=device)
            generator = torch.Generator().manual_seed(seed)
            return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

        return [made(self.shape) for _ in range(batch)] if self.listed else made((batch, *self.shape))


def arguments(
    forms: Sequence[Form], batch: int, device: str = "meta"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the network is called with: in order, and by name.

    Raises:
        Misuse: two are given for the same argument.
    """
    named = [form.name for form in forms if form.name is not None]
    if twice := {name for name in named if named.count(name) > 1}:
        raise Misuse(f"--input is given twice for {', '.join(sorted(twice))}")
    inputs = tuple(form.tensor(batch, device) for form in forms if form.name is None)
    return inputs, {form.name: form.tensor(batch, device) for form in forms if form.name is not None}
