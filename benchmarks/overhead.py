"""What a training step costs above the same step in a bare PyTorch loop.

Both train `lenet5_relu` on MNIST with the same batches, optimiser and schedule on one thread. One runs
through `cnnkit.fit`, with progress, logging, checkpoints and validation on; what validation and the end of an
epoch take is measured and taken off. CPU time is counted, so that a busy machine does not matter; the runs
are interleaved.

    python benchmarks/overhead.py --data-dir FOLDER_WITH_MNIST
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from torch.nn import functional

from cnnkit.train import callbacks, fit, plan
from cnnkit.train.module import parameter_groups

EPOCHS, ROUNDS = 1, 5


def ready(data_dir: Path, folder: Path) -> plan.Plan:
    """A run that is ready to start."""
    return plan.new(
        "mnist",
        folder,
        overwrite=True,
        data_dir=data_dir,
        skip_bad=False,
        console=Console(quiet=True),
        settings={"model": "lenet5_relu", "epochs": EPOCHS, "batch_size": 128, "threads": 1},
    )


def bare(run: plan.Plan) -> float:
    """CPU seconds of one epoch in a plain loop."""
    recipe = run.recipe
    model, _ = fit.build(run)
    train, _ = fit.feeds(run)
    rule = recipe.optimizer
    optimizer = rule.build(parameter_groups(model, rule.weight_decay), fused=True)
    factor = recipe.schedule.over(len(train), recipe.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    began = time.process_time()
    for batch in train:
        loss = functional.cross_entropy(model(run.preprocessing.normalise(batch["images"])), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return time.process_time() - began


class Clock(callbacks.Callback):
    """CPU seconds of the training part of an epoch, with everything that belongs to its steps."""

    def on_train_epoch_start(self, *_: object) -> None:
        """Start."""
        self.began = time.process_time()

    def on_validation_start(self, *_: object) -> None:
        """Stop: validation is not counted."""
        self.seconds = time.process_time() - self.began


def ours(run: plan.Plan) -> float:
    """CPU seconds of the same epoch through the Trainer, with progress drawn as in a terminal."""
    clock = Clock()
    made = fit.make_trainer

    def with_clock(recipe: object, directory: object, others: list[object], *rest: object) -> object:
        return made(recipe, directory, [*others, clock], *rest)  # type: ignore[arg-type]

    fit.make_trainer = with_clock  # type: ignore[assignment]
    try:
        fit.descend(run, Console(file=io.StringIO(), force_terminal=True))
    finally:
        fit.make_trainer = made
    return clock.seconds


def main() -> None:
    """Print both, the difference a step, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    data_dir = parser.parse_args().data_dir
    torch.set_num_threads(1)
    plain, kit = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            run = ready(data_dir, Path(folder) / "run")
            steps = len(fit.feeds(run)[0])
            plain.append(1000 * bare(run) / steps)
            kit.append(1000 * ours(run) / steps)
    more = [b - a for a, b in zip(plain, kit, strict=True)]
    print(
        f"{'':22}{'median':>8}{'least':>8}{'most':>8}   ms of CPU time a step, {steps} steps, {ROUNDS} rounds"
    )
    for name, values in (("bare PyTorch loop", plain), ("cnnkit train", kit), ("difference", more)):
        print(f"{name:22}{statistics.median(values):8.2f}{min(values):8.2f}{max(values):8.2f}")
    print(f"ratio {statistics.median(b / a for a, b in zip(plain, kit, strict=True)):.2f}")


if __name__ == "__main__":
    main()
