"""The network that is meant: a registered name, weights in a file, or a function in a person's own file."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from cnnkit import canon
from cnnkit.errors import Failure, Misuse
from cnnkit.inspect.failure import line_of
from cnnkit.inspect.inputs import Form
from cnnkit.models import spec
from cnnkit.weights import load
from cnnkit.weights.preprocessing import Preprocessing

FUNCTION = re.compile(r"(?P<file>.+\.py)(?::(?P<name>.*))?")
#: Files that hold weights.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".net")
#: Functions that draw weights in place.
DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.uniform_, nn.init.kaiming_uniform_)
#: What a person's file is imported as.
MODULE = "cnnkit_inspected"


class _Undrawn(TorchFunctionMode):
    """Draws no weights on the meta device, where that takes seconds and gives nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in DRAWS and (weight := args[0] if args else given["tensor"]).is_meta:
            return weight
        return func(*args, **given)


@dataclass(frozen=True, slots=True)
class Subject:
    """A network that can be built.

    Attributes:
        name: what it is called.
        build: makes it, on the device in force; the second call makes another one with other weights.
        forms: its own input, where that is known.
        entry: what the canon has of it.
        preprocessing: how pictures become its input, where the file tells.
        is_trained: whether `build` gives trained weights, which is one network each time.
        takes_classes: whether `build` takes `num_classes` and `in_channels`.
    """

    name: str
    build: Callable[..., nn.Module]
    forms: tuple[Form, ...] = ()
    entry: canon.Entry | None = None
    preprocessing: Preprocessing | None = None
    is_trained: bool = False
    takes_classes: bool = False

    def hollow(self) -> nn.Module:
        """The network without memory for weights, where its constructor allows that."""
        if self.is_trained:
            return self.build()
        try:
            with torch.device("meta"), _Undrawn(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that weights which it loads go nowhere
                return self.build()
        except Misuse:  # some constructors compute with numbers, which meta tensors do not have
            return self.build()

    def real(self, seed: int = 0, **overrides: Any) -> nn.Module:
        """The network with weights, drawn from the seed where they are not trained."""
        torch.manual_seed(seed)
        return self.build(**overrides)

    def called_with(self, forms: tuple[Form, ...]) -> Subject:
        """The same with these inputs, or with its own where none are given.

        Raises:
            Misuse: there are none at all.
        """
        if not (forms or self.forms):
            raise Misuse(f"say what goes into {self.name} with --input, as in --input 3,224,224")
        return replace(self, forms=forms or self.forms)


def subject(source: str) -> Subject:
    """Find a network: `resnet50`, `runs/classify/x`, `best.safetensors`, `net.py:build`.

    Raises:
        Misuse: there is none of that name; with the nearest names.
        Failure: a file cannot be read.
    """
    if found := FUNCTION.fullmatch(source):
        return of_file(Path(found["file"]), found["name"])
    if Path(source).suffix in SUFFIXES or "/" in source or Path(source).is_dir():
        return of_weights(source)
    try:
        row = spec(source)
    except LookupError as error:
        raise Misuse(str(error)) from None
    entry = canon.entry(row.canon, row.name)
    return Subject(row.name, row.build, (Form(entry.input),), entry, takes_classes=row.task == "classify")


def of_weights(source: str) -> Subject:
    """A network with its weights, from anything that `cnnkit.weights.load` takes."""
    loaded = load(source)
    row = spec(loaded.name)
    entry = canon.entry(row.canon, row.name)
    told = loaded.preprocessing
    form = Form(entry.input if told is None else (len(told.mean), *told.size))
    default = {"num_classes": entry.num_classes, "in_channels": entry.input[0]}
    published = all(default.get(name) == value for name, value in loaded.arguments.items())
    return Subject(
        Path(source).name if Path(source).suffix else f"{loaded.name} of {Path(source).name}",
        lambda: loaded.model,
        (form,),
        entry if published else None,
        told,
        is_trained=True,
    )


def of_file(path: Path, name: str | None) -> Subject:
    """What a function or class of a Python file makes, or a network that stands in it. The file is run.

    What it prints goes to standard error.

    Raises:
        Misuse: there is no such file or function, it fails, or it makes no `nn.Module`.
    """
    if not path.is_file():
        raise Misuse(f"there is no file {path}")
    module = run(path)
    makers = [k for k, v in vars(module).items() if isfunction(v) or isclass(v) if v.__module__ == MODULE]
    known = f"; it has {', '.join(makers)}" if makers else ""
    if not name:
        raise Misuse(
            f"say which function of {path} makes the network, as in {path}:{(makers or ['build'])[0]}"
        )
    if name not in vars(module):
        raise Misuse(f"{path} has no {name!r}{known}")
    made = vars(module)[name]
    if isinstance(made, nn.Module):
        return Subject(name, lambda: made, is_trained=True)
    if not callable(made):
        raise Misuse(f"{name!r} in {path} is {kind(made)}, not a function or class{known}")
    return Subject(name, partial(built, made, f"{path}:{name}"))


def run(path: Path) -> Any:
    """Run a file as a module of its own, with its folder first among those that it imports from."""
    found = importlib.util.spec_from_file_location(MODULE, path)
    if found is None or found.loader is None:
        raise Misuse(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with redirect_stdout(sys.stderr):
            found.loader.exec_module(module)
    except Failure:
        raise
    except Exception as error:
        raise Misuse(f"{path} cannot be run: {told(error)}") from error
    return module


def built(make: Callable[[], Any], what: str) -> nn.Module:
    """Call a person's function."""
    try:
        with redirect_stdout(sys.stderr):
            made = make()
    except Exception as error:
        raise Misuse(f"{what}() fails: {told(error)}") from error
    if not isinstance(made, nn.Module):
        raise Misuse(f"{what}() returns {kind(made)}, not a torch.nn.Module")
    return made


def kind(value: object) -> str:
    """What it is, with its article."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def told(error: Exception) -> str:
    """An error of somebody else's code in one line, with its place."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} is no Python: {error.msg}"
    words = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return (
        f"{type(error).__name__}: {words}{line_of(error)}"
        if words
        else f"{type(error).__name__}{line_of(error)}"
    )
