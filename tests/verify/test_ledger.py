"""The ledger, the runs that fill it, and the pages made of it."""

import json
import shutil
import subprocess
from dataclasses import replace
from importlib import import_module as really_import
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cnnkit import canon
from cnnkit.models.classify.resnet import ResNet
from cnnkit.registry import spec, specs
from cnnkit.verify import ledger, pages, run, trained
from cnnkit.verify.finding import Finding, reached
from cnnkit.verify.oracles import ORACLES


def absent(library: str) -> Any:
    """`importlib.import_module` on a machine that lacks a library."""

    def load(name: str) -> Any:
        if name.split(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return really_import(name)

    return load


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.status for finding in findings}


@pytest.mark.parametrize("name", [row.name for row in specs()])
def test_the_ledger_is_of_this_canon_and_these_oracles_and_nothing_in_it_failed(name: str) -> None:
    entry, again = canon.entry(spec(name).canon, name), f"run `cnnkit verify {name} --record`"
    found = {finding.check: finding for finding in ledger.read()[name]}
    assert [f.evidence for f in found.values() if f.status == "failed"] == []
    assert list(found) == ["parameters", "macs", "shapes", "same outputs", "real pictures", "trained here"]
    for check, known in (("parameters", entry.params), ("macs", entry.macs)):
        if known is not None:
            assert (found[check].counted, found[check].by) == (known.value, known.by), again
    assert (found["same outputs"].status == "passed") == (name in ORACLES), again
    assert (found["trained here"].status == "passed") == (name in {r.network for r in trained.records()}), (
        again
    )


def test_the_ledger_holds_no_network_that_is_not_registered() -> None:
    assert set(ledger.read()) == {row.name for row in specs()}


def test_findings_are_read_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: run.check(spec(name), 2) for name in ("lenet5_relu", "lenet1989")}
    monkeypatch.setattr(ledger, "PATH", tmp_path / "ledger.json")
    try:
        ledger.write(found, ledger.PATH)
        assert ledger.read() == found
        assert list(ledger.read()) == ["lenet1989", "lenet5_relu"]
        assert (ledger.rung("lenet1989"), ledger.rung("nothing")) == (2, 0)
        assert json.loads(ledger.PATH.read_text())["torch"] == torch.__version__.split("+")[0]
    finally:
        ledger.read.cache_clear()


def test_a_commit_stays_with_findings_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = (
        tmp_path / "ledger.json",
        {name: run.check(spec(name), 1) for name in ("lenet5", "lenet1989")},
    )
    monkeypatch.setattr(ledger, "commit", lambda _: "first")
    ledger.write(found, path)
    found["lenet5"] = [replace(finding, evidence="another") for finding in found["lenet5"]]
    monkeypatch.setattr(ledger, "commit", lambda _: "second+")
    ledger.write({**found, "lenet5_relu": []}, path)
    written = json.loads(path.read_text("utf-8"))
    assert written["commits"] == {"lenet1989": "first", "lenet5": "second+", "lenet5_relu": "second+"}
    assert list(written["networks"]) == ["lenet1989", "lenet5", "lenet5_relu"]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_a_commit_is_told_with_a_mark_where_files_differ(tmp_path: Path) -> None:
    assert ledger.commit(tmp_path) == "unknown"

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    (tmp_path / "file").write_text("one")
    for arguments in (("init",), ("add", "file"), ("commit", "-m", "one")):
        git(*arguments)
    head = git("rev-parse", "HEAD")
    assert ledger.commit(tmp_path) == head[:12]
    (tmp_path / "file").write_text("two")
    assert ledger.commit(tmp_path) == f"{head[:12]}+"


def test_every_recorded_network_has_its_commit() -> None:
    written = json.loads(ledger.PATH.read_text("utf-8"))
    assert list(written["commits"]) == list(written["networks"])
    assert "unknown" not in written["commits"].values()


def test_a_missing_oracle_is_not_run_and_raises_no_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.check(spec("resnet20_cifar10"), 3)
    monkeypatch.setattr("cnnkit.verify.residual.import_module", absent("torchvision"))
    without = run.check(spec("resnet20_cifar10"), 3)
    assert (statuses(whole)["same outputs"], reached(whole)) == ("passed", 3)
    assert (statuses(without)["same outputs"], reached(without)) == ("not run", 2)
    assert "torchvision is not installed" in without[-1].evidence


