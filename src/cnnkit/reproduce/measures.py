"""What a finished run measured."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

from cnnkit.reproduce.experiment import Measure
from cnnkit.reproduce.verdict import Value
from cnnkit.train.directory import Directory

#: One row of metrics an epoch.
History = Sequence[Mapping[str, float]]


def history(run: Directory) -> list[dict[str, float]]:
    """The metrics of all epochs."""
    lines = (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def measured(measure: Measure, run: Directory, reference: Directory | None) -> Value:
    """One figure of a run; errors and scores in percent.

    Args:
        reference: the run of the same seed whose best accuracy is the level, where the measure wants one.
    """
    rows = history(run)
    if measure.kind == "train_error":
        return Value(100 * (1 - rows[-1]["train/accuracy"]))
    if measure.kind in ("error", "score"):
        summary = run.summary
        scored = summary["test" if "test" in summary else "val"]
        if measure.kind == "error":
            return Value(100 * (1 - scored["accuracy"]))
        return Value(100 * scored[measure.figure])
    column = f"{measure.part}/accuracy"
    level = measure.level or 0.0
    if reference is not None:
        level = max(row[column] for row in history(reference))
    return epochs_to(level, [row[column] for row in rows])


def epochs_to(level: float, accuracies: Sequence[float]) -> Value:
    """Epochs until an accuracy is reached, on a straight line between the ends of two epochs.

    The first line starts from 0. Where the level is not
    reached, the answer is all the epochs there were, and at least that.
    """
    for epoch, (before, accuracy) in enumerate(pairwise([0.0, *accuracies])):
        if accuracy >= level:
            return Value(epoch + (level - before) / (accuracy - before))
    return Value(float(len(accuracies)), at_least=True)
