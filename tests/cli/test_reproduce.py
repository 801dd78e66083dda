"""`cnnkit reproduce` as a person meets it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cnnkit.cli import cli
from cnnkit.errors import Misuse
from cnnkit.reproduce.experiment import experiments


def test_list_names_every_experiment_with_its_paper() -> None:
    text = CliRunner().invoke(cli, ["reproduce", "list"], catch_exceptions=False).output
    for found in experiments().values():
        assert found.name in text
        assert found.paper.venue in text
    rows = json.loads(CliRunner().invoke(cli, ["reproduce", "list", "--json"]).output)
    assert [row["name"] for row in rows] == list(experiments())


def test_list_of_one_tells_its_claims_and_differences() -> None:
    text = CliRunner().invoke(cli, ["reproduce", "list", "degradation"], catch_exceptions=False).output
    assert "6.97" in text
    assert "scale full" in text


def test_a_tiny_run_prints_a_table_with_a_verdict_and_writes_it(tmp_path: Path) -> None:
    command = ["reproduce", "run", "dropout", "--seeds", "1", "--output", str(tmp_path / "out"), "--quiet"]
    text = CliRunner().invoke(cli, command, catch_exceptions=False).stdout
    assert "not decided: With dropout the test error is lower." in text
    assert "says nothing of the claim" in " ".join(text.split())
    assert (tmp_path / "out" / "table.md").is_file()
    again = CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout
    found = json.loads(again)
    assert set(found["arms"]) == {"with", "without"}
    assert found["scale"] == "tiny"


def test_names_that_are_not_there_are_answered_with_the_nearest() -> None:
    with pytest.raises(Misuse, match="batch_norm"):
        CliRunner().invoke(cli, ["reproduce", "run", "batchnorm"], catch_exceptions=False)
