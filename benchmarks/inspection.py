"""How long a network's whole table takes, beside the counters that people use.

    python benchmarks/inspection.py --rounds 15

Candidates, in turn in every round, one thread, each with a network and a process of its own, as some leave
others slower by a fifth:
`cnnkit.inspect` with rows, totals, receptive fields and peaks of memory; torchinfo, fvcore, ptflops (both
backends) and torch.utils.flop_counter, none of which knows receptive fields. Each counts on the CPU and on
the meta device and is represented by the faster; what does not run there is said. Measured is the CPU time of
the one thread, so that a busy machine does not count, though its full caches do. As in `timeit`, a turn
repeats its candidate until a fifth of a second is over, and the garbage collector rests; every turn begins
with one run that is not timed. A ratio is taken within its round; printed are the medians and the quartiles.
Then the first call of a fresh process, the memory that a table adds (Linux), and where the time of a shell
command goes. A counter that is missing is named.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.util
import io
import itertools
import logging
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace

Count = Callable[[nn.Module, Tensor], object]


def ours(model: nn.Module, images: Tensor) -> Table:
    made = table(trace(model, images))
    _ = made.total, made.training
    return made


def by_torchinfo(model: nn.Module, images: Tensor) -> object:
    return importlib.import_module("torchinfo").summary(
        model, input_data=images, device=images.device, verbose=0
    )


def by_fvcore(model: nn.Module, images: Tensor) -> object:
    counter = importlib.import_module("fvcore.nn").FlopCountAnalysis(model, images)
    return counter.unsupported_ops_warnings(False).total()


def by_ptflops(backend: str) -> Count:
    def count(model: nn.Module, images: Tensor) -> object:
        return importlib.import_module("ptflops").get_model_complexity_info(
            model,
            tuple(images.shape[1:]),
            input_constructor=lambda _: {"x": images},
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            backend=backend,
        )

    return count


def by_torch(model: nn.Module, images: Tensor) -> object:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


COUNTERS: dict[str, tuple[str, Count]] = {
    "cnnkit.inspect": ("cnnkit", ours),
    "torchinfo": ("torchinfo", by_torchinfo),
    "fvcore": ("fvcore", by_fvcore),
    "ptflops, modules": ("ptflops", by_ptflops("pytorch")),
    "ptflops, operators": ("ptflops", by_ptflops("aten")),
    "torch flop_counter": ("torch", by_torch),
}


#: Processes that begin with nothing.
SPAWN = multiprocessing.get_context("spawn")


def quieten() -> None:
    """One thread, and nothing of what others would log."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def quietly(run: Callable[[], object]) -> None:
    """Run without what it would print."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run()


def seconds(run: Callable[[], object], least: float = 0.2) -> float:
    """CPU time that one run takes, the mean of as many as fill the time, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        run()
        count, began = 0, time.process_time()
        while (spent := time.process_time() - began) < least:
            run()
            count += 1
        return spent / count
    finally:
        gc.enable()


def candidate(turns: Connection, name: str, peer: str, device: str) -> None:
    """A counter in a process of its own: it says whether it runs, then takes a turn when it is asked."""
    quieten()
    build = importlib.import_module("torchvision.models").get_model
    with torch.device(device):
        model = build(name, weights=None).eval()
    images = torch.zeros(1, 3, 224, 224, device=device)
    run = partial(quietly, partial(COUNTERS[peer][1], model, images))
    try:
        run()
    except Exception as error:
        turns.send(type(error).__name__)
        return
    turns.send(None)
    while turns.recv():
        for part in model.modules():  # fvcore and ptflops leave hooks behind
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
        turns.send(seconds(run))


def contest(name: str, rounds: int) -> None:
    """One network, all candidates."""
    there = [peer for peer, (package, _) in COUNTERS.items() if importlib.util.find_spec(package) is not None]
    turns: dict[tuple[str, str], Connection] = {}
    for key in itertools.product(there, ("meta", "cpu")):
        turns[key], theirs = SPAWN.Pipe()
        SPAWN.Process(target=candidate, args=(theirs, name, *key), daemon=True).start()
    for (peer, device), pipe in list(turns.items()):
        if problem := pipe.recv():
            print(f"{name}: {peer} does not run on {device}: {problem}")
            del turns[peer, device]
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in turns}
    for i in range(rounds + 1):
        for key, pipe in turns.items():
            pipe.send(True)
            found = pipe.recv()
            if i:
                taken[key].append(found)
    for pipe in turns.values():
        pipe.send(False)
    report(name, taken)


