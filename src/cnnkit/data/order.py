"""Which images make which batch: what an epoch draws depends on the seed and its number alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def derive(*numbers: int) -> int:
    """A seed that depends on all of the numbers and shares nothing with its neighbours'."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class Order:
    """Which images make which batch, an epoch at a time; a batch sampler.

    A last batch of one image joins the batch before it: batch norm has no variance of one value. Several
    processes share each batch: its images are those that one process would have, and each takes a piece.

    Args:
        count: number of images.
        batch_size: images a batch.
        seed: where the permutations come from; None keeps the images in order.
    """

    def __init__(self, count: int, batch_size: int, seed: int | None = None) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0
        self.rank, self.ranks = 0, 1
        self.sampler = self  # where the Trainer looks for `set_epoch`

    def among(self, rank: int, ranks: int) -> None:
        """Share the batches with other processes; this one is number `rank`, from 0, of `ranks`."""
        self.rank, self.ranks = rank, ranks

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; called by the Trainer before an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest > 1 or full == 0)

    def indices(self) -> list[Tensor]:
        """The batches of the current epoch, whole."""
        if self.seed is None:
            order = torch.arange(self.count)
        else:
            order = torch.randperm(self.count, generator=self.generator(0))
        cuts = [self.batch_size * i for i in range(1, len(self))]
        return list(order.tensor_split(cuts))

    def size(self, place: int) -> int:
        """Images of a batch, on all processes together."""
        last = len(self) - 1
        return self.batch_size if place < last else self.count - self.batch_size * last

    def is_whole(self, place: int) -> bool:
        """Whether every process has all of a batch, since two images for each are not there."""
        return self.size(place) < 2 * self.ranks

    def piece(self, place: int) -> slice:
        """Which images of a batch this process has: an even share, or all."""
        size = self.size(place)
        if self.is_whole(place):
            return slice(0, size)
        each, more = divmod(size, self.ranks)
        start = each * self.rank + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def share(self, place: int) -> float:
        """By what the mean over this process's piece counts in the mean over processes, that of the batch."""
        piece = self.piece(place)
        return 1.0 if self.is_whole(place) else (piece.stop - piece.start) * self.ranks / self.size(place)

    def counts(self, place: int) -> bool:
        """Whether this process counts its images of a batch; what all have, the first counts."""
        return self.rank == 0 or not self.is_whole(place)

    def mine(self) -> list[Tensor]:
        """The pieces that this process has of the current epoch's batches."""
        return [batch[self.piece(place)] for place, batch in enumerate(self.indices())]

    def generator(self, purpose: int) -> torch.Generator:
        """A generator of its own for one purpose in the current epoch."""
        return torch.Generator().manual_seed(derive(self.seed or 0, self.epoch, purpose))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Batches of (epoch, index), so that a worker process knows the epoch."""
        for batch in self.mine():
            yield [(self.epoch, index) for index in batch.tolist()]


class Turns(Order):
    """Every image a batch of its own, in order, to be scored; several processes take turns.

    All have equally many: at the end some look at the last image without counting it.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count, 1)

    def __len__(self) -> int:
        return -(-self.count // self.ranks)

    def indices(self) -> list[Tensor]:
        """The images of all processes."""
        return [torch.tensor([index]) for index in range(self.count)]

    def share(self, place: int) -> float:
        """Nothing is learnt of them."""
        return 1.0

    def counts(self, place: int) -> bool:
        """Whether it is this process's turn, and not the last image once more."""
        return self.ranks * place + self.rank < self.count

    def mine(self) -> list[Tensor]:
        """The images of this process, one each."""
        last = self.count - 1
        return [torch.tensor([min(self.ranks * place + self.rank, last)]) for place in range(len(self))]
