"""One run on many processes, started by torchrun: who they are, what the first decides, how they all end.

Every process has the whole network and an even share of each batch; the gradient is that of the whole batch.
The first process opens and looks at the data, makes all choices, writes all files and says everything; the
others are told.
"""

import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from cnnkit.errors import Failure, Misuse, Stopped
from cnnkit.surgery.stochastic_depth import Survival
from cnnkit.train.heartbeat import Watch, meet
from cnnkit.train.recipe import Recipe

T = TypeVar("T")

#: An exchange may take this long: the first process looks at a million photos while the others wait. That a
#: process is gone is noticed long before, by its heartbeat.
PATIENCE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one run, as one of them sees it; by default it is alone.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        near: how many of them are on this machine.
        talk: the group in which they exchange what is in main memory.
    """

    rank: int = 0
    size: int = 1
    near: int = 1
    talk: Any = None

    @property
    def first(self) -> bool:
        """Whether this process decides, writes and speaks."""
        return self.rank == 0

    def led(self, make: Callable[[], T]) -> T:
        """What the first process makes, on every process."""
        if self.size == 1:
            return make()
        if not self.first:
            return self.received()
        made = make()
        self.send(made)
        return made

    def send(self, value: Any) -> None:
        """Give a value of the first process to the others, which wait for it in `received`."""
        if self.size > 1:
            dist.broadcast_object_list([value], src=0, group=self.talk)

    def received(self) -> Any:
        """What the first process sends."""
        found: list[Any] = [None]
        dist.broadcast_object_list(found, src=0, group=self.talk)
        return found[0]

    def gathered(self, mine: T) -> list[T]:
        """What every process has, in their order, on the first; nothing on the others."""
        if self.size == 1:
            return [mine]
        found: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(mine, found, dst=0, group=self.talk)
        return found or []

    def summed(self, *mine: float) -> list[float]:
        """Numbers added up over all processes."""
        if self.size == 1:
            return list(mine)
        total = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(total, group=self.talk)
        return total.tolist()

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process alone goes through the block, then all others at once."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.talk)

    def align(self, network: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0, group=self.talk)


ALONE = World()


def _number(name: str, without: int) -> int:
    return int(os.environ.get(name, without))


def cores() -> int:
    """Cores of this machine for one of the processes that share it."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // _number("LOCAL_WORLD_SIZE", 1))


def job() -> dict[str, Any]:
    """What tells this start of torchrun from others, and its number of processes; empty without torchrun.

    Restarts are the same job.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {}
    name = os.environ["TORCHELASTIC_RUN_ID"]
    if name == "none":  # torchrun was given no name
        name = f"{socket.gethostname()}-{os.getppid()}"
    return {"id": name, "processes": _number("WORLD_SIZE", 1)}


def restarted() -> bool:
    """Whether torchrun has started the processes anew, after one of them ended."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def check_shared(recipe: Recipe) -> None:
    """Refuse what the processes that torchrun started cannot share.

    Raises:
        Misuse: the batch is too small for them, or there are not as many devices.
    """
    size, near = _number("WORLD_SIZE", 1), _number("LOCAL_WORLD_SIZE", 1)
    if size == 1:
        return
    if (recipe.batch_size or 1) < 2 * size:
        raise Misuse(
            f"--batch-size {recipe.batch_size} is shared by {size} processes, and each needs two images; "
            f"use --batch-size {2 * size} or more, or fewer processes"
        )
    kind, _, index = recipe.device.partition(":")
    if index or kind not in ("cpu", "cuda"):
        raise Misuse(f"--device {recipe.device} is one device for {size} processes; use --device cuda or cpu")
    if kind == "cuda" and near > torch.cuda.device_count():
        raise Misuse(f"{near} processes need {near} GPUs, and there are {torch.cuda.device_count()}")
    if size % near:
        raise Misuse(f"{size} processes in machines of {near} are not shared evenly; start as many on each")
    if recipe.distribute == "fsdp" and recipe.precision == "16":
        raise Misuse(
            "--precision 16 scales gradients of whole weights; with --distribute fsdp use bf16 or 32"
        )
    if recipe.distribute == "fsdp" and (recipe.ema is not None or recipe.cached_features is not None):
        name = "ema" if recipe.ema is not None else "cached_features"
        raise Misuse(f"{name} needs the whole network in each process; leave it out or use --distribute ddp")


