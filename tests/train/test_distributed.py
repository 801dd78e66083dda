"""Several processes train one network: what they reach is what one process reaches."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch import distributed as dist

from cnnkit.data.order import Order, Turns
from cnnkit.errors import Failure, Misuse
from cnnkit.train import fit as fitting
from cnnkit.train import heartbeat
from cnnkit.train.directory import Directory
from cnnkit.train.distributed import check_shared, shared, together
from cnnkit.train.fit import fit
from cnnkit.train.heartbeat import Watch, meet
from cnnkit.train.module import Training
from cnnkit.train.recipe import Recipe

from ..conftest import MakeFolder
from .two import Two

#: What does not change with the number of processes, in as few seconds as possible.
PLAIN: dict[str, Any] = {"model": "lenet5_relu", "precision": "32", "layout": "channels_first", "threads": 1}
STEADY: dict[str, Any] = {**PLAIN, "optimizer": "sgd", "schedule": "constant", "lr": 0.02}


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    pair = Two()
    yield pair
    pair.close()


def train(rank: int, output: Path, settings: dict[str, Any], source: str | None = "digits") -> str:
    """A run in float64, in one of the processes or alone; what it says."""
    said = output.parent / f"{output.name}-{rank}.txt"
    with pytest.MonkeyPatch.context() as patch, said.open("w") as words:
        read, build = Training.read, fitting.build
        patch.setattr(fitting, "build", lambda plan: (build(plan)[0].double(), build(plan)[1]))
        patch.setattr(fitting, "_finish", lambda *_: None)  # the report, which one process makes
        patch.setattr(Training, "read", lambda self, batch: read(self, batch).double())
        fit(source, output=output, console=Console(file=words, width=200), **settings)
    return said.read_text()


def weights(run: Path) -> dict[str, Tensor]:
    return Directory(run).load_checkpoint()["state_dict"]


def rows(run: Path) -> list[dict[str, float]]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    own = {"seconds", "images_per_second", "waiting"}
    return [{name: value for name, value in row.items() if name not in own} for row in lines]


def assert_same(one: Path, other: Path) -> None:
    """Weights and all metrics to 1e-8."""
    mine, theirs = weights(one), weights(other)
    assert any(t.dtype == torch.float64 for t in mine.values())
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-8)
    assert len(rows(one)) == len(rows(other))
    for a, b in zip(rows(one), rows(other), strict=True):
        assert a == pytest.approx(b, rel=0, abs=1e-8)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"batch_size": 43}, id="pieces of 22 and 21, at last of 3 and 2"),
        pytest.param(
            {"batch_size": 38, "accumulate": 2, "ema": 0.5, "clip": 0.5, "regularise": ["l2"]},
            id="three images at last, for both; steps of two batches, an average, a penalty",
        ),
        pytest.param(
            {"batch_size": 43, "regularise": ["batch_norm"], "sync_batch_norm": True}, id="batch norm, shared"
        ),
    ],
)
def test_two_processes_equal_one(two: Two, tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = {**PLAIN, "epochs": 1, **settings}
    train(0, tmp_path / "one", settings)
    said, silence = two.run(train, tmp_path / "two", settings)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert "shared by 2 processes" in said
    assert silence == ""


def test_two_processes_equal_one_on_photos(two: Two, tmp_path: Path, make_folder: MakeFolder) -> None:
    root = str(make_folder({"red": 17, "green": 17, "blue": 11}, size=90))
    settings = {**STEADY, "epochs": 2, "batch_size": 7, "augment": [], "image_size": 80, "workers": 0}
    settings |= {"model": "squeezenet1_1", "regularise": [{"name": "dropout", "p": 0.0}]}
    train(0, tmp_path / "one", settings, root)
    two.run(train, tmp_path / "two", settings, root)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_two_processes_equal_one_on_masks_of_several_sizes(two: Two, tmp_path: Path) -> None:
    """Seven pictures are scored, so one process has none left at the end."""
    root, random = tmp_path / "halves", np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 7)):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for i in range(count):
            size, files = (36 + 4 * (i % 2), 40), [root / part / f / f"{i}.png" for f in ("images", "masks")]
            Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(files[0])
            Image.fromarray(random.integers(0, 2, size, dtype=np.uint8)).save(files[1])
    settings = {**STEADY, "epochs": 2, "batch_size": 5, "image_size": 32, "workers": 0, "augment": []}
    settings |= {"fit": "squash", "model": "unet_padded_bn", "sync_batch_norm": True}
    settings |= {"arguments": {"width": 0.0625}}
    train(0, tmp_path / "one", settings, str(root))
    two.run(train, tmp_path / "two", settings, str(root))
    assert_same(tmp_path / "one", tmp_path / "two")


@given(count=st.integers(1, 20), ranks=st.integers(1, 5))
def test_turns_have_every_image_once(count: int, ranks: int) -> None:
    counted, lengths = list[int](), set[int]()
    for rank in range(ranks):
        order = Turns(count)
        order.among(rank, ranks)
        mine = order.mine()
        lengths.add(len(mine))
        assert len(mine) == len(order)
        counted += [int(batch) for place, batch in enumerate(mine) if order.counts(place)]
    assert sorted(counted) == list(range(count)) == [int(batch) for batch in Turns(count).indices()]
    assert len(lengths) == 1


def test_a_run_goes_on_with_another_number_of_processes(two: Two, tmp_path: Path) -> None:
    train(0, tmp_path / "whole", {**STEADY, "epochs": 3})
    first, more = {**STEADY, "epochs": 1}, {"epochs": 2, "resume": True}
    two.run(train, tmp_path / "mixed", first)
    train(0, tmp_path / "mixed", more, None)
    two.run(train, tmp_path / "mixed", {"epochs": 3, "resume": True}, None)
    assert_same(tmp_path / "whole", tmp_path / "mixed")


def test_a_network_in_parts_learns_and_goes_on_as_a_whole_one(two: Two, tmp_path: Path) -> None:
    settings = {**STEADY, "batch_size": 43, "regularise": ["batch_norm"], "clip": 0.5, "layout": "auto"}
    train(0, tmp_path / "one", {**settings, "epochs": 2})
    parted = {**settings, "distribute": "fsdp"}
    shapes = two.run(train_in_parts, tmp_path / "parts", {**parted, "epochs": 1})
    assert shapes[0]["whole"] == shapes[1]["whole"]
    assert [shapes[rank]["parts"][0] for rank in range(2)] == [3, 3], "half of the six first kernels each"
    two.run(train_in_parts, tmp_path / "parts", {"epochs": 2, "resume": True}, None)
    assert_same(tmp_path / "one", tmp_path / "parts")


def train_in_parts(rank: int, output: Path, settings: dict[str, Any], source: str | None = "digits") -> Any:
    """A run, and how much of its first kernels a process holds."""
    seen: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        start = Training.on_train_epoch_start

        def look(self: Training) -> None:
            kernels: Any = next(self.model.parameters())
            seen["whole"], seen["parts"] = tuple(kernels.shape), tuple(kernels.to_local().shape)
            start(self)

        patch.setattr(Training, "on_train_epoch_start", look)
        train(rank, output, settings, source)
    return seen


def test_all_processes_have_the_same_weights_where_each_leaves_out_other_branches(
    two: Two, tmp_path: Path, make_folder: MakeFolder
) -> None:
    root = str(make_folder({"red": 8, "green": 8}, size=32))
    settings = {**STEADY, "model": "resnet20_cifar10", "epochs": 2, "batch_size": 4}
    settings |= {"regularise": ["stochastic_depth"]}
    first, second = two.run(weights_at_the_end, tmp_path / "run", settings, root)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def weights_at_the_end(rank: int, output: Path, settings: dict[str, Any], source: str) -> dict[str, Tensor]:
    """What a process has learnt after a run."""
    found: dict[str, Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        keep = lambda self: found.update({n: p.detach() for n, p in self.named_parameters()})  # noqa: E731
        patch.setattr(Training, "on_train_end", keep)
        train(rank, output, settings, source)
    return found


def test_what_one_process_refuses_all_end_with_and_only_one_says(two: Two, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    ends = two.run(train, tmp_path / "taken", PLAIN)
    assert [end.code for end in ends] == [2, 2]
    assert "taken exists" in ends[0]
    assert ends[1] == ""


def test_a_failure_of_any_process_is_that_of_the_run(two: Two) -> None:
    ends = two.run(fail_in_the_second)
    assert [end.code for end in ends] == [1, 1]
    assert ends == ["", "the second sees what the first does not"]


def fail_in_the_second(rank: int) -> None:
    """Work of which one process fails while the other waits for it."""
    with together() as world:
        assert world.summed(rank, 1) == [1, 2]
        if rank:
            raise Failure("the second sees what the first does not")
        world.wait()


def test_a_batch_too_small_to_share_is_refused(two: Two, tmp_path: Path) -> None:
    ends = two.run(train, tmp_path / "run", {**PLAIN, "batch_size": 3})
    assert ends[0].code == 2
    assert "--batch-size 4 or more, or fewer processes" in ends[0]
    assert not (tmp_path / "run").exists()


def test_a_network_that_fills_half_of_a_gpu_is_shared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    recipe = Recipe(device="cuda")
    assert shared(recipe, 10**10).distribute == "auto", "one process has nobody to share with"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert shared(recipe, 2 * 10**9).distribute == "ddp"
    assert shared(recipe, 3 * 10**9).distribute == "fsdp"
    assert shared(replace(recipe, device="cpu"), 3 * 10**9).distribute == "ddp"
    assert shared(replace(recipe, ema=0.1), 3 * 10**9).distribute == "ddp"
    assert shared(recipe, 3 * 10**9, skips=True).distribute == "ddp"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "16", "device": "cuda"}, "with --distribute fsdp use bf16 or 32"),
        ({"ema": 0.1}, "ema needs the whole network in each process"),
    ],
)
def test_what_a_network_in_parts_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(Misuse, match=sentence):
        check_shared(Recipe(batch_size=8, distribute="fsdp", **{"device": "cpu", **settings}))


def test_steps_that_leave_weights_out_are_not_for_networks_in_parts(two: Two, tmp_path: Path) -> None:
    settings = {**PLAIN, "model": "resnet20_cifar10", "arguments": {"width": 0.25}, "distribute": "fsdp"}
    ends = two.run(train, tmp_path / "run", {**settings, "regularise": ["stochastic_depth"]})
    assert ends[0].code == 2
    assert "stochastic_depth and unfreeze leave weights out of a step" in ends[0]


def test_a_network_in_parts_learns_at_the_rates_of_its_stages(two: Two, tmp_path: Path, source: Path) -> None:
    settings = {**STEADY, "weights": str(source), "share": 0.1, "epochs": 1, "batch_size": 33}
    settings |= {"model": None, "augment": [], "stage_factor": 0.1, "sync_batch_norm": True}
    train(0, tmp_path / "one", settings)
    two.run(train, tmp_path / "parts", {**settings, "distribute": "fsdp"})
    assert_same(tmp_path / "one", tmp_path / "parts")


@given(
    count=st.integers(1, 90),
    size=st.integers(2, 20),
    ranks=st.integers(1, 5),
    number=st.integers(0, 2),
)
def test_pieces_make_up_the_batches_of_one_process(count: int, size: int, ranks: int, number: int) -> None:
    alone = Order(count, size, seed=3)
    shared = [Order(count, size, seed=3) for _ in range(ranks)]
    for rank, order in enumerate(shared):
        order.among(rank, ranks)
    for order in (alone, *shared):
        order.set_epoch(number)
    value = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for place, batch in enumerate(alone.indices()):
        pieces = [order.mine()[place] for order in shared]
        counted = [p for p, order in zip(pieces, shared, strict=True) if order.counts(place)]
        assert torch.cat(counted).tolist() == batch.tolist()
        assert all(len(piece) > 1 for piece in pieces) or count == 1
        means = [value[p].mean() * order.share(place) for p, order in zip(pieces, shared, strict=True)]
        assert math.isclose(sum(means) / ranks, value[batch].mean(), rel_tol=1e-12)


def test_processes_meet_in_a_store_where_others_have_met_before() -> None:
    store = dist.HashStore()
    for attempt in range(2):
        met = together_in(store)
        assert not met[1].check(["mark"]), "what an earlier start wrote is not seen"
        met[0].set("mark", str(attempt))
        assert [met[rank].get("mark").decode() for rank in range(3)] == [str(attempt)] * 3


def together_in(store: dist.Store) -> dict[int, dist.Store]:
    """What three processes have after they have met; the first comes last."""
    met: dict[int, dist.Store] = {}

    def come(rank: int) -> None:
        met[rank] = meet(store, rank, 3)

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (2, 1, 0)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(10)
    return met


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.05, "SILENT": 0.6, "GRACE": 0.3, "ROUND": 0.6}.items():
        monkeypatch.setattr(heartbeat, name, seconds)


def test_a_silent_process_ends_the_one_that_waits_for_it(
    hasty: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    codes: list[int] = []
    store = dist.HashStore()
    alive, dead = Watch(store, 0, 2), Watch(store, 1, 2)
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), alive.over.set(), ended.set()))
    time.sleep(0.8)
    assert not ended.is_set()
    dead.stop()
    assert ended.wait(5)
    alive.stop()
    assert codes == [1]
    assert capsys.readouterr().err.startswith("error: process 2 of 2 was killed or cannot be reached")


def test_the_reason_of_a_failed_exchange_is_told_or_found(hasty: None) -> None:
    store = dist.HashStore()
    first, second = Watch(store, 0, 2), Watch(store, 1, 2)
    assert first.reason() is None, "both are well"
    second.stop()
    found = first.reason()
    assert found is not None
    assert found["words"].startswith("process 2 of 2 was killed")
    assert second.tell(2, "this folder is taken")
    assert not first.tell(1, "later")
    assert first.reason() == {"rank": 1, "code": 2, "words": "this folder is taken"}


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_process_ends_the_run_or_restarts_it(tmp_path: Path, restarts: int) -> None:
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.csv"
    command = [*TORCHRUN, "--max-restarts", str(restarts), "-m", "cnnkit", "train", "digits", "--output"]
    command += [str(run), "--epochs", "12", "--model", "lenet5_relu"]
    with (tmp_path / "words").open("w") as words:
        torchrun = subprocess.Popen(command, stdout=words, stderr=words, env=os.environ | {"NO_COLOR": "1"})
    try:
        wait_until(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) > 3, 120)
        survivor, victim = workers(torchrun.pid)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not Path(f"/proc/{survivor}").exists(), 60)
        assert time.monotonic() - began < 30
        code = torchrun.wait(200)
    finally:
        torchrun.kill()
        torchrun.wait()
    said = (tmp_path / "words").read_text()
    assert said.count("error: process 2 of 2 was killed or cannot be reached; go on with --resume") == 1
    assert "Stopped" not in said
    assert code == 1 - restarts
    told = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)/12", said, re.MULTILINE)]
    if restarts:
        assert sorted(set(told)) == list(range(1, 13))
        assert [row["epoch"] for row in rows(run)] == list(range(1, 13))
        assert Directory(run).summary["test"]["accuracy"] > 0.9
        assert said.count("test accuracy") == 1


def workers(torchrun: int) -> list[int]:
    """The processes that torchrun started, in the order of their numbers."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        if f"PPid:\t{torchrun}\n" in status.read_text():
            settings = (status.parent / "environ").read_bytes().split(b"\0")
            rank = next((s for s in settings if s.startswith(b"RANK=")), None)
            if rank is not None:
                found[int(rank.removeprefix(b"RANK="))] = int(status.parent.name)
    return [found[rank] for rank in sorted(found)]


def wait_until(done: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
        time.sleep(0.05)
