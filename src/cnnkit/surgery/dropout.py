"""Dropout, and dropout of whole maps.

    Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, "Dropout", JMLR 15, 2014.
    Tompson, Goroshin, Jain, LeCun & Bregler, CVPR 2015, arXiv:1411.4280, section 3.2: neighbouring pixels of
    a map say nearly the same, so that a dropped one is read off its neighbours; SpatialDropout drops a map
    as a whole.

Here, as everywhere in PyTorch, p is the probability of being dropped (Srivastava's is that of being kept),
and what is kept is divided by 1 - p in training instead of multiplied in evaluation.
"""

from torch import nn

from cnnkit.surgery.head import head_of
from cnnkit.surgery.rehearsal import Before


def dropout(network: nn.Module, p: float) -> list[str]:
    """Give every dropout of the network this probability, 0 for none; one that has no dropout gets one.

    The new one is before the layer that makes the logits. No name in the state dict changes.

    Returns:
        The names of what drops now: the dropouts, or the layer that the new one is before.

    Raises:
        ValueError: p is no probability below 1.
    """
    _require(p)
    found = {name: m for name, m in network.named_modules() if isinstance(m, nn.Dropout)}
    for layer in found.values():
        layer.p = p
    if found or not p:
        return list(found)
    name, head = head_of(network)
    Before(nn.Dropout(p)).of(head)
    return [name]


def spatial_dropout(network: nn.Module, p: float, before: tuple[str, ...] = ()) -> list[str]:
    """Drop whole maps of what a part of the network reads. No name in the state dict changes.

    Args:
        p: the probability of a map to be dropped.
        before: names of modules that read maps; by default `head`, which reads those of the last stage.

    Returns:
        The names of those modules.

    Raises:
        ValueError: p is no probability below 1, or the network has no such module.
    """
    _require(p)
    for name in before or ("head",):
        try:
            module = network.get_submodule(name)
        except AttributeError:
            raise ValueError(f"{type(network).__name__} has no module {name!r}; name others") from None
        Before(nn.Dropout2d(p)).of(module)
    return list(before or ("head",))


def _require(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"the probability of being dropped must be at least 0 and below 1, got {p}")
