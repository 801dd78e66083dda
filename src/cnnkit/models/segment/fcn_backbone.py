"""FCN's skips on any classifier of the canon that has `features()`.

After Long, Shelhamer & Darrell, arXiv:1411.4038, section 4.2: every map of the classifier from the coarsest
to the one at stride `finest` makes scores, coarse scores are enlarged to the next finer map and added there,
and the sum is enlarged to the image:

    y_l = enlarge(y_{l+1}) + score(map_l).

`create("fcn_squeezenet1_0", backbone="resnet18")` takes another classifier, and `trunks.start_from` gives it
trained weights.

Departures from that paper: the classifier's own padding and no crops, bilinear interpolation instead of
transposed convolutions, and a 3x3 convolution with batch norm before each score, as in torchvision's head,
since the maps of a small classifier are not linear evidence of classes.
"""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.layers import Backbone, feature_strides, he_init
from cnnkit.models.segment.fcn_resnet import enlarge
from cnnkit.registry import register, spec


def trunk(name: str, in_channels: int, width: float) -> Any:
    """A classifier without its head, which is a `Backbone`.

    Raises:
        LookupError: there is no classifier of that name.
        ValueError: it has no `features()`, takes images of one size alone, or has no width.
    """
    row = spec(name)
    if width != 1 and "width" not in inspect.signature(row.factory).parameters:
        raise ValueError(f"{name} has no width to multiply by {width:g}; leave width at 1")
    sized = {} if width == 1 else {"width": width}
    network = row.build(num_classes=1, in_channels=in_channels, **sized) if row.task == "classify" else None
    if not isinstance(network, Backbone) or not hasattr(network, "smallest_image"):
        raise ValueError(
            f"{name} is no backbone: it must be a classifier with features() of images of every size"
        )
    del network.head
    return network


def score(channels: int, inner: int, num_classes: int) -> nn.Sequential:
    """Shape: (N, channels, H, W) -> (N, num_classes, H, W)"""
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, bias=False),
        *(nn.BatchNorm2d(inner), nn.ReLU(), nn.Dropout(0.1)),
        nn.Conv2d(inner, num_classes, 1),
    )


class BackboneFCN(nn.Module):
    """Scores of several maps of a classifier, added from the coarsest to the finest.

    Args:
        backbone: registry name of the classifier.
        finest: stride of the finest map that is scored.
        inner: channels between a map and its scores.
        width: multiplies all channels but those of the scores.

    Raises:
        LookupError: there is no classifier of that name.
        ValueError: it cannot be a backbone, or has no map at `finest` or coarser.
    """

    def __init__(
        self,
        backbone: str,
        *,
        finest: int = 4,
        inner: int = 128,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.backbone = trunk(backbone, in_channels, width)
        self.smallest_image = self.backbone.smallest_image
        strides = feature_strides(self.backbone)
        self.scored = [i for i, stride in enumerate(strides) if stride >= finest]
        if not self.scored:
            raise ValueError(f"{backbone} has maps at strides {strides}, none at {finest} or coarser")
        channels = self.backbone.feature_channels
        self.scores = nn.ModuleList(score(channels[i], int(width * inner), num_classes) for i in self.scored)
        he_init(self.scores, mode="fan_in")

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        maps = self.backbone.features(images)
        scores = [head(maps[place]) for head, place in zip(self.scores, self.scored, strict=True)]
        logits = scores.pop()
        while scores:
            finer = scores.pop()
            logits = finer + functional.interpolate(logits, finer.shape[2:], mode="bilinear")
        return enlarge(logits, images)


register(
    BackboneFCN,
    task="segment",
    canon="segmentation/fcn",
    variants={f"fcn_{name}": dict(backbone=name) for name in ("squeezenet1_0", "mobilenet_v2")},
)
