"""Networks stored by Deep Compression. Han, Mao & Dally, ICLR 2016, arXiv:1510.00149.

The layout of the authors' published files, little-endian and without a header: first the number of stored
weights of each layer (uint32); then, for each layer in turn, its codebook of 2^b values (float32), its
bias (float32), the b-bit code of each stored weight, and the gaps between stored weights, 4 bits each.
Codes and gaps narrower than a byte share one, the low half first. The p-th stored weight stands at sum_{q
<= p} (gap_q + 1) - 1 of the flattened tensor; all others are code 0, whose value is 0. A gap of more than
15 is bridged by stored weights of code 0. The paper's last step, Huffman coding, is left out in these
files.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnnkit.errors import Failure
from cnnkit.models import create
from cnnkit.weights.preprocessing import Preprocessing


class Layer(NamedTuple):
    """A layer of a compressed file.

    Attributes:
        name: of the module; `name.weight` and `name.bias` are its entries.
        shape: of its weight, outputs first.
        bits: width of a code, 4 or 8.
    """

    name: str
    shape: tuple[int, ...]
    bits: int = 8


class Decompressed(NamedTuple):
    """A network read from a compressed file.

    Attributes:
        model: its registry name.
        arguments: what it is built with besides its name.
        weights: its state dict.
        preprocessing: what it was trained on.
    """

    model: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    preprocessing: Preprocessing


def load_deep_compression(path: Path) -> Decompressed:
    """The published SqueezeNet 1.0 of 0.66 MB, trained on ImageNet (songhan/SqueezeNet-Deep-Compression).

    Its definition pads the last convolution by 1; its images are BGR, 0 to 255, less a mean a channel.

    Raises:
        Failure: the file is missing, cut short, too long or damaged.
    """
    model = "squeezenet1_0"
    with torch.device("meta"):
        network = create(model)
    layers = [
        Layer(name, tuple(module.weight.shape))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    preprocessing = Preprocessing(
        size=(227, 227),
        fit="crop",
        keep=227 / 256,
        mean=(104 / 255, 117 / 255, 123 / 255),
        std=(1 / 255, 1 / 255, 1 / 255),
        channels="BGR",
    )
    return Decompressed(model, {"classifier_padding": 1}, read_deep_compression(path, layers), preprocessing)


def read_deep_compression(path: Path, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The weights and biases of a compressed file that holds these layers in this order.

    Raises:
        ValueError: a layer has codes of a width other than 4 or 8 bits.
        Failure: the file is missing, cut short, too long or damaged; or it holds other layers.
    """
    for layer in layers:
        if layer.bits not in (4, 8):
            raise ValueError(f"codes of {layer.name} must be 4 or 8 bits wide, got {layer.bits}")
    if not path.is_file():
        raise Failure(f"there is no file {path}")
    file = _File(path)
    stored = file.take("<u4", len(layers), "the numbers of stored weights").tolist()
    entries = {}
    for layer, count in zip(layers, stored, strict=True):
        weight, bias = _layer(file, layer, count)
        entries[f"{layer.name}.weight"] = torch.from_numpy(weight)
        entries[f"{layer.name}.bias"] = torch.from_numpy(bias)
    if file.left:
        raise Failure(f"{path} goes on for {file.left} bytes after its last layer; it holds other layers")
    return entries


class _File:
    """The bytes of a file, taken from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.read_bytes()
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.bytes) - self.at

    def take(self, dtype: str, count: int, what: str) -> NDArray[Any]:
        size = count * np.dtype(dtype).itemsize
        if size > self.left:
            raise Failure(f"{self.path} ends within {what}: {size} bytes are needed and {self.left} left")
        values = np.frombuffer(self.bytes, dtype, count, self.at)
        self.at += size
        return values

    def take_packed(self, bits: int, count: int, what: str) -> NDArray[np.uint8]:
        """Unsigned numbers of 4 or 8 bits."""
        packed = self.take("u1", math.ceil(count * bits / 8), what)
        if bits == 8:
            return packed
        return np.stack([packed & 15, packed >> 4], axis=1).ravel()[:count]


def _layer(file: _File, layer: Layer, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of the layer that comes next in the file, which stores `count` of its weights."""
    codebook = file.take("<f4", 2**layer.bits, f"the codebook of {layer.name}")
    bias = file.take("<f4", layer.shape[0], f"the bias of {layer.name}")
    codes = file.take_packed(layer.bits, count, f"the codes of {layer.name}")
    gaps = file.take_packed(4, count, f"the gaps of {layer.name}")
    if codebook[0] != 0:
        raise Failure(f"{file.path}: code 0 of {layer.name} must stand for 0, got {codebook[0]}")
    if not (np.isfinite(codebook).all() and np.isfinite(bias).all()):
        raise Failure(f"{file.path}: {layer.name} has a value that is not finite")
    positions = np.cumsum(gaps + 1) - 1
    size = math.prod(layer.shape)
    if count and positions[-1] >= size:
        raise Failure(f"{file.path}: the gaps of {layer.name} reach {positions[-1] + 1} of {size} weights")
    weight = np.zeros(size, np.float32)
    weight[positions] = codebook[codes]
    return weight.reshape(layer.shape), bias.astype(np.float32)
