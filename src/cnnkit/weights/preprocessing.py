"""How an image becomes the tensor that a network was trained on: facts, kept beside the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Fit = Literal["crop", "squash", "pad", "window"]
Channels = Literal["L", "RGB", "BGR"]
Normalisation = Literal["dataset", "image", "lcn", "pca", "zca", "gcn_zca"]

#: What is added to the variances before they are divided by, where values of the training part have variance
#: about 1. Goodfellow et al., arXiv:1302.4389, whitened CIFAR with 0.1.
EPSILON = {"pca": 0.001, "zca": 0.1, "gcn_zca": 0.1}

#: The most values of an image that is whitened whole; the matrix is the square of it (64 MiB).
MOST_VALUES = 4096

#: A contrast below one grey level is rounding, not contrast.
LEVEL = 1 / 255


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to an image before the first layer.

    Attributes:
        size: height and width of the network's input.
        fit: how an image of another shape gets there. `crop` scales its short side to size / keep and takes
            the centre; `squash` scales both sides; `pad` centres it on black, scaling it down only where it
            is larger; with `window` the picture keeps its scale and the network sees windows of `size`: at
            training drawn at random, at test the whole picture or windows that cover it.
        keep: the share of the scaled short side that `crop` keeps.
        interpolation: `bilinear`, `bicubic` or `nearest`, as Pillow computes them (with antialiasing).
        mean: a value a channel, of pixels in [0, 1], that is subtracted.
        std: a value a channel that is divided by.
        channels: the order of the channels; `L` is grey.
        normalisation: what is done to the pixels. `dataset` subtracts `mean` and divides by `std`. `image`
            brings each image to mean 0 and deviation 1 by itself, `lcn` every pixel's surroundings
            (`ops.contrast`). `pca` turns and scales the colours of each pixel into uncorrelated ones; `zca`
            whitens the image as a whole, which stays an image; `gcn_zca` does so after `image` instead of
            `dataset`, as Goodfellow et al. and Network in Network did.
        whitening: mean and matrix of those three (`ops.whitening.Whitening`), learned of the training part by
            `fit_preprocessing`. It is no part of the plain record and is stored beside the weights.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}  # what is not known cannot be left out

    size: tuple[int, int]
    fit: Fit = "crop"
    keep: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: Channels = "RGB"
    normalisation: Normalisation = "dataset"
    whitening: Any = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        count = 1 if self.channels == "L" else 3
        if not len(self.mean) == len(self.std) == count:
            raise ValueError(
                f"{self.channels} has {count} channel(s), got mean {self.mean} and deviation {self.std}"
            )
        if self.normalisation == "pca" and count == 1:
            raise ValueError("pca whitens colours and grey images have none; use dataset, zca or lcn")
        if self.values > MOST_VALUES:
            raise ValueError(
                f"{self.normalisation} whitens whole images of up to {MOST_VALUES:,} values, and {count} x "
                f"{self.size[0]} x {self.size[1]} are {self.values:,}; use pca, lcn, or a smaller image size"
            )
        if self.fit == "window" and self.normalisation in ("zca", "gcn_zca"):
            raise ValueError(
                f"{self.normalisation} whitens whole images of one size, and windows are of many; use "
                f"dataset, image, lcn or pca"
            )
        if self.whitening is not None and len(getattr(self.whitening, "mean", ())) != self.values:
            raise ValueError(
                f"the whitening does not fit {self.normalisation} of {self.size[0]} x {self.size[1]} images; "
                f"learn it anew with fit_preprocessing"
            )

    @property
    def values(self) -> int:
        """How many values are whitened together; 0 where nothing is."""
        if self.normalisation == "pca":
            return len(self.mean)
        return len(self.mean) * prod(self.size) if self.normalisation in EPSILON else 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was learned and is stored beside the weights, by name.

        Raises:
            ValueError: it was not learned yet.
        """
        return {"mean": self._learned.mean, "matrix": self._learned.matrix} if self.values else {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of `tensors`, learned or not."""
        return {"mean": (self.values,), "matrix": (self.values, self.values)} if self.values else {}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Preprocessing:
        """The same with what `tensors` gave."""
        if not self.values:
            return self
        from cnnkit.ops.whitening import Whitening

        return replace(self, whitening=Whitening(tensors["mean"].float(), tensors["matrix"].float()))

    def at(self, size: tuple[int, int], fit: Fit, keep: float = 1.0) -> Preprocessing:
        """How a picture gets to another size, with the same interpolation and channels; nothing of pixels."""
        return replace(self, size=size, fit=fit, keep=keep, normalisation="dataset", whitening=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are stored."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "whitening"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """The record that `to_dict` was made of, whether it went through TOML or JSON."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bytes to what the network reads, where the bytes are: (N, C, H, W) uint8 -> the same, float32.

        Raises:
            ValueError: the whitening was not learned yet, or is of images of another size.
        """
        if self.normalisation == "dataset":
            return self._standardised(pixels)
        import torch  # late: a record of preprocessing is read by commands that need no torch

        with torch.autocast(pixels.device.type, enabled=False):  # 16 bits are too few to whiten in
            if self.normalisation == "lcn":
                from cnnkit.ops.contrast import local_contrast_norm

                return local_contrast_norm(pixels.float() / 255, floor=LEVEL)
            return self._whitened(self._centred(pixels)) if self.values else self._centred(pixels)

    def _standardised(self, pixels: Tensor) -> Tensor:
        import torch

        mean, std = (_a_channel(values, pixels.device) for values in (self.mean, self.std))
        scaled = pixels.to(torch.float32, copy=True)  # in place from here: fresh memory costs more than sums
        return scaled.sub_(255 * mean).div_(255 * std)

    def _centred(self, pixels: Tensor) -> Tensor:
        """Variance about 1: of the channels over the training part, or of each image."""
        if self.normalisation in ("pca", "zca"):
            return self._standardised(pixels)
        from cnnkit.ops.contrast import global_contrast_norm

        return global_contrast_norm(pixels.float() / 255, floor=LEVEL)

    def _rows(self, images: Tensor) -> Tensor:
        """What is whitened together: colours of pixels, or whole images. Shape: (n, values)"""
        return images.movedim(1, -1).flatten(0, -2) if self.normalisation == "pca" else images.flatten(1)

    def _whitened(self, images: Tensor) -> Tensor:
        from cnnkit.ops.whitening import whiten

        rows = whiten(self._rows(images), self._learned.on(images.device))
        if self.normalisation == "pca":
            return rows.view(len(images), *images.shape[2:], -1).movedim(-1, 1)
        return rows.view(images.shape)

    @property
    def _learned(self) -> Any:
        if self.whitening is None:
            raise ValueError(f"{self.normalisation} was not learned yet; call fit_preprocessing")
        return self.whitening


def fit_preprocessing(to: Preprocessing, pixels: Callable[[], Tensor]) -> Preprocessing:
    """The same preprocessing, with what its normalisation learns of the training part's pixels.

    Mean and deviation a channel are `to`'s already. Where nothing more is learned, `pixels` is not called.

    Args:
        to: of the training part.
        pixels: gives images of the training part at the network's size, without augmentation: all of them for
            `zca` and `gcn_zca`, whose covariance has `values`^2 entries; some hundred suffice for `pca`.
            Shape: (N, C, H, W) uint8

    Raises:
        ValueError: there are fewer than two images.
    """
    if not to.values:
        return to
    import torch

    from cnnkit.ops.whitening import Whitening, covariance, pca_whitening, zca_whitening

    with torch.no_grad():
        rows = (to._rows(to._centred(chunk)) for chunk in torch.split(pixels(), 128))
        mean, spread = covariance(rows)
        find = pca_whitening if to.normalisation == "pca" else zca_whitening
        found = find(mean, spread, epsilon=EPSILON[to.normalisation])
        return replace(to, whitening=Whitening(found.mean.float().cpu(), found.matrix.float().cpu()))


def _a_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value a channel. Shape: (C, 1, 1)"""
    return _made(values, device) if device.type == "cpu" else _kept(values, device)


def _made(values: tuple[float, ...], device: torch.device) -> Tensor:
    import torch

    with torch.inference_mode(False):  # what is kept may be used outside as well
        return torch.tensor(values, device=device).view(-1, 1, 1)


_kept = lru_cache(maxsize=16)(_made)  # copying to a device waits until it has done all that was asked before
