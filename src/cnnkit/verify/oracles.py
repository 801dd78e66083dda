"""Which independent implementation each network is compared with, given the same weights.

A row says how to build the other one (without its pretrained weights) and how its state dict is laid out
against ours. Modules are made in the order of the other definition, so most rows need nothing: entries are
paired by position, shape by shape. An oracle is imported only when it is built; timm and pytorchcv are no
dependencies of the package.
"""

from cnnkit.verify.compact import COMPACT
from cnnkit.verify.dense import DENSE
from cnnkit.verify.inception import INCEPTION
from cnnkit.verify.oracle import Oracle
from cnnkit.verify.plain import PLAIN
from cnnkit.verify.residual import RESIDUAL
from cnnkit.verify.segmentation import SEGMENTATION
from cnnkit.weights.definitions import TORCHVISION

#: Registry name -> its oracle.
ORACLES: dict[str, Oracle] = {
    **{name: Oracle("torchvision", row.name, row.kwargs) for name, row in TORCHVISION.items()},
    **RESIDUAL,
    **DENSE,
    **PLAIN,
    **COMPACT,
    **INCEPTION,
    **SEGMENTATION,
}
