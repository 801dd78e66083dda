"""What the canon says of a network, beside what was counted."""

from __future__ import annotations

from dataclasses import dataclass

from cnnkit import canon
from cnnkit.inspect.table import Table


@dataclass(frozen=True, slots=True)
class Published:
    """One figure by both.

    Attributes:
        what: `parameters` or `multiply-adds`.
        ours: as counted here.
        theirs: as the canon has it.
        by: who counted it there; `ours` is an earlier count of this project and no evidence.
        source: where it stands.
    """

    what: str
    ours: int
    theirs: int
    by: str
    source: str

    @property
    def difference(self) -> int:
        """Ours less theirs."""
        return self.ours - self.theirs

    def __str__(self) -> str:
        whose = "an earlier count of ours" if self.by == "ours" else f"{self.by}: {self.source}"
        if self.difference == 0:
            return f"{self.what} {self.ours:,} agree with the canon ({whose})"
        differ = f"{self.ours:,} differ by {self.difference:+,} from the canon's {self.theirs:,}"
        return f"{self.what} {differ} ({whose})"


def against_canon(made: Table, entry: canon.Entry) -> list[Published]:
    """The figures of a network that the canon has.

    Multiply-adds are compared only for the input that they are published for; those of a batch are those of
    one image.
    """
    first = made.trace.inputs[0].shape
    found = []
    if entry.params is not None:
        count = entry.params
        found.append(Published("parameters", made.total.trainable, count.value, count.by, count.source))
    if entry.macs is not None and tuple(first[1:]) == entry.input:
        count = entry.macs
        macs = made.total.macs // first[0]
        found.append(Published("multiply-adds", macs, count.value, count.by, count.source))
    return found
