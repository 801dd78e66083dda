"""`cnnkit verify`."""

import sys
from collections import Counter
from dataclasses import asdict
from fnmatch import fnmatch

import click

from cnnkit import canon
from cnnkit.cli.output import as_json, emit, progress, quiet, table
from cnnkit.errors import Misuse
from cnnkit.registry import unknown
from cnnkit.verify import ledger
from cnnkit.verify.finding import RUNGS, Finding, reached


@click.command("verify", short_help="Compare networks with their papers.")
@click.argument("pattern", default="*")
@click.option(
    "--rung", type=click.IntRange(1, max(RUNGS)), metavar="N", help="Deepest rung to run; 2 unless told."
)
@click.option("--record", is_flag=True, help="Run every rung and write the packaged ledger.")
@as_json
@quiet
def command(pattern: str, rung: int | None, record: bool, as_json: bool, quiet: bool) -> None:
    """Compare the networks whose name matches PATTERN with what others computed of them; exit code 3 where
    something differs.

    \b
    Examples:
      cnnkit verify
      cnnkit verify 'resnet*' --rung 3 --json

    \b
    The rungs, each with its evidence:
      1  parameters and multiply-adds equal the canon's; a count of our own is a regression test
      2  shapes of outputs and maps, at odd sizes too
      3  same weights, same outputs and gradients as torchvision's, timm's or pytorchcv's network
      4  trained weights on real pictures, from the folder that CNNKIT_REALDATA names
      5  accuracies that were reached by training here, as recorded

    A check that cannot run, as where a library is not installed, is not run; it never counts as passed.
    """
    if record and rung is not None:
        raise Misuse("--record runs every rung; leave out --rung")
    known = sorted(entry.name for family in canon.families() for entry in canon.entries(family))
    names = [name for name in known if fnmatch(name, pattern)]
    if not names:
        raise Misuse(unknown(pattern, known))
    found = _run(names, max(RUNGS) if record else rung or 2, quiet)
    if record:
        kept = {name: rows for name, rows in ledger.read().items() if name in known}
        ledger.write({**kept, **found}, ledger.PATH)
    if as_json:
        emit(
            [
                {"network": name, "rung": reached(rows), "findings": _rows(rows)}
                for name, rows in found.items()
            ]
        )
    else:
        _print(found)
    sys.exit(3 if any(f.status == "failed" for rows in found.values() for f in rows) else 0)


def _run(names: list[str], deepest: int, quiet: bool) -> dict[str, list[Finding]]:
    with progress(quiet).status("importing the networks") as status:
        from cnnkit.verify.run import every

        found = {}
        for done, (name, rows) in enumerate(zip(names, every(names, deepest), strict=True), start=1):
            found[name] = rows
            status.update(f"network {done} of {len(names)}: {name}")
    return found


def _rows(findings: list[Finding]) -> list[dict[str, object]]:
    return [{key: value for key, value in asdict(f).items() if key != "network"} for f in findings]


def _print(found: dict[str, list[Finding]]) -> None:
    findings = [finding for rows in found.values() for finding in rows]
    rows = [
        [
            f.network,
            str(f.rung),
            f.check,
            f"{f.status} (regression)" if f.status == "passed" and not f.is_evidence else f.status,
            f.by,
            f.evidence,
        ]
        for f in findings
    ]
    table(["network", "rung", "check", "status", "by", "evidence"], rows)
    counts = Counter(finding.status for finding in findings)
    told = ", ".join(f"{counts[status]:,} {status}" for status in ("passed", "not run", "failed"))
    click.echo(f"\nnetworks {len(found):,}, checks {len(findings):,}: {told}")
