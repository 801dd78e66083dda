"""Around a run: signals, what ran out, and other people's advice."""

import errno
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cnnkit.errors import Failure, Stopped
from cnnkit.train.plan import Plan


@contextmanager
def without_advice() -> Iterator[None]:
    """Lightning's notes on hardware, workers and its other products are not for the person who trains."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def stoppable(plan: Plan) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `Stopped`; checkpoints are whole at any moment."""

    def stop(number: int, frame: object) -> None:
        raise Stopped

    def told() -> str:
        done = len(plan.directory.load_checkpoint()["history"]) if plan.directory.last.exists() else 0
        return (
            f"stopped; {done} of {plan.recipe.epochs} epochs are saved in {plan.directory.path}; "
            f"go on with: cnnkit train --resume --output {plan.directory.path}"
        )

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stopped:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        if hasattr(signal, "SIGCHLD"):
            # PyTorch's raises where a data worker was ended too
            before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
        raise Stopped(told()) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def clear_words(plan: Plan) -> Iterator[None]:
    """Say what ran out, memory or disk, and what to do about it."""
    recipe = plan.recipe
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise Failure(
            f"out of memory with {recipe.batch_size} images of {recipe.image_size} x {recipe.image_size}; "
            f"try --batch-size {max(1, (recipe.batch_size or 2) // 2)} or a smaller --image-size"
        ) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise Failure(f"the disk is full; {plan.directory.path} holds what was saved before") from None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
