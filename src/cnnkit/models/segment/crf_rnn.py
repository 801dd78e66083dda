"""CRF as a recurrent network. Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang & Torr, "Conditional
Random Fields as Recurrent Neural Networks", ICCV 2015, arXiv:1502.03240.

Each round of a dense CRF's mean field is differentiable, so that rounds are the steps of a recurrent network
(Fig. 1) whose weights learn together with the network that scores, here FCN-8s:

    Q <- U + C (Ws spatial(softmax Q) + Wb bilateral(softmax Q)),     Q = U at first.

U are the scores; the filters are `cnnkit.ops.crf`'s, normalised; Ws, Wb and C are labels x labels, so that
labels mix before they are compared. There are 5 rounds in training and 10 to predict (section 5). Bandwidths
are constants. Gradients pass to the scores in every round, and none through the filters to the image.

The trunk is the older release of FCN-8s: its doublings learn, and the first of them has a bias.

Departures: the released layer starts C at minus the identity and subtracts, here C starts at the identity and
is added. Images come to the network normalised, so `levels` says how many of 256 grey levels a unit is; the
default is of ImageNet's usual deviations. The released layer was trained with 1,000 to 10,000 times the
learning rate of the rest, for an unnormalised loss: that is the recipe's to do.
"""

import torch
from torch import Tensor, nn

from cnnkit.models.segment.fcn import EIGHT, FCN, Form, vgg16
from cnnkit.ops.crf import Kernel, gaussian_filter, mean_field
from cnnkit.registry import register

#: The released constants: how far neighbours matter, and how far those of a colour do. Weights start W.
SPATIAL, BILATERAL = Kernel(3.0, 3.0), Kernel(5.0, 160.0, 3.0)

#: Grey levels of one standard deviation of ImageNet's colours, mean over the channels.
LEVELS = 255 * (0.229 + 0.224 + 0.225) / 3


class MeanField(nn.Module):
    """Rounds of mean field with weights that learn.

    Args:
        classes: labels.
        levels: grey levels that one unit of the images is.
        iterations: rounds in training, and to predict.

    Shape: logits (N, classes, H, W) and images (N, C, H, W) -> (N, classes, H, W)
    """

    def __init__(self, classes: int, levels: float, iterations: tuple[int, int] = (5, 10)) -> None:
        super().__init__()
        self.levels, self.iterations = levels, iterations
        self.spatial = nn.Parameter(SPATIAL.weight * torch.eye(classes))
        self.bilateral = nn.Parameter(BILATERAL.weight * torch.eye(classes))
        self.compatibility = nn.Parameter(torch.eye(classes))

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        images = images.detach().to(torch.promote_types(images.dtype, torch.float32))
        levels = self.levels * images
        near, alike = gaussian_filter(levels, SPATIAL), gaussian_filter(levels, BILATERAL)

        def message(believed: Tensor) -> Tensor:
            told = mix(self.spatial, near(believed)) + mix(self.bilateral, alike(believed))
            return mix(self.compatibility, told)

        return mean_field(logits, message, self.iterations[0 if self.training else 1])


def mix(weights: Tensor, maps: Tensor) -> Tensor:
    """y_l = sum_k w_lk x_k at each pixel. Shape: (L, L), (N, L, H, W) -> (N, L, H, W)"""
    return torch.einsum("lk,nkhw->nlhw", weights, maps)


class CRFRNN(nn.Module):
    """FCN-8s and a mean field on its scores.

    Args:
        levels: grey levels that one unit of the images is.
        width: multiplies all channels of the FCN but those of the scores.
    """

    smallest_image = FCN.smallest_image

    def __init__(
        self,
        *,
        levels: float = LEVELS,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        form = Form(**EIGHT, skips=((3, 5, 1.0), (2, 9, 1.0)), older=True)
        self.fcn = FCN(vgg16, form, width=width, num_classes=num_classes, in_channels=in_channels)
        self.mean_field = MeanField(num_classes, levels)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W)"""
        return self.mean_field(self.fcn(images), images)


register(CRFRNN, task="segment", canon="segmentation/crf_rnn", variants={"fcn8s_crf_rnn": {}})
