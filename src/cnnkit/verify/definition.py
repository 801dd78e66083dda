"""Official definitions for Caffe, run by torch: `definitions/NETWORK.txt`.

A file holds the layers that the authors' prototxt has, one a line in their order, without what only training
needs; layers that work in place stand behind a bar:

    conv1_1 = conv data 64 k3 p100 | bn | relu
    pool1,mask1 = pool conv1_1 max k2 s2
    score = crop upscore,data 31

A convolution has its outputs, kernel (k), stride (s), padding (p), dilation (d) and groups (g). Poolings
round up, as Caffe's do; an unpooling makes a map as large as the one that its mask was taken from. The
entries of the state dict are in the order of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """One line.

    Attributes:
        tops: the maps that it makes.
        bottoms: the maps that it reads.
    """

    def __init__(self, line: str, channels: Mapping[str, int], width: float) -> None:
        super().__init__()
        made, _, rest = line.partition(" = ")
        first, *in_place = (part.split() for part in rest.split(" | "))
        kind, bottoms, *arguments = first
        self.tops, self.bottoms = made.split(","), bottoms.split(",")
        self.kind, self.arguments = kind, arguments
        arriving = channels[self.bottoms[0]]
        self.module, self.channels = _module(kind, arguments, arriving, width)
        self.after = nn.Sequential(*(IN_PLACE[name](self.channels) for (name,) in in_place))

    def forward(self, blobs: dict[str, Any]) -> None:
        """Read the bottoms and add the tops; a mask carries the size of the map that it was taken from."""
        x, *others = (blobs[name] for name in self.bottoms)
        if len(self.tops) == 2:
            y, mask = functional.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True)
            blobs[self.tops[1]] = mask, x.shape[2:]
        elif self.module is not None:
            y = self.module(x, *others)
        else:
            y = FUNCTIONS[self.kind](x, *others, *map(float, self.arguments))
        blobs[self.tops[0]] = self.after(y)


class MeanField(nn.Module):
    """Rounds of mean field with the full matrix of all pairs, by its definition.

    The weights are those of Caffe's layer, whose compatibility here is added and not subtracted.
    """

    def __init__(self, labels: int, rounds: int, alpha: float, beta: float, gamma: float) -> None:
        super().__init__()
        self.rounds, self.alpha, self.beta, self.gamma = rounds, alpha, beta, gamma
        self.spatial, self.bilateral, self.compatibility = (nn.Parameter(torch.eye(labels)) for _ in range(3))

    def forward(self, unary: Tensor, images: Tensor) -> Tensor:
        count, labels, height, width = unary.shape
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(unary)
        away = (places[:, None] - places[None, :]).square().sum(2)
        colours = images.detach().flatten(2).transpose(1, 2)
        unlike = (colours[:, :, None] - colours[:, None, :]).square().sum(3)
        near = torch.exp(-away / (2 * self.gamma**2)).expand(count, -1, -1)
        alike = torch.exp(-away / (2 * self.alpha**2) - unlike / (2 * self.beta**2))
        u = unary.flatten(2)
        q = u
        for _ in range(self.rounds):
            p = q.softmax(1)
            heard = [torch.einsum("nij,nlj->nli", k, p) / k.sum(2)[:, None] for k in (near, alike)]
            q = u + self.compatibility @ (self.spatial @ heard[0] + self.bilateral @ heard[1])
        return q.reshape(count, labels, height, width)


class Definition(nn.Module):
    """A network as its authors' definition has it.

    Args:
        name: of the file.
        width: multiplies the outputs of layers that have at least 64, which scores have not.
    """

    def __init__(self, name: str, width: float = 1.0) -> None:
        super().__init__()
        channels = {"data": 3}
        self.layers = nn.ModuleList()
        for line in _text(name).splitlines():
            if not line.startswith("#"):
                layer = Layer(line, channels, width)
                channels |= dict.fromkeys(layer.tops, layer.channels)
                self.layers.append(layer)
                self.answer = layer.tops[0]

    def forward(self, images: Tensor) -> Tensor:
        """The last map of the file."""
        blobs: dict[str, Any] = {"data": images}
        for layer in self.layers:
            layer(blobs)
        return blobs[self.answer]


def source(name: str) -> str:
    """Whose definition it is: the repository and the file."""
    return _text(name).partition("\n")[0].removeprefix("# ")


def _text(name: str) -> str:
    return files(__package__).joinpath("definitions", f"{name}.txt").read_text("utf-8")


def _module(kind: str, arguments: list[str], arriving: int, width: float) -> tuple[nn.Module | None, int]:
    """The module of a line, None where it has none, and the channels that it makes."""
    given = {a.rstrip("0123456789."): float(a.lstrip("abcdefghijklmnopqrstuvwxyz") or 0) for a in arguments}
    k, s, p, d, g = (int(given.get(key, else_)) for key, else_ in zip("kspdg", (1, 1, 0, 1, 1), strict=True))
    bias, out = "nobias" not in given, int(given.get("", 0))
    out = int(width * out) if out >= 64 else out
    if kind == "conv":
        return nn.Conv2d(arriving, out, k, s, p, d, g, bias), out
    if kind == "deconv":
        return nn.ConvTranspose2d(arriving, out, k, s, p, 0, g, bias, d), out
    if kind == "pool":
        pooling = nn.AvgPool2d if "ave" in given else nn.MaxPool2d
        return pooling(k, s, p, ceil_mode=True), arriving
    if kind == "lrn":
        return nn.LocalResponseNorm(int(given["n"]), given["a"], given["b"], 1.0), arriving
    if kind == "meanfield":
        rounds, *thetas = (given[name] for name in ("rounds", "alpha", "beta", "gamma"))
        return MeanField(arriving, int(rounds), *thetas), arriving
    return None, arriving


def _crop(maps: Tensor, like: Tensor, offset: float) -> Tensor:
    start = int(offset)
    return maps[:, :, start : start + like.shape[2], start : start + like.shape[3]]


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=True)


def _unpool(values: Tensor, mask: tuple[Tensor, Sequence[int]]) -> Tensor:
    chosen, (height, width) = mask
    zeros = values.new_zeros(*values.shape[:2], height * width)
    return zeros.scatter(2, chosen.flatten(2), values.flatten(2)).reshape(*values.shape[:2], height, width)


IN_PLACE: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda channels: nn.ReLU(),
    "bn": nn.BatchNorm2d,
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "crop": _crop,
    "sum": torch.add,
    "times": torch.mul,
    "resize": _resize,
    "unpool": _unpool,
}