class Broken(ResNet):
    """Cannot be run."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no way through\nat all")


def test_a_check_that_breaks_off_has_failed_and_the_others_still_run() -> None:
    suspect = replace(spec("resnet20_cifar10"), factory=Broken)
    found = run.check(suspect, 2)
    assert statuses(found) == {"parameters": "passed", "macs": "failed", "shapes": "failed"}
    assert found[1].evidence == "broke off with RuntimeError: no way through"
    assert reached(found) == 0


def test_a_network_that_cannot_be_built_has_failed() -> None:
    def factory(**kwargs: Any) -> nn.Module:
        raise ValueError("too deep")

    (found,) = run.check(replace(spec("resnet20_cifar10"), factory=factory), 5)
    assert (found.status, found.evidence) == ("failed", "broke off with ValueError: too deep")


@pytest.mark.slow
def test_several_processes_find_what_one_finds() -> None:
    names = [row.name for row in specs("mobilenet*")]
    assert len(names) >= run.WORTH_A_PROCESS
    assert list(run.every(names, 1, processes=2)) == list(run.every(names, 1, processes=1))


@pytest.mark.realdata
@pytest.mark.reference
def test_trained_weights_recognise_real_pictures_and_untrained_ones_fail(
    realdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    found = trained.real_pictures(spec("squeezenet1_0"))
    assert found.status == "passed"
    assert "chelsea.png is Egyptian cat at place 1" in found.evidence
    stored = trained.load_deep_compression(realdata / trained.WEIGHTS["squeezenet1_0"])
    shuffled = {k: v.flip(0) if k.startswith("head.1") else v for k, v in stored.weights.items()}
    monkeypatch.setattr(trained, "load_deep_compression", lambda _: stored._replace(weights=shuffled))
    assert trained.real_pictures(spec("squeezenet1_0")).status == "failed"
    monkeypatch.setattr(trained, "import_module", absent("skimage"))
    found = trained.real_pictures(spec("squeezenet1_0"))
    assert (found.status, found.evidence) == ("not run", "scikit-image is not installed (skimage.data)")


def test_pictures_are_not_run_where_weights_or_the_folder_of_data_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CNNKIT_REALDATA", raising=False)
    assert trained.real_pictures(spec("squeezenet1_0")).status == "not run"
    monkeypatch.setenv("CNNKIT_REALDATA", str(tmp_path))
    assert trained.real_pictures(spec("squeezenet1_0")).status == "not run"
    assert "no trained weights" in trained.real_pictures(spec("resnet18")).evidence


ROW = dict(
    network="lenet5",
    data="some set",
    accuracy=0.5,
    deviation=0.25,
    seeds=[3, 4],
    command="cnnkit train ...",
    hardware="some processor",
)


def test_an_accuracy_on_record_is_told_with_its_deviation_command_and_hardware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trained, "records", lambda: [trained.Trained.from_dict(ROW)])
    found = trained.trained_here(spec("lenet5"))
    assert (found.status, found.is_evidence, found.by) == ("passed", True, "the test part of some set")
    assert found.evidence == (
        "accuracy 50.00% ± 25.00% on some set, mean and deviation of 2 seeds, recorded on some processor: "
        "cnnkit train ..."
    )
    assert trained.trained_here(spec("lenet1989")).status == "not run"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": 98.3}, "needs an accuracy from 0 to 1"),
        ({"deviation": -0.1}, "a deviation from 0 on"),
        ({"seeds": []}, "and seeds"),
        ({"lr": 0.1}, "a row of trained.toml has network, data"),
    ],
)
def test_a_row_that_is_no_record_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trained.Trained.from_dict({**ROW, **change})


def test_what_is_on_record_is_of_registered_networks() -> None:
    assert {record.network for record in trained.records()} <= {row.name for row in specs()}


def test_the_committed_pages_are_those_that_are_generated() -> None:
    folder = Path(__file__).parents[2] / "docs" / "networks"
    committed = {file.name: file.read_text("utf-8") for file in folder.glob("*.md")}
    made = pages.pages()
    differing = sorted(name for name in {*committed, *made} if committed.get(name) != made.get(name))
    assert differing == [], "run `python -m cnnkit.verify.pages` and commit what it writes"


def test_every_network_is_on_a_page_and_every_model_file_too() -> None:
    made = pages.pages()
    for network in specs():
        assert f"| `{network.name}` |" in made[f"{network.canon.split('/')[1]}.md"]
    families: set[str] = {network.canon for network in specs()}
    told = {file.name for family in families for file, _ in pages.docstrings(family)}
    files = {file.name for file in pages.MODELS.glob("*/*.py")}
    assert told == files - {"__init__.py", "trunks.py"}  # trunks are parts of several papers


def test_writing_the_pages_removes_those_of_families_that_are_no_more(tmp_path: Path) -> None:
    (tmp_path / "perceptron.md").write_text("gone")
    pages.main(str(tmp_path))
    assert {file.name for file in tmp_path.iterdir()} == set(pages.pages())
