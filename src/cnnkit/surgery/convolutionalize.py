"""A classifier of crops made into one that slides over larger images.

Sermanet et al., "OverFeat", ICLR 2014, arXiv:1312.6229, and Simonyan & Zisserman, arXiv:1409.1556, section
3.2: a linear layer over flattened maps (C, H, W) is a convolution with kernels of H x W, the linear layers
after it are 1 x 1 convolutions, and global pooling is pooling over windows of the size that the map has for
one crop.
"""

import copy
import operator
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cnnkit.layers import ResponseNorm
from cnnkit.ops.fully_connected import as_kernels

#: What a node of the graph carries: maps, maps after a pooling to one size, a vector for each image, numbers.
Kind = Literal["maps", "pooled", "vector", "size"]

#: Layers that act on each number by itself, so on vectors as on maps.
POINTWISE: tuple[Any, ...] = (
    *(nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Softplus),
    *(nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.silu),
    *(functional.dropout, functional.leaky_relu, functional.elu, functional.gelu, functional.hardswish),
    *("relu", "relu_", "sigmoid", "tanh", "contiguous", "clone"),
)
#: Layers of maps that move with the image and have a stride.
SLIDING: tuple[Any, ...] = (
    *(nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, functional.max_pool2d, functional.avg_pool2d),
    operator.getitem,  # x[:, :, ::2, ::2]
)
#: Other layers of maps that move with the image.
MAPWISE: tuple[Any, ...] = (
    *(nn.BatchNorm2d, nn.LocalResponseNorm, ResponseNorm, nn.Dropout2d, nn.PReLU, nn.ChannelShuffle),
    *(nn.ZeroPad2d, nn.ConstantPad2d, functional.pad),
    *(operator.add, operator.iadd, operator.sub, operator.mul, operator.imul),
    *(torch.add, torch.mul, torch.cat, torch.chunk, torch.split, "add", "add_", "mul", "chunk", "split"),
)
#: The position of the axis among the arguments of what joins or cuts maps; it must be that of the channels.
ALONG: dict[Any, int] = {torch.cat: 1, torch.chunk: 2, torch.split: 2, "chunk": 2, "split": 2}
FLATTENINGS: tuple[Any, ...] = (nn.Flatten, torch.flatten, torch.reshape, "flatten", "view", "reshape")
MEANS: tuple[Any, ...] = (torch.mean, "mean")
POOLINGS: dict[Any, type[nn.Module]] = {
    nn.AdaptiveAvgPool2d: nn.AvgPool2d,
    nn.AdaptiveMaxPool2d: nn.MaxPool2d,
    functional.adaptive_avg_pool2d: nn.AvgPool2d,
    functional.adaptive_max_pool2d: nn.MaxPool2d,
}
#: What may be computed from sizes: a `view` asks for that of the batch.
SIZES: tuple[Any, ...] = (operator.getitem, operator.mul, operator.floordiv)


def convolutionalize(model: nn.Module, crop: tuple[int, int, int] = (3, 224, 224)) -> fx.GraphModule:
    """A copy of the classifier that gives scores at every position of a larger image.

    The positions are as far apart as all strides of the network together; `meta["stride"]` of the result says
    how far. The score at (i, j) is what the classifier gives on the crop that begins i and j such steps from
    the image's corner, wherever no layer pads. Where layers pad, a crop by itself has zeros around it, at
    every layer, and a window of a larger image has its surroundings: there the score is what the classifier's
    head gives on that window of the maps, and it is the classifier's own on an image of the size of a crop.
    The result is in evaluation mode, and its parameters keep their names.

    Recognised, from the front to the back:

    - what moves with the image: Conv2d, BatchNorm2d, LocalResponseNorm, max and average pooling, padding by a
      constant, dropout, activations; sums, products and concatenations of maps, and cuts along the channels;
    - a pooling to a given size, as a module or a function, or a mean over both axes: to 1 x 1 it becomes
      pooling over windows of the size that the map has for a crop, at stride 1; to the size that the map has
      anyway it falls away;
    - `nn.Flatten`, or `flatten`, `view` or `reshape` in a `forward`, of (N, C, H, W) to (N, C * H * W);
    - linear layers, BatchNorm1d, dropout, activations, softmax over the classes.

    Args:
        crop: (C, H, W) of the images that the classifier takes.

    Shape: (N, C, H, W) -> (N, classes, positions down, positions across), 1 x 1 for a crop

    Raises:
        ValueError: the model does not take such images, its `forward` cannot be followed because it decides
            by values, or it holds anything that is not in the list: the message names it.
    """
    name = type(model).__name__
    try:
        copied = copy.deepcopy(model).eval()
        traced = fx.GraphModule(copied, _Tracer().trace(copied))
    except Exception as error:  # a forward may do anything with what it is given
        raise ValueError(f"the forward of {name} cannot be followed: {_first_line(error)}") from error
    try:
        shapes = _shapes(traced, crop)
    except Exception as error:
        raise ValueError(f"{name} does not take images of {crop}: {_first_line(error)}") from error
    traced.meta["stride"] = _Conversion(name, traced, shapes).run()
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """Follows a forward down to the layers that are known."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ResponseNorm) or super().is_leaf_module(m, module_qualified_name)


class _Shapes(fx.Interpreter):
    """Notes the shape of every node's value."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