def report(name: str, taken: dict[tuple[str, str], list[float]]) -> None:
    """Medians, and how many times longer than ours each takes on the device where it is fastest."""
    print(f"\n{name}, 224, ms of CPU (median), and times ours (median, quartiles)")
    medians = {key: statistics.median(found) for key, found in taken.items()}
    best = {counter: min((medians[c, d], d) for c, d in taken if c == counter)[1] for counter, _ in taken}
    mine = taken["cnnkit.inspect", best["cnnkit.inspect"]]
    for counter, device in best.items():
        ratios = [theirs / ours for theirs, ours in zip(taken[counter, device], mine, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        shown = ", ".join(f"{d} {1e3 * medians[c, d]:.1f}" for c, d in taken if c == counter)
        print(f"  {counter:20s} {shown:28s} {middle:6.1f}x  ({low:.1f} to {high:.1f})")


def resident(field: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def memory() -> None:
    """Memory that a table adds at its worst moment, for weights of very different sizes."""
    print("\nmemory that trace and table add at their peak, MB")
    for device, width in (("cpu", 512), ("cpu", 8192), ("meta", 512), ("meta", 160_000)):
        with torch.device(device):
            model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        inputs = torch.zeros(1, width, device=device)
        ours(model, inputs)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident
        before = resident("VmHWM")
        made = ours(model, inputs)
        added = (resident("VmHWM") - before) / 1e6
        weights = made.total.params * 4 / 1e6
        print(f"  weights of {weights:10,.1f} MB on {device:4s}: {added:.2f}")


FIRST = """
import sys, time, warnings
import torch, torchvision
warnings.simplefilter("ignore")
torch.set_num_threads(1)
with torch.device("meta"):
    model = torchvision.models.get_model(sys.argv[1], weights=None).eval()
images = torch.zeros(1, 3, 224, 224, device="meta")
if sys.argv[2] == "cnnkit":
    from cnnkit.inspect.table import table
    from cnnkit.inspect.trace import trace
    count = lambda: [(made := table(trace(model, images))).total, made.training]
else:
    from torch.utils.flop_counter import FlopCounterMode
    def count():
        with FlopCounterMode(display=False), torch.no_grad():
            model(images)
began = time.process_time()
count()
print(time.process_time() - began)
"""


def first(names: list[str], rounds: int) -> None:
    """The first call of a fresh process, beside the peer that comes with torch."""
    print("\nfirst call of a fresh process on the meta device, ms of CPU (median)")
    for name in names:
        taken: dict[str, list[float]] = {"cnnkit": [], "flop_counter": []}
        for _ in range(rounds):
            for who, found in taken.items():
                command = [sys.executable, "-c", FIRST, name, who]
                found.append(float(subprocess.run(command, check=True, capture_output=True).stdout))
        mine, theirs = (1e3 * statistics.median(found) for found in taken.values())
        print(f"  {name}: cnnkit.inspect {mine:.0f}, torch flop_counter {theirs:.0f} ({theirs / mine:.1f}x)")


IMPORTS = "import torch, cnnkit.models, cnnkit.inspect"
BUILD = f"{IMPORTS}\nwith torch.device('meta'): model = cnnkit.models.create('resnet50')"
TABLE = f"""{BUILD}
made = cnnkit.inspect.table(cnnkit.inspect.trace(model, torch.zeros(1, 3, 224, 224, device='meta')))"""
#: Whole programs, each with a step more.
STEPS = {
    "python": ["-c", "pass"],
    "+ import torch": ["-c", "import torch"],
    "+ import the networks": ["-c", "import torch, cnnkit.models"],
    "+ import cnnkit.inspect": ["-c", IMPORTS],
    "+ build resnet50": ["-c", BUILD],
    "+ trace and table": ["-c", TABLE],
    "cnnkit inspect resnet50": ["-m", "cnnkit", "inspect", "resnet50"],
}


def shell(rounds: int) -> None:
    """Where the time of a command goes: whole processes, each with one step more."""
    print(f"\nfrom the shell, CPU seconds of the whole process (least of {rounds}), and what the step adds")
    taken: dict[str, list[float]] = {step: [] for step in STEPS}
    for _ in range(rounds):
        for step, arguments in STEPS.items():
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken[step].append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    before = 0.0
    for step, found in taken.items():
        print(f"  {step:26s} {min(found):.2f}  {min(found) - before:+.2f}")
        before = min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", default="resnet152,efficientnet_b7")
    parser.add_argument("--shell", type=int, default=3, help="rounds of whole processes; 0 leaves them out")
    asked = parser.parse_args()
    quieten()
    missing = {package for package, _ in COUNTERS.values() if importlib.util.find_spec(package) is None}
    if missing:
        print(f"NOT INSTALLED, so not compared: {', '.join(sorted(missing))}")
    print(f"torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in asked.models.split(","):
        contest(name, asked.rounds)
    memory()
    if asked.shell:
        first(asked.models.split(","), asked.shell)
        shell(asked.shell)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
