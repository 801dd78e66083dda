"""Changes to a network: module in, module out."""

from cnnkit.surgery.arithmetic import use
from cnnkit.surgery.convolutionalize import convolutionalize
from cnnkit.surgery.head import freeze, replace_head
from cnnkit.surgery.stochastic_depth import stochastic_depth

__all__ = ["convolutionalize", "freeze", "replace_head", "stochastic_depth", "use"]
