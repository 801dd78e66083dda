"""A run may be killed at any moment: what it goes on to is what it would have been."""

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from cnnkit.errors import Stopped
from cnnkit.tasks import load
from cnnkit.train.directory import Directory
from cnnkit.train.guards import stoppable

EPOCHS = 14


def work(output: Path, resume: bool) -> None:
    """One process of a run, which says by its exit code how it ended."""
    import torch

    from cnnkit.train.fit import fit

    torch.set_num_threads(1)
    settings = {} if resume else {"source": "digits", "model": "lenet5_relu", "epochs": EPOCHS}
    with (output.parent / "words").open("a") as words:
        try:
            fit(output=output, resume=resume, console=Console(file=words, width=200), **settings)
        except Stopped as stop:
            words.write(str(stop))
            raise SystemExit(stop.code) from None


def start(output: Path, resume: bool) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cnnkit.train.fit", "sklearn.datasets", "tests.train.test_kill"])
    process = context.Process(target=work, args=(output, resume))
    process.start()
    return process


def finish(process: BaseProcess) -> int | None:
    process.join(timeout=300)
    return process.exitcode


def history(run: Directory) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in row.items() if k not in {"seconds", "images_per_second", "waiting"}}
        for row in lines
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """The run that nobody interrupts."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert finish(start(path, resume=False)) == 0
    return Directory(path)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(whole: Directory, tmp_path: Path) -> None:
    moments, kills, before = random.Random(0), 0, 0
    run = Directory(tmp_path / "run")
    for _ in range(200):
        process = start(run.path, resume=(run.path / "split.json").exists())
        if kills < 10:
            wait_for_work(process, run, before, moments)
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            now = epochs_done(run)
            assert now >= before, "a kill must not lose a finished epoch"
            before = now
        else:
            assert finish(process) == 0
            break
    else:
        pytest.fail(f"only {kills} kills in 200 attempts")
    assert history(run) == history(whole)
    assert run.best.read_bytes() == whole.best.read_bytes()
    left = torch.load(run.last, weights_only=True)["state_dict"]
    kept = torch.load(whole.last, weights_only=True)["state_dict"]
    assert all(torch.equal(left[name], kept[name]) for name in kept)
    assert [p.name for p in run.path.iterdir() if p.name.startswith(".")] == [".lock"]


def wait_for_work(process: BaseProcess, run: Directory, before: int, moments: random.Random) -> None:
    """Until a random moment in the process's life: while it starts, or within an epoch or two of its work."""
    if moments.random() < 0.2:
        time.sleep(moments.uniform(0.0, 1.0))
        return
    deadline = time.monotonic() + 120
    while epochs_done(run) <= before and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(moments.uniform(0.0, 0.3))


def epochs_done(run: Directory) -> int:
    return len(run.load_checkpoint()["history"]) if run.last.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on_and_the_run_ends_the_same(
    whole: Directory, tmp_path: Path, number: signal.Signals
) -> None:
    run = Directory(tmp_path / "run")
    process = start(run.path, resume=False)
    while epochs_done(run) < 3:
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == 130
    done = epochs_done(run)
    said = (tmp_path / "words").read_text()
    assert f"stopped; {done} of {EPOCHS} epochs are saved" in said
    assert f"go on with: cnnkit train --resume --output {run.path}" in said
    assert 3 <= done < EPOCHS
    assert finish(start(run.path, resume=True)) == 0
    assert history(run) == history(whole)
    assert load(run.best).card.metrics == load(whole.best).card.metrics


def test_workers_that_end_meanwhile_do_not_hide_what_is_saved() -> None:
    class Last:
        def exists(self) -> bool:
            os.kill(os.getpid(), signal.SIGCHLD)  # a worker ended, while it is looked what there is
            return False

    def raises(number: int, frame: object) -> None:
        raise RuntimeError("worker is killed")

    run: Any = SimpleNamespace(last=Last(), path="run")
    plan: Any = SimpleNamespace(directory=run, recipe=SimpleNamespace(epochs=3))
    before = signal.signal(signal.SIGCHLD, raises)
    try:
        with pytest.raises(Stopped, match="0 of 3 epochs are saved"), stoppable(plan):
            raise Stopped
        assert signal.getsignal(signal.SIGCHLD) is raises
    finally:
        signal.signal(signal.SIGCHLD, before)
