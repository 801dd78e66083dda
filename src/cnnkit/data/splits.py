"""Setting images aside, always the same ones: a split depends on the classes and the order alone, not on a
seed.
"""

from collections.abc import Sequence

import numpy as np

#: The share of the images that is set aside for the test, and of the training part for choosing the
#: checkpoint.
TEST, VAL = 0.2, 0.1


def hold_out(labels: Sequence[int], share: float) -> list[int]:
    """Indices of a stratified share: of each class the same, at least one where it has two, in ascending
    order.
    """
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    chosen: list[int] = []
    for label, indices in sorted(by_class.items()):
        count = max(1, round(share * len(indices))) if len(indices) > 1 else 0
        order = np.random.default_rng([0, label]).permutation(len(indices))
        chosen += [indices[i] for i in order[:count]]
    return sorted(chosen)
