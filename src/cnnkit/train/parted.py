"""A network in parts, one a process, for networks that do not fit into one (fully sharded data parallelism).

Each process keeps an equal part of every weight, of its gradient and of what the optimiser knows of it. A
layer's weights are put together right before it computes and dropped after (Rajbhandari, Rasley, Ruwase & He,
SC 2020, arXiv:1910.02054, stage 3; PyTorch's `fully_shard`).
"""

from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

#: Layers of at least so many weights are put together one at a time; smaller ones all at once.
LARGE = 2**16


def shard(network: nn.Module, among: DeviceMesh) -> None:
    """Leave this process its part of the network, in place."""
    layers: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if sum(p.numel() for p in layer.parameters()) >= LARGE:
            fully_shard(layer, mesh=among)
    fully_shard(network, mesh=among)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Weights, put together on the first process where they are in parts; every process must ask."""
    if not isinstance(network, FSDPModule):
        return network.state_dict()
    found: dict[str, Any] = get_model_state_dict(
        network, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return found
