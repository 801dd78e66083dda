"""What a check found, and the rung that a network reaches by what was found. Needs no torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not run"]

#: The ladder of verification.
RUNGS = {
    1: "parameters and multiply-adds equal somebody else's",
    2: "shapes of outputs and maps are those that the network states, at odd sizes too",
    3: "the same weights give the same outputs and gradients as an independent implementation",
    4: "weights trained elsewhere recognise real pictures",
    5: "trained here, it reaches a stated accuracy on a stated set",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `dataclasses.asdict` of it is JSON.

    Attributes:
        network: registry name.
        rung: rung of the ladder of verification that the check stands on, 1 to 5.
        check: `parameters`, `macs`, `shapes`, `same outputs`, `real pictures` or `trained here`.
        status: `not run` where the check could not run, which is never `passed`.
        by: whose figure or implementation ours was compared with; `ours` makes it a regression test.
        evidence: a sentence with the numbers.
        counted: what was counted, where something was.
    """

    network: str
    rung: int
    check: str
    status: Status
    by: str
    evidence: str
    counted: int | None = None

    @property
    def is_evidence(self) -> bool:
        """Whether it passed against something that somebody else computed."""
        return self.status == "passed" and self.by != "ours"


def reached(findings: Iterable[Finding]) -> int:
    """The highest rung with evidence; 0 where there is none or any check failed."""
    findings = list(findings)
    if any(finding.status == "failed" for finding in findings):
        return 0
    return max((finding.rung for finding in findings if finding.is_evidence), default=0)
