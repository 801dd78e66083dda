"""Dropout. Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, JMLR 15, 2014.

    y = m * x / q,     m ~ Bernoulli(q) for each unit and each example, q the probability to KEEP

in training, and y = x afterwards. This is the "inverted" form; the paper leaves out the division and
multiplies the outgoing weights by q afterwards, which has the same mean. Mind the letter: the paper's p is
this q, the frameworks' p is 1 - q.
"""

from torch import Tensor

from cnnkit.ops.checks import require_float


def dropout(x: Tensor, mask: Tensor, *, keep: float) -> Tensor:
    """m * x / q with the mask handed in: `torch.rand(x.shape, generator=generator) < keep`.

    The mask may be smaller where it broadcasts: (N, C, 1, 1) drops whole maps. The operator is linear and
    diagonal, so its gradient is itself: dL/dx = dropout(dL/dy, mask, keep=keep).

    Raises:
        ValueError: x is not of floating point, or `keep` is not in (0, 1].
    """
    require_float(x=x)
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the probability to keep a unit, in (0, 1], got {keep}")
    return x * mask.to(x.dtype) / keep
