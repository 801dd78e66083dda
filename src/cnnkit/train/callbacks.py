"""What happens around the steps: the best network, checkpoint and metrics are kept, progress is shown."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from cnnkit.train.directory import Directory
from cnnkit.train.distributed import ALONE, World
from cnnkit.train.module import LOOK, Training

#: Share of the time spent waiting for data from which on it is worth changing something.
WAITING = 0.2


class AtomicIO(TorchCheckpointIO):
    """Checkpoints go through the run directory, which never leaves half of one and which the first process
    has.
    """

    def __init__(self, directory: Directory, world: World = ALONE) -> None:
        super().__init__()
        self.directory, self.world = directory, world

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint, all or nothing."""
        self.directory.save_checkpoint(checkpoint)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The checkpoint, on every process."""
        return self.world.led(self.directory.load_checkpoint)


class Clock:
    """Seconds of an epoch's training part, and those of them in which the network waited for data."""

    def __init__(self) -> None:
        self.began = self.since = self.seconds = self.waiting = 0.0

    def start(self) -> None:
        """The epoch begins, and with it the wait for the first batch."""
        self.began = self.since = time.perf_counter()
        self.seconds = self.waiting = 0.0

    def asked(self) -> None:
        """The next batch is waited for."""
        self.since = time.perf_counter()

    def arrived(self) -> None:
        """A batch is there."""
        self.waiting += time.perf_counter() - self.since

    def stop(self) -> None:
        """The epoch's training part is over."""
        self.seconds = time.perf_counter() - self.began


