"""DropBlock. Ghiasi, Lin & Le, NeurIPS 2018, arXiv:1810.12890.

Dropped pixels of a map are read off their neighbours, so squares are dropped (Algorithm 1). A square of
b x b pixels begins with probability gamma at each place where it fits, so that about 1 - keep_prob of the
map is dropped (Eq. 1),

    gamma = (1 - keep_prob) / b^2 * (h w) / ((h - b + 1) (w - b + 1)),

and what is left is divided by the share that is left. Each map has squares of its own. keep_prob falls
linearly from 1 at the first step to its value at the last ("scheduled DropBlock").
"""

from torch import Tensor, nn
from torch.nn import functional

from cnnkit.surgery.rehearsal import Shape, is_activation, rehearse, then

#: Maps of the coarsest so many sizes are dropped from: groups 3 and 4 of the paper's ResNet-50.
COARSEST = 2


class DropBlock(nn.Module):
    """Zero squares of each map in training; nothing in evaluation. Shape: (N, C, H, W), kept

    Args:
        drop: 1 - keep_prob at the end of the schedule.
        size: b; on a smaller map it is the map's shorter side.
    """

    def __init__(self, drop: float, size: int = 7) -> None:
        super().__init__()
        if not 0 <= drop < 1:
            raise ValueError(f"the share to be dropped must be at least 0 and below 1, got {drop}")
        if size < 1:
            raise ValueError(f"a square must be at least 1 pixel wide, got {size}")
        self.drop, self.size = drop, size
        self.now = drop  # 1 - keep_prob of this step

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.now:
            return x
        height, width = x.shape[2:]
        b = min(self.size, height, width)
        places = (height - b + 1) * (width - b + 1)
        gamma = min(1.0, self.now / b**2 * height * width / places)
        corners = x.new_empty(*x.shape[:2], height - b + 1, width - b + 1).bernoulli_(gamma)
        squares = functional.max_pool2d(functional.pad(corners, [b - 1] * 4), b, stride=1)
        kept = 1 - squares
        return x * kept * (kept.numel() / kept.sum().clamp(min=1))

    def extra_repr(self) -> str:
        return f"drop={self.drop:g}, size={self.size}"


def drop_block(
    network: nn.Module, drop: float, size: int = 7, *, image: Shape | None = None, after: tuple[str, ...] = ()
) -> list[str]:
    """Put DropBlock behind activations of maps. No name in the state dict changes.

    Args:
        drop: 1 - keep_prob at the end.
        size: of a square, in pixels of the map.
        image: channels, height and width of the images, which decide how large the maps are.
        after: names of layers; by default the activations whose maps are of the two coarsest sizes.

    Returns:
        The names of those layers.

    Raises:
        ValueError: the network has no such layer, or an argument is out of range.
    """
    names = list(after)
    if not names:
        steps = [s for s in rehearse(network, image) if is_activation(s) and len(s.makes) == 4]
        sides = sorted({s.makes[2] * s.makes[3] for s in steps} - {1})[:COARSEST]
        names = list(dict.fromkeys(s.name for s in steps if s.makes[2] * s.makes[3] in sides))
    if not names:
        raise ValueError(f"{type(network).__name__} has no activation of maps that squares could be cut from")
    for name in names:
        try:
            then(network, name, DropBlock(drop, size))
        except AttributeError:
            raise ValueError(f"{type(network).__name__} has no module {name!r}") from None
    return names


def schedule(network: nn.Module, done: float) -> None:
    """Let every DropBlock drop the share that it should when so much of the training is done (0 to 1)."""
    for module in network.modules():
        if isinstance(module, DropBlock):
            module.now = module.drop * min(1.0, max(0.0, done))
