"""Running the checks, network by network, in several processes where there are many networks."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import torch

from cnnkit import models
from cnnkit.registry import Spec
from cnnkit.verify import checks, trained
from cnnkit.verify.finding import Finding
from cnnkit.verify.meta import on_meta

Found = TypeVar("Found")

#: A process more for each so many networks: starting one costs as much as checking those.
WORTH_A_PROCESS = 20


def check(spec: Spec, deepest: int) -> list[Finding]:
    """Every check up to a rung, from the lowest up."""
    network = _run(spec, 1, "parameters", lambda: on_meta(spec))
    if isinstance(network, Finding):
        return [network]
    rows: list[tuple[int, str, Callable[[], Finding]]] = [
        (1, "parameters", lambda: checks.parameters(spec, network)),
        (1, "macs", lambda: checks.macs(spec, network)),
        (2, "shapes", lambda: checks.shapes(spec, network)),
        (3, "same outputs", lambda: checks.same_outputs(spec)),
        (4, "real pictures", lambda: trained.real_pictures(spec)),
        (5, "trained here", lambda: trained.trained_here(spec)),
    ]
    return [_run(spec, rung, name, call) for rung, name, call in rows if rung <= deepest]


def _run(spec: Spec, rung: int, name: str, call: Callable[[], Found]) -> Found | Finding:
    """What it gives; a check that breaks off has failed, and the others still run."""
    try:
        return call()
    except Exception as error:
        told = f"broke off with {type(error).__name__}: {error}".splitlines()[0]
        return Finding(spec.name, rung, name, "failed", "ours", told)


def every(names: Sequence[str], deepest: int, processes: int = 2) -> Iterator[list[Finding]]:
    """The findings of each network, in the order of the names."""
    processes = min(processes, os.cpu_count() or 1, 1 + len(names) // WORTH_A_PROCESS)
    if processes == 1:
        yield from (check(models.spec(name), deepest) for name in names)
        return
    # spawned, since a fork of a process with threads may hang
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin) as pool:
        yield from pool.map(partial(_check, deepest=deepest), names)


def _begin() -> None:
    """One thread a process; an interruption is the parent's to handle, which sends no more work."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check(name: str, deepest: int) -> list[Finding]:
    return check(models.spec(name), deepest)