class Keeper(Checkpoint):
    """At the end of an epoch: the artefact if it is the best, then the checkpoint, then the metrics.

    In this order a kill between two of them costs nothing: the repeated epoch writes the same again. The run
    is stopped here too, where no epoch of the last few was the best: the Trainer asks its checkpoints last,
    so any other callback would look at a history that lacks the epoch.

    Args:
        directory: where to.
        save_best: writes the artefact, given the validation metrics.
        done: rows of the epochs that an earlier run finished.
        show: told of each new row.
        world: the processes of the run; the first writes and shows.
        patience: epochs without a better network that are waited for; None: all there are.
    """

    def __init__(
        self,
        directory: Directory,
        save_best: Callable[[Path, dict[str, float]], None],
        done: list[dict[str, float]],
        show: Callable[[Mapping[str, float]], None],
        world: World = ALONE,
        patience: int | None = None,
    ) -> None:
        self.directory, self.save_best, self.history = directory, save_best, list(done)
        self.show, self.world, self.patience = show, world, patience
        self.clock = Clock()
        self.writer: SummaryWriter | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open TensorBoard's file; what it holds of unfinished epochs is struck out."""
        if not self.world.first:
            return
        self.writer = SummaryWriter(
            str(self.directory.path / "tensorboard"), purge_step=len(self.history) + 1
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.clock.start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there."""
        self.clock.arrived()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A point of the loss curve, now and then; from here on the next batch is waited for."""
        if (batch_idx + 1) % LOOK == 0 and self.writer is not None and isinstance(pl_module, Training):
            self.writer.add_scalar("step/loss", pl_module.trained()["loss"], trainer.global_step)
        self.clock.asked()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training part of the epoch is over; its seconds count, validation's do not."""
        self.clock.stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the epoch brought."""
        if not isinstance(pl_module, Training) or pl_module.scores is None:
            raise TypeError(f"Keeper keeps validated Training, got {type(pl_module).__name__}")
        row = self.world.led(lambda: self._row(trainer, pl_module))
        self.history.append(row)
        if best_of(self.history, pl_module.task.best) is row:
            self.save_best(self.directory.best, pl_module.scores.to_json())
        trainer.save_checkpoint(self.directory.last)
        trainer.should_stop |= gave_up(self.history, pl_module.task.best, self.patience)
        if not self.world.first:
            return
        self.directory.write_metrics(self.history)
        self.show(row)
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(name, value, trainer.current_epoch + 1)
            self.writer.flush()

    def _row(self, trainer: Trainer, pl_module: Training) -> dict[str, float]:
        """What there is to say of the epoch."""
        scores = pl_module.scores.to_json() if pl_module.scores else {}
        row = {"epoch": trainer.current_epoch + 1, "lr": pl_module.rate}
        row |= {f"train/{name}": value for name, value in pl_module.trained().items()}
        row |= {f"val/{name}": value for name, value in scores.items()}
        seconds = self.clock.seconds
        return row | {
            "seconds": round(seconds, 3),
            "images_per_second": round(pl_module.images / seconds, 1),
            "waiting": round(self.clock.waiting / seconds, 3),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> None:
        """The metrics so far go into the checkpoint, which alone decides what has been done."""
        checkpoint["history"] = self.history

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close TensorBoard's file."""
        if self.writer is not None:
            self.writer.close()


def best_of(history: list[dict[str, float]], by: str) -> dict[str, float] | None:
    """The epoch whose validation figure is the highest; of equal ones the lowest loss, then the first."""
    return max(history, key=lambda row: (row[f"val/{by}"], -row["val/loss"]), default=None)


def gave_up(history: list[dict[str, float]], by: str, patience: int | None) -> bool:
    """Whether the best epoch is at least `patience` epochs ago."""
    best = best_of(history, by)
    return None not in (best, patience) and history[-1]["epoch"] - best["epoch"] >= patience  # type: ignore[index,operator]


class Live(Callback):
    """Progress: a line an epoch, and in a terminal a bar below them.

    Args:
        console: where to; nothing is drawn over where it is no terminal.
        epochs: of the whole run.
        by: the figure by which the best network is chosen.
        advice: what to change where the network waits for data.
    """

    def __init__(self, console: Console, epochs: int, by: str = "accuracy", advice: str = "") -> None:
        self.console, self.epochs, self.by, self.advice = console, epochs, by, advice
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn(
                "{task.percentage:3.0f}%  loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} images/s"
            ),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,  # an error raised below the bar must reach the person
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self.row = self.bar.add_task("epoch", total=None, epoch="", loss=float("nan"), speed=0.0)
        self.began = self.drawn = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's bar."""
        self.began = time.perf_counter()
        label = f"{trainer.current_epoch + 1}/{self.epochs}"
        self.bar.reset(
            self.row, total=trainer.num_training_batches, epoch=label, loss=float("nan"), speed=0.0
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraw, at most ten times a second."""
        now = time.perf_counter()
        if self.bar.disable or now - self.drawn < 0.1 or not isinstance(pl_module, Training):
            return
        self.drawn = now
        speed = pl_module.images * pl_module.world.size / (now - self.began)
        self.bar.update(self.row, completed=batch_idx + 1, loss=pl_module.trained()["loss"], speed=speed)
        self.bar.refresh()

    def show(self, row: Mapping[str, float]) -> None:
        """One line for a finished epoch."""
        width = len(str(self.epochs))
        figure = "val" if self.by == "accuracy" else f"val {self.by}"
        self.console.print(
            f"epoch {row['epoch']:{width}.0f}/{self.epochs}  loss {row['train/loss']:.4f}  "
            f"train {row['train/accuracy']:.2%}  {figure} {row[f'val/{self.by}']:.2%}  lr {row['lr']:.1e}  "
            f"{row['images_per_second']:,.0f} images/s{self._left(row)}",
            highlight=False,
            soft_wrap=True,
        )
        if row["waiting"] > WAITING and self.advice:
            self.console.print(
                f"the network waited for data {row['waiting']:.0%} of the time; {self.advice}",
                highlight=False,
                soft_wrap=True,
            )
            self.advice = ""

    def _left(self, row: Mapping[str, float]) -> str:
        """How long the rest of the run will take, going by this epoch."""
        whole = time.perf_counter() - self.began
        seconds = round(whole * (self.epochs - row["epoch"]))
        if not seconds:
            return ""
        minutes, seconds = divmod(seconds, 60)
        return f"  {minutes // 60}:{minutes % 60:02}:{seconds:02} left"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the bar; the line of the finished epoch follows."""
        self.bar.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the terminal as it was, also after an error."""
        self.bar.stop()
