"""What the operators are made of: elementary tensor operations, bounded memory, and no autograd."""

import ast
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cnnkit import ops
from cnnkit.ops.convolution import ALGORITHMS

#: Parts of the names of operators that ours define and so must not call.
DEFINED_HERE = ("conv", "pool", "im2col", "col2im", "unfold", "fold", "norm", "linear", "dropout")


class Called(TorchDispatchMode):
    """Records the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket._qualified_op_name)
        return func(*args, **(kwargs or {}))


class Allocated(TorchDispatchMode):
    """Adds up what is allocated and not yet freed, in bytes; `peak` is the most that it was."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return results

    def _hold(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.held:
            self.held[key] = storage.nbytes()
            weakref.finalize(storage, self.held.pop, key, None)
            self.peak = max(self.peak, sum(self.held.values()))


def everything(images: Tensor, kernels: Tensor, bias: Tensor, name: Any) -> list[Tensor]:
    """Values and gradients of all operators of this folder's convolution."""
    options: Any = dict(padding=1, algorithm=name)
    value = ops.correlate(images, kernels, bias, **options)
    up = ops.correlate_transposed(value, kernels, **options)
    found = [value, up, *ops.correlate_backward(value, images, kernels, **options)]
    found += ops.convolve_backward(value, images, kernels, **options)
    found += ops.correlate_transposed_backward(up, value, kernels, **options)
    return found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_no_operator_of_pytorch_is_called_that_is_defined_here(name: str) -> None:
    with Called() as called:
        everything(torch.randn(2, 4, 9, 9), torch.randn(4, 4, 3, 3), torch.randn(4), name)
    assert any("mm" in each for each in called.names)
    assert [each for each in called.names if any(part in each for part in DEFINED_HERE)] == []


def test_the_recorder_sees_what_it_looks_for() -> None:
    with Called() as called:
        torch.nn.functional.conv2d(torch.randn(1, 1, 3, 3), torch.randn(1, 1, 3, 3))
        torch.nn.functional.unfold(torch.randn(1, 1, 3, 3), 3)
    assert {"aten::convolution", "aten::im2col"} <= called.names


@pytest.mark.parametrize("name", ALGORITHMS)
def test_results_carry_no_graph(name: str) -> None:
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((2, 4, 9, 9), (4, 4, 3, 3), (4,))]
    assert not any(each.requires_grad for each in everything(inputs[0], inputs[1], inputs[2], name))


def test_the_folder_imports_no_modules_and_no_autograd() -> None:
    files = sorted(Path(ops.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                assert not name.startswith(("torch.nn", "torch.autograd", "torchvision")), (file.name, name)


IMAGE = 4096 * 4096 * 4


def forward(images: Tensor, kernels: Tensor, name: Any) -> None:
    ops.correlate(images, kernels, padding=2, algorithm=name)


def into_images(images: Tensor, kernels: Tensor, name: Any) -> None:
    ops.images_gradient(images, kernels, images.shape[2:], padding=2, algorithm=name)


def into_kernels(images: Tensor, kernels: Tensor, name: Any) -> None:
    ops.kernels_gradient(images, images, kernels.shape[2:], padding=2, algorithm=name)


@pytest.mark.parametrize("name", ["direct", "im2col", "fft"])
@pytest.mark.parametrize("compute", [forward, into_images, into_kernels])
def test_a_large_image_is_not_copied_for_every_tap(compute: Callable[..., None], name: str) -> None:
    """Unrolled for 25 taps, 64 MB would be 1.7 GB. With itself, output, padding and pieces: five images."""
    images, kernels = torch.ones(1, 1, 4096, 4096), torch.ones(1, 1, 5, 5)
    with Allocated() as allocated:
        compute(images, kernels, name)
    assert IMAGE <= allocated.peak <= 5 * IMAGE


def test_the_meter_reads_what_is_held_at_once() -> None:
    with Allocated() as allocated:
        kept = torch.zeros(1000) + 1
        for _ in range(3):
            torch.zeros(500)
    assert kept.sum() == 1000
    assert allocated.peak == 4 * (1000 + 1000)
