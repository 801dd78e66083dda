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
    """Record findings, with the versions that they were found with, in the order of the names."""
    from importlib.metadata import version  # late: slow to import, and reading needs none of it

    networks = {name: [_row(finding) for finding in findings[name]] for name in sorted(findings)}
    record = {"cnnkit": version("cnnkit"), "torch": version("torch"), "networks": networks}
    with atomic(path) as scratch:
        scratch.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    read.cache_clear()


def _row(finding: Finding) -> dict[str, Any]:
    return {name: value for name, value in asdict(finding).items() if name != "network"}
