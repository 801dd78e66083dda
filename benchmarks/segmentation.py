"""Runs of networks that label pixels, side by side: size, cost, and what they reached on the test part.

    python benchmarks/segmentation.py RUN_DIRECTORY...

Multiply-adds are of one training window, counted by `cnnkit.inspect` on the network of the artefact; one that
pads nothing reads a larger window for the same number of labels. Seconds of training are the run's own, on
the clock, without scoring.
"""

import sys
from pathlib import Path

import torch

from cnnkit import models
from cnnkit.inspect.table import macs
from cnnkit.train.directory import Directory
from cnnkit.weights.artefact import read_card


def row(run: Directory) -> str:
    """One line of a Markdown table."""
    card = read_card(run.best)
    with torch.device("meta"):
        network = models.create(card.model, **card.arguments).eval()
        window = torch.zeros(1, len(card.preprocessing.mean), *card.preprocessing.size)
    cost = macs(network, window)
    scores, seconds = run.summary["test"], run.summary["training_seconds"]
    figures = (scores[name] for name in ("miou", "accuracy", "boundary_f1"))
    size = "x".join(map(str, card.preprocessing.size))
    cells = [
        f"`{card.model}`",
        f"{run.summary['parameters']:,}",
        size,
        f"{cost / 1e9:.2f}",
        f"{seconds:,.0f}",
        *(f"{100 * figure:.1f}" for figure in figures),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table, the best network first."""
    runs = [Directory(Path(name)) for name in sys.argv[1:]]
    print(
        "| network | parameters | window | G multiply-adds | seconds | mIoU, % | pixels, % | border F1, % |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in sorted(runs, key=lambda run: -run.summary["test"]["miou"]):
        print(row(run))


if __name__ == "__main__":
    main()