def _shapes(traced: fx.GraphModule, crop: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """For two crops, without computing anything."""
    interpreter = _Shapes(copy.deepcopy(traced).to("meta"))
    dtypes = [p.dtype for p in traced.parameters()] or [torch.get_default_dtype()]
    interpreter.run(torch.empty(2, *crop, device="meta", dtype=dtypes[0]))
    return interpreter.shapes


class _Conversion:
    """One walk along the graph, in order: each node is changed by what its inputs carry."""

    def __init__(self, model: str, traced: fx.GraphModule, shapes: dict[str, tuple[int, ...]]) -> None:
        self.model, self.traced, self.shapes = model, traced, shapes
        self.kinds: dict[fx.Node, Kind] = {}
        self.strides: dict[fx.Node, tuple[int, int]] = {}
        self.vectors: dict[
            fx.Node, tuple[int, ...]
        ] = {}  # the maps (C, H, W) that a vector was flattened from
        self.swapped: dict[str, object] = {}
        self.passing: list[fx.Node] = []

    def run(self) -> tuple[int, int]:
        """Convert, and tell how far apart the positions are."""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.kinds[node], self.strides[node] = "maps", (1, 1)
            elif node.op == "output":
                stride = self._end(node)
            else:
                self._convert(node)
        for node in self.passing:
            node.replace_all_uses_with(node.all_input_nodes[0])
            self.traced.graph.erase_node(node)
        return stride

    def _convert(self, node: fx.Node) -> None:
        inputs = [n for n in node.all_input_nodes if self.kinds[n] != "size"]
        what = type(self._module(node)) if node.op == "call_module" else node.target
        if what in ("size", "dim") or (what is getattr and node.args[1] == "shape"):
            self.kinds[node] = "size"
            return
        if what in SIZES and not inputs:
            self.kinds[node] = "size"
            return
        numbers = len(node.all_input_nodes) - len(inputs)
        strides = {self.strides[n] for n in inputs}
        # not: a value of the model itself, maps whose cells do not lie on each other, sizes among the values
        if len(strides) != 1 or (numbers and what not in FLATTENINGS):
            raise self._unknown(node)
        self.strides[node] = strides.pop()
        kinds = {self.kinds[n] for n in inputs}
        if kinds == {"vector"}:
            self._vector(node, what, inputs)
        elif what in FLATTENINGS:
            self._flatten(node, inputs[0])
        elif what in POOLINGS:
            self._pool(node, inputs[0], POOLINGS[what])
        elif what in MEANS:
            self._mean(node, inputs[0])
        elif what in POINTWISE:
            self.kinds[node] = self.kinds[inputs[0]]
        elif kinds == {"maps"} and what in (*SLIDING, *MAPWISE):
            self._maps(node, what, inputs)
        else:
            raise self._unknown(node)

    def _maps(self, node: fx.Node, what: Any, inputs: list[fx.Node]) -> None:
        """A layer that moves with the image."""
        cut = inputs[0].name not in self.shapes  # into several maps, of which this node takes one
        if cut and (what is not operator.getitem or not isinstance(node.args[1], int)):
            raise self._unknown(node)
        if len({self.shapes[n.name][2:] for n in inputs if not cut}) > 1:
            raise self._unknown(node)
        if what in ALONG and _argument(node, ALONG[what], "dim") != 1:
            raise self._unknown(node)
        self.kinds[node] = "maps"
        if cut or what not in SLIDING:
            return
        if what is operator.getitem:
            self._thin(node)
            return
        window = _window(node, self._module(node) if node.op == "call_module" else None)
        size = self.shapes[inputs[0].name][2:]
        plain = window["padding"] == (0, 0) and window["dilation"] == (1, 1)
        if what in (nn.AvgPool2d, nn.MaxPool2d) and plain and window["kernel"] == size:
            self._pool(node, inputs[0], what)  # one window on a crop: its stride says nothing
            return
        vertical, horizontal = self.strides[node]
        self.strides[node] = vertical * window["stride"][0], horizontal * window["stride"][1]

    def _thin(self, node: fx.Node) -> None:
        """Every so many rows and columns, as shortcuts without parameters take them."""
        parts: Any = node.args[1]
        if not isinstance(parts, tuple) or any(p != slice(None, None, getattr(p, "step", 0)) for p in parts):
            raise self._unknown(node)
        steps: list[Any] = [part.step or 1 for part in parts] + [1] * (4 - len(parts))
        if steps[:2] != [1, 1]:
            raise self._unknown(node)
        vertical, horizontal = self.strides[node]
        self.strides[node] = vertical * steps[2], horizontal * steps[3]

    def _vector(self, node: fx.Node, what: Any, inputs: list[fx.Node]) -> None:
        """A layer of the head: its vector stands for maps."""
        if len(inputs) > 1:
            raise self._unknown(node)
        maps = self.vectors[inputs[0]]
        single = maps[1:] == (1, 1)
        if what is nn.Linear:
            linear = self._module(node)
            self._swap(node, inputs[0], _as_convolution(linear, maps), maps)
            maps = (linear.out_features, 1, 1)
        elif what is nn.BatchNorm1d and single:
            self._swap(node, inputs[0], _over_maps(self._module(node)), maps)
        elif what in (nn.Softmax, nn.LogSoftmax) and single and self._module(node).dim in (1, -1):
            self._swap(node, inputs[0], what(dim=1), maps)
        elif what in FLATTENINGS and self.shapes[node.name] == self.shapes[inputs[0].name]:
            self.passing.append(node)
        elif what not in POINTWISE:
            raise self._unknown(node)
        self.kinds[node], self.vectors[node] = "vector", maps

    def _flatten(self, node: fx.Node, source: fx.Node) -> None:
        images, *maps = self.shapes[source.name]
        if len(maps) != 3 or self.shapes[node.name] != (images, prod(maps)):
            raise self._unknown(node)
        self.passing.append(node)
        self.kinds[node], self.vectors[node] = "vector", tuple(maps)

    def _pool(self, node: fx.Node, source: fx.Node, window: type[nn.Module]) -> None:
        size, asked = self.shapes[source.name][2:], self.shapes[node.name][2:]
        if asked == size:
            self.passing.append(node)
        elif asked == (1, 1):
            self._swap(node, source, window(size, stride=1), size)
        else:
            raise ValueError(
                f"{self.model} pools maps of {tuple(size)} to {tuple(asked)} at {node.name}: a pooling that "
                "slides goes to 1 x 1, or to the size that the map has anyway"
            )
        self.kinds[node] = "pooled"

    def _mean(self, node: fx.Node, source: fx.Node) -> None:
        before, after = self.shapes[source.name], self.shapes[node.name]
        axes = _argument(node, 1, "dim")
        if len(before) != 4 or axes not in ([2, 3], (2, 3), [-2, -1], (-2, -1), [-1, -2], (-1, -2)):
            raise self._unknown(node)
        self._swap(node, source, nn.AvgPool2d(before[2:], stride=1), before)
        self.kinds[node] = "vector" if after == before[:2] else "pooled"
        self.vectors[node] = (before[1], 1, 1)

    def _end(self, node: fx.Node) -> tuple[int, int]:
        scores = node.args[0]
        if not isinstance(scores, fx.Node) or self.kinds[scores] != "vector":
            raise ValueError(f"{self.model} does not end in one vector of scores for each image")
        if self.vectors[scores][1:] != (1, 1):
            raise ValueError(f"{self.model} ends in flattened maps that no linear layer reads")
        return self.strides[scores]

    def _swap(self, node: fx.Node, source: fx.Node, module: nn.Module, window: object) -> None:
        """Let a node call another module, at the place of its own where it has one."""
        target = str(node.target) if node.op == "call_module" else f"{node.name}_window"
        if self.swapped.setdefault(target, window) != window:
            raise ValueError(f"{self.model} uses {target} on maps of different sizes")
        self.traced.add_submodule(target, module.train(self.traced.training))
        node.op, node.target, node.args, node.kwargs = "call_module", target, (source,), {}

    def _module(self, node: fx.Node) -> Any:
        return self.traced.get_submodule(str(node.target))

    def _unknown(self, node: fx.Node) -> ValueError:
        what = type(self._module(node)) if node.op == "call_module" else node.target
        what = getattr(what, "__name__", what)
        if any(self.kinds[n] == "pooled" for n in node.all_input_nodes):
            why = "it reads maps that were pooled to one size, as the classifier alone may"
        else:
            why = "it is not known to slide over an image"
        return ValueError(f"{self.model} uses {what} at {node.name}: {why}")


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _window(node: fx.Node, module: Any) -> dict[str, tuple[int, int]]:
    """Kernel, stride, padding and dilation of a sliding layer."""
    given: dict[str, Any] = dict(node.kwargs)
    for name, value in zip(("input", "kernel_size", "stride", "padding"), node.args, strict=False):
        given[name] = value
    if module is not None:
        given = vars(module)
    kernel = given["kernel_size"]
    named = {"kernel": kernel, "stride": given.get("stride") or kernel}
    named |= {"padding": given.get("padding", 0), "dilation": given.get("dilation", 1)}
    return {k: (v, v) if isinstance(v, int | str) else tuple(v) for k, v in named.items()}


def _as_convolution(linear: nn.Linear, maps: tuple[int, ...]) -> nn.Conv2d:
    """A linear layer over flattened maps, as kernels of the maps' size; its numbers are the same tensor."""
    kernel = (maps[1], maps[2])
    made = nn.Conv2d(maps[0], linear.out_features, kernel, bias=linear.bias is not None, device="meta")
    kernels = as_kernels(linear.weight.detach(), maps)
    made.weight = nn.Parameter(kernels, requires_grad=linear.weight.requires_grad)
    made.bias = linear.bias
    return made


def _over_maps(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.__dict__ = copy.copy(norm.__dict__)  # the same tensors; only the shape that is accepted differs
    return made
