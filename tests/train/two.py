"""Two processes on this machine that run the same functions, as torchrun would start them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from torch.distributed import TCPStore


class Two:
    """A pair of processes; what their functions raise comes back as a sentence and an exit code."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cnnkit.train.fit", "sklearn.datasets", "tests.train.test_kill"])
        self.store = TCPStore("localhost", 0, is_master=True)
        self.ends: list[Connection] = []
        self.processes: list[ForkServerProcess] = []
        for rank in range(2):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, rank, self.store.port))
            process.start()
            self.ends.append(here)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What the function returns in both, given the process's number first."""
        for end in self.ends:
            end.send((function, args))
        return [self.result(rank) for rank in range(2)]

    def result(self, rank: int, within: float = 200) -> Any:
        """What one process returns."""
        if not self.ends[rank].poll(within):
            raise TimeoutError(f"process {rank} did not end in {within} s")
        return self.ends[rank].recv()

    def close(self) -> None:
        """End both."""
        for process in self.processes:
            process.kill()
            process.join()


class Ended(str):
    """The sentence that a process ended with. It is no exception, so that a test can look at it."""

    code: int | None = None


def serve(end: Connection, rank: int, port: int) -> None:
    """Run what is asked for, one after the other."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "test"}
    while True:
        with contextlib.suppress(EOFError):
            function, args = end.recv()
            try:
                result = function(rank, *args)
            except BaseException as error:
                result = Ended("" if isinstance(error, SystemExit) else str(error))
                result.code = getattr(error, "code", None)
                if result.code is None:
                    traceback.print_exc(file=sys.stderr)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            end.send(result)
            continue
        return
