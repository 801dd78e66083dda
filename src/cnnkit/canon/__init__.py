"""Published facts of every network, read from `canon/<area>/<family>.toml`. Needs no torch.

A file holds `traps` (what goes wrong when the paper is implemented), `[paper]` or, where it tells of several,
`[paper.KEY]`, `[recipe]` and one `[[variant]]` a network. A figure that is not known is the string "unknown".
Whose an exact count is stands beside it: `params_by` and `macs_by` are `paper`, `authors` (their code),
`independent` (another implementation) or `ours`; a count of our own is a regression test and no evidence.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

By = Literal["paper", "authors", "independent", "ours"]


@dataclass(frozen=True, slots=True)
class Count:
    """An exact count and whose it is.

    Attributes:
        value: the number.
        by: who counted; only the first three are evidence.
        source: where it stands, in words.
    """

    value: int
    by: By
    source: str

    @property
    def is_evidence(self) -> bool:
        """Whether somebody else counted it."""
        return self.by != "ours"


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a network was published."""

    title: str
    authors: str
    venue: str
    year: int
    arxiv: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is published of one network.

    Attributes:
        name: the variant's name, which is also its registry name.
        family: the file that it stands in, `area/family`.
        input: shape of one input image, (C, H, W).
        num_classes: the classes of the published form.
        params: exact number of trainable parameters, or None where nobody knows it.
        macs: multiply-adds of convolutions and linear layers at `input`, or None.
        published: errors and accuracies as the paper prints them, with their protocol and source.
        paper: where it was published.
    """

    name: str
    family: str
    input: tuple[int, ...]
    num_classes: int
    params: Count | None
    macs: Count | None
    published: Mapping[str, Any]
    paper: Paper


def families() -> list[str]:
    """All canon files, as `area/family`."""
    return sorted(
        f"{area.name}/{file.name.removesuffix('.toml')}"
        for area in files(__name__).iterdir()
        if area.is_dir()
        for file in area.iterdir()
        if file.name.endswith(".toml")
    )


@cache
def facts(family: str) -> Mapping[str, Any]:
    """A canon file as it stands: traps, papers, recipes, variants."""
    return tomllib.loads(files(__name__).joinpath(f"{family}.toml").read_text("utf-8"))


def entries(family: str) -> Iterator[Entry]:
    """The networks of one file, in its order."""
    for row in facts(family)["variant"]:
        yield _entry(family, row)


def entry(family: str, name: str) -> Entry:
    """One network's facts.

    Raises:
        LookupError: the file has no such variant.
    """
    for row in facts(family)["variant"]:
        if row["name"] == name:
            return _entry(family, row)
    raise LookupError(f"canon/{family}.toml has no variant {name!r}")


def _entry(family: str, row: Mapping[str, Any]) -> Entry:
    papers = facts(family)["paper"]
    paper = papers[row["paper"]] if "paper" in row else papers
    return Entry(
        name=row["name"],
        family=family,
        input=tuple(row["input"]),
        num_classes=row["num_classes"],
        params=_count(family, row, "params"),
        macs=_count(family, row, "macs"),
        published=row.get("published", {}),
        paper=Paper(paper["title"], paper["authors"], paper["venue"], paper["year"], paper["arxiv"]),
    )


def _count(family: str, row: Mapping[str, Any], what: str) -> Count | None:
    value = row.get(what)
    if not isinstance(value, int):
        return None
    by: Any = row.get(f"{what}_by")
    if by not in get_args(By):
        allowed = ", ".join(get_args(By))
        raise ValueError(
            f"canon/{family}.toml: {row['name']}: {what}_by must be one of {allowed}, got {by!r}"
        )
    return Count(value, by, row[f"{what}_source"])
