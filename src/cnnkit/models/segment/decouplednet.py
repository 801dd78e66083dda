"""DecoupledNet. Hong, Noh & Han, "Decoupled Deep Neural Network for Semi-supervised Semantic Segmentation",
NIPS 2015, arXiv:1506.04924.

Two networks learn one after the other: VGG-16 says which classes an image has, and learns from many images
with no more than that; a deconvolution network says where one class is, foreground or background, and learns
from few masks. Between them stand bridging layers (section 3.3): the score of one class goes back through the
classifier, through the ReLUs that fired and the same weights transposed, to the last pooling,

    g_c = W6^T ([a6 > 0] * W7^T ([a7 > 0] * W8^T unpool(s e_c))),

and the segmentation network reads [norm(pool5), norm(g_c)]. It makes one pass a class.

`forward` puts the passes together as the authors' inference does: the classes with a score above 0.5, each a
pass, and the background from a pass with all of them; probabilities are normalised and their logarithms
returned. `classify` and `segment` are the two halves, for training as the paper does: `segment` with the
scores of one class that is in the image, against the mask of that class.

Departures: in the authors' definition for training the backward weights are copies, 119,628,288 numbers
more; here they are the same tensors. In training `forward` makes a pass for every class, whatever its score,
so that the whole can be trained by cross-entropy too, which the paper does not do. Images of any size from
224 x 224 on are taken; the authors pad to a square and scale to 320 x 320.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cnnkit.models.classify.vgg import glorot_init
from cnnkit.models.segment.deconvnet import conv, deconv, deconvolutions, init
from cnnkit.models.segment.segnet import shifted_norms
from cnnkit.models.segment.trunks import WithClasses, require_sides, vgg16_groups
from cnnkit.registry import register

#: What the classifier computed of some images: scores, switches of all poolings, and what the way back needs.
State = dict[str, list[Tensor]]


class Classifier(nn.Module):
    """VGG-16 as convolutions, whose scores are averaged, and the way back through it."""

    def __init__(self, in_channels: int, classes: int, width: float) -> None:
        super().__init__()
        units = int(width * 4096)
        self.stages = nn.ModuleList(vgg16_groups(in_channels, width))
        self.pools = nn.ModuleList(nn.MaxPool2d(2, return_indices=True) for _ in self.stages)
        self.fc6 = nn.Conv2d(int(width * 512), units, 7)
        self.fc7 = nn.Conv2d(units, units, 1)
        self.score = nn.Conv2d(units, classes, 1)
        self.relus = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        glorot_init(self)

    def forward(self, images: Tensor) -> State:
        x, switches, sizes = images, [], []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            finer = stage(x)
            x, found = pool(finer)
            switches.append(found)
            sizes.append(finer)
        a6 = self.relus[0](self.fc6(x))
        a7 = self.relus[1](self.fc7(a6))
        return {"maps": [x, a6, a7, self.score(a7)], "switches": switches, "finer": sizes}

    def back(self, state: State, chosen: Tensor) -> Tensor:
        """g_c for the scores of chosen classes. Shape: (N, classes) -> the shape of the last pooling"""
        _, a6, a7, scores = state["maps"]
        flat = scores.flatten(2)
        unpooled = torch.zeros_like(flat).scatter(2, flat.argmax(2, keepdim=True), chosen[:, :, None])
        x = functional.conv_transpose2d(unpooled.reshape(scores.shape), self.score.weight)
        x = functional.conv_transpose2d(x * (a7 > 0), self.fc7.weight)
        return functional.conv_transpose2d(x * (a6 > 0), self.fc6.weight)


class Segmentation(nn.Module):
    """Foreground and background of one class, from two maps at the last pooling."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels, units = int(width * 512), int(width * 2048)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])
        self.fc = nn.Sequential(
            conv(2 * channels, units, 7), conv(units, units, 1), deconv(units, channels, 7)
        )
        self.decoders = deconvolutions(width)
        self.unpools = nn.ModuleList(nn.MaxUnpool2d(2) for _ in self.decoders)
        self.score = nn.Conv2d(int(width * 64), 2, 1)
        init(self)
        shifted_norms(self)

    def forward(self, state: State, bridge: Tensor) -> Tensor:
        """The last pooling and g_c -> (N, 2, H, W)"""
        seen, back = self.norms
        x = self.fc(torch.cat([seen(state["maps"][0]), back(bridge)], dim=1))
        ways = zip(self.unpools, self.decoders, state["switches"][::-1], state["finer"][::-1], strict=True)
        for unpool, decoder, switches, finer in ways:
            x = decoder(unpool(x, switches, output_size=finer.shape[2:]))
        return self.score(x)


class DecoupledNet(nn.Module):
    """A classifier of images, bridging layers, and a segmentation network of one class at a time.

    Args:
        threshold: the score from which a class is looked for.
        aux: whether the image's class scores come with the logits in training.
        num_classes: the background, which is the first, and the others.
        width: multiplies all channels but those of the scores.
    """

    smallest_image = 224

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        aux: bool = False,
        width: float = 1.0,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.threshold, self.aux = threshold, aux
        self.classifier = Classifier(in_channels, num_classes - 1, width)
        self.segmentation = Segmentation(width)

    def classify(self, images: Tensor) -> Tensor:
        """Logits of the classes an image has, each for itself. Shape: (N, C, H, W) -> (N, num_classes - 1)"""
        return self._state(images)["maps"][-1].mean((2, 3))

    def segment(self, images: Tensor, present: Tensor) -> Tensor:
        """Background and foreground of one class of each image, as the segmentation network is trained.

        Args:
            present: 1 for the class that is looked for, 0 for the others, (N, num_classes - 1).

        Shape: (N, C, H, W) -> (N, 2, H, W)
        """
        with torch.no_grad():  # the classifier is done learning
            state = self._state(images)
            bridge = self.classifier.back(state, present * state["maps"][-1].amax((2, 3)).sigmoid())
        return self.segmentation(state, bridge)

    def forward(self, images: Tensor) -> Tensor | WithClasses:
        """(N, in_channels, H, W) -> logits (N, num_classes, H, W), in training with those of the classes

        Raises:
            ValueError: a side is shorter than 224.
        """
        state = self._state(images)
        classes = state["maps"][-1].mean((2, 3))
        scores = classes.sigmoid()
        kept = torch.ones_like(scores) if self.training else (scores > self.threshold).to(scores)
        chosen = kept * scores
        background, _ = self._pass(state, chosen)
        found = [background]
        for place in range(chosen.shape[1]):
            if self._is_absent(kept[:, place]):
                found.append(torch.zeros_like(background))
                continue
            one = torch.zeros_like(chosen)
            one[:, place] = chosen[:, place]
            found.append(self._pass(state, one)[1] * kept[:, place, None, None])
        probabilities = torch.stack(found, dim=1)
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
        logits = probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
        return WithClasses(logits, classes) if self.aux and self.training else logits

    def _state(self, images: Tensor) -> State:
        require_sides(self, images)
        return self.classifier(images)

    def _pass(self, state: State, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of background and foreground. Shape: (N, num_classes - 1) -> twice (N, H, W)"""
        background, foreground = (
            self.segmentation(state, self.classifier.back(state, chosen)).softmax(1).unbind(1)
        )
        return background, foreground

    def _is_absent(self, kept: Tensor) -> bool:
        """Whether no image has the class, where that can be told: a graph has the pass in any case."""
        return not (kept.is_meta or torch.compiler.is_compiling()) and not bool(kept.any())


register(DecoupledNet, task="segment", canon="segmentation/decouplednet", variants={"decouplednet": {}})
