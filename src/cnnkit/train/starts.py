"""Where weights start, as parts of a recipe. The arithmetic is in `train.initialise`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cnnkit.parts import Part, named

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Start(Part):
    """Where the weights of a network start."""

    #: Whether a batch of images is needed.
    looks: ClassVar[bool] = False

    def apply(self, network: nn.Module, images: Tensor | None) -> None:
        """Set the weights from torch's random state."""
        from cnnkit.train.initialise import initialise

        initialise(network, self.name, images)


@dataclass(frozen=True, kw_only=True)
class Gaussian(Start):
    """Normal with deviation 0.01 (AlexNet, 2012)."""

    name: ClassVar[str] = "gaussian"


@dataclass(frozen=True, kw_only=True)
class XavierUniform(Start):
    """Uniform with variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010)."""

    name: ClassVar[str] = "xavier_uniform"


@dataclass(frozen=True, kw_only=True)
class XavierNormal(Start):
    """Normal with variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010)."""

    name: ClassVar[str] = "xavier_normal"


@dataclass(frozen=True, kw_only=True)
class HeFanIn(Start):
    """Normal with variance 2 / fan-in (MSRA: He et al. 2015, 1502.01852, Eq. 10)."""

    name: ClassVar[str] = "he_fan_in"


@dataclass(frozen=True, kw_only=True)
class HeFanOut(Start):
    """Normal with variance 2 / fan-out (MSRA: He et al. 2015, 1502.01852, Eq. 14)."""

    name: ClassVar[str] = "he_fan_out"


@dataclass(frozen=True, kw_only=True)
class HeUniform(Start):
    """Uniform with variance 2 / fan-in."""

    name: ClassVar[str] = "he_uniform"


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Start):
    """Orthogonal matrices (Saxe et al. 2014, 1312.6120)."""

    name: ClassVar[str] = "orthogonal"


@dataclass(frozen=True, kw_only=True)
class Lsuv(Start):
    """Orthogonal, then scaled to outputs of variance 1 (Mishkin & Matas 2016, 1511.06422)."""

    name: ClassVar[str] = "lsuv"
    looks: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ZeroGamma(Start):
    """Residual units start as their shortcuts (Goyal et al. 2017, 1706.02677)."""

    name: ClassVar[str] = "zero_gamma"


STARTS: dict[str, type[Start]] = named(
    *(Gaussian, XavierUniform, XavierNormal, HeFanIn, HeFanOut, HeUniform, Orthogonal, Lsuv, ZeroGamma)
)
