"""The run directory: what a run leaves behind, each file whole or absent."""

import csv
import importlib.metadata
import io
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import nn

import cnnkit
from cnnkit.errors import Failure, Misuse
from cnnkit.train.recipe import read
from cnnkit.weights.artefact import load_preprocessing, save_preprocessing
from cnnkit.weights.files import atomic
from cnnkit.weights.preprocessing import Preprocessing

#: What the process that trains a run holds.
LOCK = ".lock"

#: Seconds that are waited for it: a process that was killed leaves workers, which notice within five.
PATIENCE = 10.0

#: Where a run keeps the whitening that it learned.
LEARNED = "preprocessing.safetensors"


@dataclass(frozen=True, slots=True)
class Directory:
    """Paths of one run, and how its files are written."""

    path: Path

    @property
    def best(self) -> Path:
        """The artefact of the best epoch."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """What `--resume` goes on from."""
        return self.path / "last.ckpt"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def summary(self) -> dict[str, Any]:
        """What the run reached."""
        return json.loads((self.path / "summary.json").read_text("utf-8"))

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read(self.path / "config.toml")

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the input, with what was learned of the training part."""
        plain = Preprocessing.from_dict(self.config["preprocessing"])
        return load_preprocessing(self.path / LEARNED) if plain.values else plain

    @property
    def split(self) -> dict[str, list[str]]:
        """Keys that were set aside, by part."""
        return json.loads((self.path / "split.json").read_text("utf-8"))

    @property
    def is_begun(self) -> bool:
        """Whether all is there that a run needs to be gone on with."""
        return (self.path / "split.json").is_file()

    @property
    def job(self) -> dict[str, Any]:
        """Which start of torchrun the run is of, where it is of one."""
        return self.config.get("job", {}) if (self.path / "config.toml").is_file() else {}

    @property
    def found(self) -> dict[str, Any]:
        """What was tried before the run, where something was."""
        file = self.path / "found.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else {}

    @property
    def is_taken(self) -> bool:
        """Whether something is there already; what a kill left half written does not count."""
        if not self.path.is_dir():
            return self.path.exists()
        return any(not p.name.startswith(".") for p in self.path.iterdir())

    def check(self, *, overwrite: bool) -> None:
        """Refuse a folder that is taken, unless it is a run, may be replaced, and no process trains it.

        Raises:
            Misuse: the folder holds something.
        """
        if self.is_taken and not overwrite:
            raise Misuse(
                f"{self.path} exists; continue it with --resume, replace it with --overwrite, "
                f"or name another folder with --output"
            )
        if self.is_taken and not (self.path / "config.toml").is_file():
            raise Misuse(f"{self.path} is no run of cnnkit and is not overwritten; remove it yourself")
        self._require_free()

    def begin(self) -> None:
        """Make the folder anew; what `check` let pass is removed.

        Raises:
            Misuse: it cannot be made.
        """
        try:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        except OSError as error:
            raise Misuse(f"{self.path} cannot be made: {error.strerror}") from None

    def require(self) -> None:
        """Check that there is a run to go on with, and clear away what a kill left half written.

        Raises:
            Misuse: there is none.
        """
        if not self.is_begun:
            raise Misuse(f"{self.path} holds no run to resume; start one without --resume")
        self._require_free()
        for scratch in self.path.glob(".*.*"):
            scratch.unlink()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training this run; the system lets go where this one dies.

        Raises:
            Misuse: another one does.
        """
        lock = self._locked()
        try:
            yield
        finally:
            lock.release()

    def _require_free(self) -> None:
        if (self.path / LOCK).exists():
            self._locked().release()

    def _locked(self) -> BaseFileLock:
        """The run's lock, which this process holds now.

        Raises:
            Misuse: another one holds it.
        """
        lock = FileLock(self.path / LOCK, timeout=PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise Misuse(
                f"{self.path} is being trained by another process; wait for it, or name another folder with "
                f"--output"
            ) from None
        return lock

    def write(self, name: str, text: str) -> None:
        """One text file, all or nothing."""
        with atomic(self.path / name) as scratch:
            scratch.write_text(text, "utf-8")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """The resolved configuration as TOML."""
        self.write("config.toml", tomli_w.dumps(config))

    def write_learned(self, preprocessing: Preprocessing) -> None:
        """What preprocessing learned of the training part, where it learns anything; the configuration has
        the rest.
        """
        if preprocessing.values:
            save_preprocessing(self.path / LEARNED, preprocessing)

    def write_json(self, name: str, value: Any) -> None:
        """A value as indented JSON."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """One row an epoch, as CSV and as JSON lines."""
        table = io.StringIO()
        if history:
            writer = csv.DictWriter(table, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        self.write("metrics.csv", table.getvalue())
        self.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))

    def save_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """What `--resume` goes on from; the earlier one stays until the new one is whole.

        Raises:
            Failure: the disk is full or cannot be written.
        """
        try:
            with atomic(self.last) as scratch:
                torch.save(checkpoint, scratch)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise Failure(
                f"{self.last} could not be written ({error}); the earlier one is untouched"
            ) from None

    def load_checkpoint(self) -> dict[str, Any]:
        """The saved state, read without running any code that a file may carry.

        Raises:
            Failure: the file is damaged, or holds something else than numbers and names.
        """
        try:
            found = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever the damaged bytes lead to
            reason = str(error).splitlines()[0]
            raise Failure(f"{self.last} is damaged or not safe to load: {reason}") from None
        if not isinstance(found, dict) or "state_dict" not in found or "history" not in found:
            raise Failure(f"{self.last} was not written by cnnkit train")
        return found

    def restore(self, network: nn.Module) -> None:
        """Give a network the weights of the checkpoint."""
        entries = self.load_checkpoint()["state_dict"]
        own = {name.removeprefix("model."): t for name, t in entries.items() if name.startswith("model.")}
        network.load_state_dict(own)


def environment() -> str:
    """What the run ran on and with, a line each."""
    lines = [
        f"cnnkit {cnnkit.__version__}",
        f"python {platform.python_version()} on {platform.platform()}",
        f"processor {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        f"cuda {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}",
        f"command {' '.join(sys.argv)}",
    ]
    found = importlib.metadata.distributions()  # while somebody installs, some have no version
    packages = sorted({f"{(d.name or '?').lower()} {d.version or '?'}" for d in found})
    return "\n".join([*lines, "", *packages]) + "\n"
