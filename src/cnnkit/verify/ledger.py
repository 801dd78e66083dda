"""The ledger: what was found of every network, packaged with it. Needs no torch.

`cnnkit verify --record` writes `ledger.json`; `cnnkit models` and the pages of `docs/networks` read it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from cnnkit.verify.finding import Finding, reached
from cnnkit.weights.files import atomic

PATH = Path(__file__).with_name("ledger.json")


@cache
def read() -> Mapping[str, list[Finding]]:
    """The recorded findings by network."""
    rows = json.loads(PATH.read_text("utf-8"))["networks"]
    return {name: [Finding(name, **row) for row in found] for name, found in rows.items()}


def rung(network: str) -> int:
    """The rung that a network had reached when the ledger was recorded; 0 where it is not in it."""
    return reached(read().get(network, []))


def write(findings: Mapping[str, Iterable[Finding]], path: Path) -> None:
    """Record findings, with the versions that they were found with, in the order of the names.

    Each network has the commit that was checked out when its present findings were first recorded, with a `+`
    where files differed from it.
    """
    from importlib.metadata import version  # late: slow to import, and reading needs none of it

    networks = {name: [_row(finding) for finding in findings[name]] for name in sorted(findings)}
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {"networks": {}}
    now = commit(Path(__file__).parents[3])
    commits = {
        name: before["commits"][name] if before["networks"].get(name) == rows else now
        for name, rows in networks.items()
    }
    versions = {library: version(library) for library in ("cnnkit", "torch")}
    record = {**versions, "commits": commits, "networks": networks}
    with atomic(path) as scratch:
        scratch.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    read.cache_clear()


def commit(folder: Path) -> str:
    """What is checked out in a folder, a `+` behind it where files differ; `unknown` where nobody can say."""
    import subprocess  # late, as above

    if not (folder / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # there is no git, or it trusts the folder's owner not
        return "unknown"


def _row(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in asdict(finding).items() if name != "network"}
