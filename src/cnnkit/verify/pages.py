"""The pages of `docs/networks`, which `python -m cnnkit.verify.pages` writes.

A page a canon file, and an index. Nothing on them is typed twice: equations and departures are the model
files' docstrings, published figures and traps the canon's, counts and rungs the ledger's. Needs no torch.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnkit import canon
from cnnkit.canon.published import MARK, error
from cnnkit.verify import ledger
from cnnkit.verify.finding import RUNGS, Finding, reached

MODELS = Path(__file__).parents[1] / "models"
#: The repository's folder of model files, seen from the pages.
LINK = "../../src/cnnkit/models"
UNKNOWN = "unknown"


def pages() -> dict[str, str]:
    """File name -> content, of all families and the index."""
    families = canon.families()
    return {"README.md": index(families), **{f"{_stem(family)}.md": page(family) for family in families}}


def index(families: Sequence[str]) -> str:
    """The families with their papers and how many of their networks stand on which rung."""
    rows = []
    for family in families:
        rungs = Counter(ledger.rung(entry.name) for entry in canon.entries(family))
        told = ", ".join(f"{rungs[rung]} on {rung}" for rung in sorted(rungs, reverse=True))
        papers = "; ".join(f"{paper['title']} ({paper['year']})" for paper in _papers(family))
        rows.append([f"[{_stem(family)}]({_stem(family)}.md)", papers, str(rungs.total()), told])
    ladder = [f"{rung}. {told}" for rung, told in RUNGS.items()]
    return _join(
        "# The networks",
        "Made by `python -m cnnkit.verify.pages` of the recorded ledger; `cnnkit verify` checks anew. "
        "A network stands on the highest rung for which there is evidence, and on 0 where there is none or a "
        "check fails. A count of our own is a regression test, no evidence.",
        "\n".join(ladder),
        _table(["family", "papers", "networks", "on which rung"], rows),
    )


def page(family: str) -> str:
    """One family: papers, what its model files say of themselves, variants, sources, traps."""
    facts = canon.facts(family)
    papers = [
        f"- {p['authors']}. *{p['title']}*. {p['venue']}." + (f" {_arxiv(p)}" if p["arxiv"] != "none" else "")
        for p in _papers(family)
    ]
    files = [
        _join(f"## [{file.name}]({LINK}/{file.relative_to(MODELS).as_posix()})", doc)
        for file, doc in docstrings(family)
    ]
    return _join(
        f"# {_stem(family)}",
        "Made by `python -m cnnkit.verify.pages` of the model files, the canon and the ledger.",
        "\n".join(papers),
        *files,
        "## Variants",
        "Counted is what the code here has; beside it stand the exact figure that is known and whose it is "
        "(`ours` is a regression test, no evidence), and what the paper prints. Errors are in percent, of "
        "the first answer and of the first five.",
        _table(
            [
                *("network", "input", "parameters counted", "known", "whose", "paper's"),
                *("multiply-adds counted", "known", "whose", "paper's"),
                *("published error", "rung", "same outputs as"),
            ],
            [
                _variant(entry, row)
                for entry, row in zip(canon.entries(family), facts["variant"], strict=True)
            ],
        ),
        "## Where the known figures stand",
        "\n".join(_sources(family)),
        "## Traps",
        "\n".join(f"- {trap}" for trap in facts["traps"]),
    )


def docstrings(family: str) -> Iterator[tuple[Path, str]]:
    """The model files that register networks of a family, with what they say of themselves."""
    for file in sorted(MODELS.rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        named = {
            keyword.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register"
            for keyword in node.keywords
            if keyword.arg == "canon" and isinstance(keyword.value, ast.Constant)
        }
        if family in named:
            yield file, ast.get_docstring(tree) or ""


def _variant(entry: canon.Entry, row: Mapping[str, Any]) -> list[str]:
    found = {finding.check: finding for finding in ledger.read().get(entry.name, [])}
    outputs = found.get("same outputs")
    multiply_adds = row.get("paper_flops") or entry.published.get("paper_mult_adds_M")
    return [
        f"`{entry.name}`",
        "x".join(map(str, entry.input)),
        *_counts(found.get("parameters"), entry.params),
        _printed(row.get("paper_params")),
        *_counts(found.get("macs"), entry.macs),
        _printed(f"{multiply_adds}M" if isinstance(multiply_adds, int | float) else multiply_adds),
        str(error(entry.published) or UNKNOWN),
        str(reached(found.values())),
        outputs.by if outputs is not None and outputs.status == "passed" else "none",
    ]


def _counts(found: Finding | None, known: canon.Count | None) -> Iterator[str]:
    yield UNKNOWN if found is None or found.counted is None else f"{found.counted:,}"
    yield UNKNOWN if known is None else f"{known.value:,}"
    yield "" if known is None else known.by


def _printed(figure: str | None) -> str:
    return "" if figure is None or MARK in figure else figure


def _sources(family: str) -> Iterator[str]:
    """The sources of exact figures, each once, with the networks that it is the source of."""
    of: dict[tuple[str, str, str], list[str]] = {}
    for entry in canon.entries(family):
        for what, count in (("Parameters", entry.params), ("Multiply-adds", entry.macs)):
            if count is not None:
                of.setdefault((what, count.by, count.source), []).append(f"`{entry.name}`")
    for (what, by, source), names in of.items():
        yield f"- {what} of {', '.join(names)} ({by}): {source}."


def _papers(family: str) -> list[Mapping[str, Any]]:
    papers = canon.facts(family)["paper"]
    return [papers] if "title" in papers else list(papers.values())


def _arxiv(paper: Mapping[str, Any]) -> str:
    return f"[arXiv:{paper['arxiv']}](https://arxiv.org/abs/{paper['arxiv']})"


def _stem(family: str) -> str:
    return family.split("/")[-1]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _join(*parts: str) -> str:
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main(folder: str = "docs/networks") -> None:
    """Write all pages into a folder, and remove those of families that are no more."""
    root, made = Path(folder), pages()
    root.mkdir(parents=True, exist_ok=True)
    for file in root.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, content in made.items():
        (root / name).write_text(content, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
