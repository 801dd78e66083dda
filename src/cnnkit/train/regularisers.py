"""What keeps a network from learning its training images by heart, as parts of a recipe.

A regulariser does one or more of three things: it changes the network in a way that a trained one needs too,
and that its artefact stores (`changes`); it puts noise into it for training alone (`put_on`); it adds a term
to the loss (`penalties`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cnnkit.parts import Part, named, setting

if TYPE_CHECKING:
    from torch import nn

#: Channels, height and width of the network's input.
Image = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Regulariser(Part):
    """Something against learning by heart."""

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """What `surgery.changes.replay` does to the network, now and whenever its artefact is loaded."""
        return []

    def put_on(self, network: nn.Module, image: Image) -> list[str]:
        """Change the network for its training; the names of the layers that it is put on."""
        return []

    def penalties(self) -> tuple[float, float]:
        """Factors, in the loss, of the sum of the weights' sizes and of half that of their squares."""
        return 0.0, 0.0


@dataclass(frozen=True, kw_only=True)
class Dropout(Regulariser):
    """Units are dropped where the network has dropouts, else before the logits (Srivastava et al. 2014)."""

    name: ClassVar[str] = "dropout"
    p: float = setting(0.5, "Probability of being dropped; 0 is without dropout.", ge=0, lt=1)

    def put_on(self, network: nn.Module, image: Image) -> list[str]:
        """Set it."""
        from cnnkit.surgery.dropout import dropout

        return dropout(network, self.p)


@dataclass(frozen=True, kw_only=True)
class SpatialDropout(Regulariser):
    """Whole maps are dropped, of those that the head reads (Tompson et al. 2015, 1411.4280)."""

    name: ClassVar[str] = "spatial_dropout"
    p: float = setting(0.1, "Probability of a map to be dropped.", ge=0, lt=1)

    def put_on(self, network: nn.Module, image: Image) -> list[str]:
        """Set it."""
        from cnnkit.surgery.dropout import spatial_dropout

        return spatial_dropout(network, self.p)


@dataclass(frozen=True, kw_only=True)
class DropBlock(Regulariser):
    """More and more squares of the coarser maps are dropped (Ghiasi et al. 2018, 1810.12890)."""

    name: ClassVar[str] = "dropblock"
    drop: float = setting(0.1, "Share that is dropped at the end of the run: 1 - keep_prob.", ge=0, lt=1)
    size: int = setting(7, "Side of a square in pixels of the map.", ge=1)

    def put_on(self, network: nn.Module, image: Image) -> list[str]:
        """Set it."""
        from cnnkit.surgery.dropblock import drop_block

        return drop_block(network, self.drop, self.size, image=image)


@dataclass(frozen=True, kw_only=True)
class StochasticDepth(Regulariser):
    """Residual branches are left out of whole batches (Huang et al. 2016, 1603.09382)."""

    name: ClassVar[str] = "stochastic_depth"
    survival: float = setting(0.5, "Probability of the last branch to stay.", gt=0, le=1)

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """Also a trained branch counts with its probability."""
        return [{"change": "stochastic_depth", "survival": self.survival}]


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Regulariser):
    """Batch norm behind every convolution of a network without it (Ioffe & Szegedy 2015, 1502.03167)."""

    name: ClassVar[str] = "batch_norm"

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """Put in."""
        return [{"change": "add_batch_norm"}]


@dataclass(frozen=True, kw_only=True)
class NoBatchNorm(Regulariser):
    """No batch norm, but a bias in every layer that left it to the norm."""

    name: ClassVar[str] = "no_batch_norm"

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """Taken out."""
        return [{"change": "remove_batch_norm"}]


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Regulariser):
    """Response normalisation behind the first two layers (Krizhevsky et al. 2012, section 3.3)."""

    name: ClassVar[str] = "response_norm"

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """Put in, at names that are stored."""
        from cnnkit.surgery.norms import first_activations

        return [{"change": "add_response_norm", "after": first_activations(network, image=image)}]


@dataclass(frozen=True, kw_only=True)
class NoResponseNorm(Regulariser):
    """No response normalisation."""

    name: ClassVar[str] = "no_response_norm"

    def changes(self, network: nn.Module, image: Image) -> list[Mapping[str, Any]]:
        """Taken out."""
        return [{"change": "remove_response_norm"}]


@dataclass(frozen=True, kw_only=True)
class L1(Regulariser):
    """The sum of the weights' absolute values is added to the loss."""

    name: ClassVar[str] = "l1"
    factor: float = setting(1e-5, "What it is multiplied by.", ge=0)

    def penalties(self) -> tuple[float, float]:
        """The first."""
        return self.factor, 0.0


@dataclass(frozen=True, kw_only=True)
class L2(Regulariser):
    """Half the sum of the weights' squares is added to the loss; see weight_decay for the usual form."""

    name: ClassVar[str] = "l2"
    factor: float = setting(1e-4, "What it is multiplied by.", ge=0)

    def penalties(self) -> tuple[float, float]:
        """The second."""
        return 0.0, self.factor


REGULARISERS: dict[str, type[Regulariser]] = named(
    *(Dropout, SpatialDropout, DropBlock, StochasticDepth, BatchNorm, NoBatchNorm),
    *(ResponseNorm, NoResponseNorm, L1, L2),
)
