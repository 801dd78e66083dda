"""ResNeXt. Xie, Girshick, Dollar, Tu & He, CVPR 2017, arXiv:1611.05431.

The branch of a residual unit is a sum over C paths of equal shape (Eq. 3),

    y = relu(sum_{i=1}^{C} T_i(x) + x),

and C bottlenecks of d channels are one bottleneck whose 3x3 convolution has C groups (Fig. 3c, section
3.3). C is the cardinality and d the width of a path in the first stage; from stage to stage d doubles. So
`resnet50`'s branch with groups of its own is the network; a CIFAR network has three stages of three units
(section 5.3).
"""

from cnnkit.layers import CifarStem
from cnnkit.models.classify.resnet import DEEP, Bottleneck, ResNet
from cnnkit.registry import register

#: Tables 3 and 4. 32x8d is not in the paper: it is torchvision's, after later work of the authors' group.
IMAGENET = {50: ((32, 4), (2, 40), (4, 24), (8, 14)), 101: ((32, 4), (64, 4), (32, 8))}

register(
    ResNet,
    task="classify",
    canon="classification/resnext",
    variants={
        **{
            f"resnext{depth}_{c}x{d}d": dict(branch=Bottleneck(c, d), depths=DEEP[depth])
            for depth, rows in IMAGENET.items()
            for c, d in rows
        },
        **{  # Table 7
            f"resnext29_{c}x64d_cifar{classes}": dict(
                branch=Bottleneck(c, 64), depths=(3, 3, 3), stem=CifarStem, num_classes=classes
            )
            for c in (8, 16)
            for classes in (10, 100)
        },
    },
)
