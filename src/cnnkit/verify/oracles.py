"""Which independent implementation each network is compared with, given the same weights.

A row says how to build the other one (without its pretrained weights) and how its state dict is laid out
against ours. Modules are made in the order of the other definition, so most rows need nothing: entries are
paired by position, shape by shape. An oracle is imported only when it is built; timm is no dependency of the
package.
"""

from cnnkit.verify.inception import INCEPTION
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.residual import RESIDUAL
from cnnkit.weights.definitions import TORCHVISION

#: Registry name -> its oracle.
ORACLES: dict[str, Oracle] = {
    **{name: Oracle("torchvision", row.name, row.kwargs) for name, row in TORCHVISION.items()},
    **RESIDUAL,
    # plain and compact networks
    "alexnet": Oracle("torchvision", "alexnet", size=67),
    **{
        name: Oracle("timm", "mobilenetv1_100", {"act_layer": "relu"})
        for name in ("mobilenet_v1", "mobilenet_v1_1_0_192", "mobilenet_v1_1_0_160", "mobilenet_v1_1_0_128")
    },
    **{
        f"mobilenet_v2_{width}".replace(".", "_"): Oracle(
            "torchvision", "mobilenet_v2", {"width_mult": width}
        )
        for width in (0.35, 0.5, 0.75, 1.4)
    },
    **INCEPTION,
}
