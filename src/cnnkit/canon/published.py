"""The error that a paper prints of a network, in a short form. Needs no torch.

A `[variant.published]` table names its figures `[WHOSE_]MEASURE_err[_HOW]`, or `_acc`, in percent:
`top1_err`, `torchvision_top1_acc`, `test_err_zca`. Of several the paper's plain one is taken. A figure that
is no number, or of which `source` says `(from memory)`, is not known.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Whose figure is preferred; any that is not named here is of something else, such as an ensemble.
WHOSE = ("", "paper_", "repo_", "readme_", "slim_", "fb_", "caffe_", "port_", "torchvision_")
#: Those whose figures the table's `protocol` is not about.
ELSEWHERE = ("fb_", "caffe_", "port_", "torchvision_")
NAME = re.compile(r"(?P<whose>(?:[a-z]+_)?)(?P<measure>top1|test|svhn)_(?P<form>err|acc)(?P<how>(?:_\w+)?)")
MARK = "(from memory"

#: The figures that a clause of `source` marks; a clause that is not here marks all that have no other source.
REMEMBERED = {
    "top-5": r".*top5.*",
    "320 top-1": r"top1_err_320",
    "single crop": r"top[15]_err",
    "paper value": r"paper_.*",
    "ensemble": r"ensemble.*",
    "two-decimal and 10-crop values": r"top[15]_err(_10crop)?",
}


@dataclass(frozen=True, slots=True)
class Error:
    """A published error in percent.

    Attributes:
        top1: of the first answer.
        top5: of the first five, where that is known.
        whose: who measured it where that is not the paper: `torchvision`, `slim`, ...
        how: what distinguishes it from the paper's other figures: `10crop`, `zca`, ...
        protocol: how it was measured, in words; empty where the canon does not say.
    """

    top1: float
    top5: float | None
    whose: str
    how: str
    protocol: str

    def __str__(self) -> str:
        figures = f"{self.top1:g}" if self.top5 is None else f"{self.top1:g} / {self.top5:g}"
        told = "; ".join(part for part in (self.whose, self.how, self.protocol) if part)
        return f"{figures} ({told})" if told else figures


def error(published: Mapping[str, Any]) -> Error | None:
    """The error to show of a network, or None where no figure is known."""
    known = dict(_known(published))
    found = [match for match in map(NAME.fullmatch, known) if match and match["whose"] in WHOSE]
    found = [match for match in found if "nets" not in match["how"]]
    if not found:
        return None
    best = min(found, key=lambda match: (WHOSE.index(match["whose"]), match["how"] != ""))
    key, second = best.group(), best.group().replace("top1", "top5")
    return Error(
        top1=_error(best["form"], known[key]),
        top5=_error(best["form"], known[second]) if second != key and second in known else None,
        whose=best["whose"].removesuffix("_"),
        how=best["how"].removeprefix("_").replace("_", " "),
        protocol=_protocol(published, best["whose"]),
    )


def _protocol(published: Mapping[str, Any], whose: str) -> str:
    if whose in ELSEWHERE:
        return published.get(f"{whose}protocol", published.get(f"{whose}source", ""))
    return published.get("protocol", "")


def _error(form: str, value: float) -> float:
    return value if form == "err" else round(100 - value, 6)


def _known(published: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    clauses = str(published.get("source", "")).split("; ")
    marked = [clause.split(MARK)[0].strip() for clause in clauses if MARK in clause]
    patterns = [REMEMBERED.get(subject, ".*") for subject in marked]
    for key, value in published.items():
        if not isinstance(value, int | float):
            continue
        own_source = f"{key.split('_')[0]}_source" in published
        if own_source or not any(re.fullmatch(pattern, key) for pattern in patterns):
            yield key, value
