"""Which independent implementation each network is compared with, given the same weights.

A row says how to build the other one (without its pretrained weights) and how its state dict is laid out
against ours. Modules are made in the order of the other definition, so most rows need nothing: entries are
paired by position, shape by shape. An oracle is imported only when it is built; timm is no dependency of the
package.
"""

from cnnkit.verify.inception import INCEPTION
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.residual import RESIDUAL

#: Registry name -> its oracle.
ORACLES: dict[str, Oracle] = {
    **RESIDUAL,
    # plain and compact networks
    "alexnet": Oracle("torchvision", "alexnet", size=67),
    **{f"vgg{n}": Oracle("torchvision", f"vgg{n}", {"init_weights": False}) for n in (11, 13, 16, 19)},
    **{f"vgg{n}_bn": Oracle("torchvision", f"vgg{n}_bn", {"init_weights": False}) for n in (11, 13, 16, 19)},
    **{f"squeezenet1_{n}": Oracle("torchvision", f"squeezenet1_{n}") for n in (0, 1)},
    **{
        name: Oracle("timm", "mobilenetv1_100", {"act_layer": "relu"})
        for name in ("mobilenet_v1", "mobilenet_v1_1_0_192", "mobilenet_v1_1_0_160", "mobilenet_v1_1_0_128")
    },
    "mobilenet_v2": Oracle("torchvision", "mobilenet_v2"),
    **{
        f"mobilenet_v2_{width}".replace(".", "_"): Oracle(
            "torchvision", "mobilenet_v2", {"width_mult": width}
        )
        for width in (0.35, 0.5, 0.75, 1.4)
    },
    **{
        f"shufflenet_v2_{n}": Oracle("torchvision", f"shufflenet_v2_{n}")
        for n in ("x0_5", "x1_0", "x1_5", "x2_0")
    },
    **{f"efficientnet_b{n}": Oracle("torchvision", f"efficientnet_b{n}") for n in range(8)},
    **INCEPTION,
}