def shared(recipe: Recipe, weights: int, skips: bool = False) -> Recipe:
    """The recipe with its choice of what a process holds, for a network of so many weights.

    That is a part of it where the whole, with its gradient and two moments, fills half of a GPU.

    Args:
        skips: whether there are steps that leave out some of the weights.

    Raises:
        Misuse: there are, and the processes are to hold parts.
    """
    if _number("WORLD_SIZE", 1) == 1:
        return recipe
    if skips and recipe.distribute == "fsdp":  # processes would wait for each other's parts of other layers
        raise Misuse(
            "stochastic_depth and unfreeze leave weights out of a step, and --distribute fsdp needs all of "
            "them; leave that out or use --distribute ddp"
        )
    if recipe.distribute != "auto":
        return recipe
    on_gpu = torch.device(recipe.device).type == "cuda"
    room = torch.cuda.get_device_properties(0).total_memory if on_gpu else math.inf
    whole = skips or recipe.ema is not None or recipe.cached_features is not None
    whole = whole or 4 * 4 * weights < room / 2
    return replace(recipe, distribute="ddp" if whole else "fsdp")


def in_parts(recipe: Recipe) -> Recipe:
    """The recipe with its arithmetic chosen for a network in parts, which no device has room to measure."""
    bf16 = recipe.device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return replace(
        recipe,
        precision=("bf16" if bf16 else "32") if recipe.precision == "auto" else recipe.precision,
        layout="channels_last" if recipe.layout == "auto" else recipe.layout,
        threads=recipe.threads or cores(),
    )


def may_skip(network: nn.Module, recipe: Recipe) -> bool:
    """Whether there are steps that leave out some of the weights."""
    depth = any(part.name == "stochastic_depth" for part in recipe.regularise)
    return depth or recipe.unfreeze is not None or any(isinstance(m, Survival) for m in network.modules())


def strategy(recipe: Recipe, world: World, skips: bool) -> Strategy:
    """How Lightning's Trainer shares the network: whole in each process, or in parts."""
    if recipe.distribute == "fsdp":
        return ModelParallelStrategy(world.size, 1, save_distributed_checkpoint=False)
    return DDPStrategy(find_unused_parameters=skips, gradient_as_bucket_view=True)


@contextmanager
def together() -> Iterator[World]:
    """The processes that torchrun started; only this one where it did not.

    Where one of them ends early the others do too, with its exit code, and only one says why.

    Raises:
        Failure: another process is gone.
        SystemExit: another process has already said why the run ends.
    """
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(_number("LOCAL_RANK", 0) % torch.cuda.device_count())
    whole, rank, _ = next(rendezvous("env://"))
    store = meet(whole, rank, size)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    watch = Watch(store.clone(), rank, size)
    try:
        talk = dist.new_group(backend="gloo", timeout=PATIENCE)
        world = World(rank, size, _number("LOCAL_WORLD_SIZE", size), talk)
        yield world
        world.wait()
    except (Exception, Stopped, KeyboardInterrupt) as error:
        _deaf()
        ending = _ending(watch, error)
        watch.stop()
        if not torch.cuda.is_available():  # NCCL waits for exchanges that will never be complete
            dist.destroy_process_group()
        if ending is None:
            raise
        raise ending from error
    watch.stop()
    dist.destroy_process_group()


def _deaf() -> None:
    """Torchrun sends a signal to the processes that are left; they are ending already."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _ending(watch: Watch, error: BaseException) -> BaseException | None:
    """What to raise in place of the error that this process met; None where that is for this one to say."""
    found = None if isinstance(error, Failure) else watch.reason()
    if found is None and isinstance(error, Stopped) and watch.rank:
        found = watch.waited()  # all were stopped; the first knows best what is saved
    code, words = (error_code(error), str(error)) if found is None else (found["code"], found["words"])
    if not watch.tell(code, words):
        return SystemExit((watch.told() or {"code": code})["code"])
    return None if found is None else Failure(words)


def error_code(error: BaseException) -> int:
    """The exit code of a process that ends by this error."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "code", 1)
