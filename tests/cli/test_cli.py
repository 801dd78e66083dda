"""The command line as a person meets it: exit codes, one sentence an error, results on stdout."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cnnkit import canon
from cnnkit.cli import VERBS, main
from cnnkit.verify import ledger

from ..conftest import MakeFolder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(left.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, made by the command."""
    path = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as left:
        main(["train", "digits", "--model", "lenet5_relu", "--epochs", "3", "--output", str(path), "--quiet"])
    assert left.value.code == 0
    return path


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A picture of a nought."""
    picture = Image.new("L", (28, 28))
    picture.paste(255, (8, 4, 20, 24))
    picture.paste(0, (12, 8, 16, 20))
    picture.save(tmp_path / "nought.png")
    return tmp_path / "nought.png"


def test_training_prints_the_result_and_where_things_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(
        capsys, "train", "digits", "--model", "lenet5_relu", "--epochs", 2, "--output", tmp_path / "r"
    )
    assert code == 0
    assert out.startswith("test accuracy  ")
    assert str(tmp_path / "r" / "report.html") in out
    assert "epoch 2/2" in err
    assert "seed 0" in err


def test_json_is_all_there_is_on_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = [
        "--imgsz",
        28,
        "--batch",
        64,
        "--epochs",
        1,
        "--output",
        tmp_path / "r",
        "--json",
        "--seed",
        5,
    ]
    code, out, _ = run(capsys, "train", "digits", "--model", "lenet5_relu", *arguments)
    found = json.loads(out)
    assert code == 0
    assert (found["seed"], found["epochs"], found["report"]) == (5, 1, str(tmp_path / "r" / "report.html"))
    config = (tmp_path / "r" / "config.toml").read_text()
    assert "batch_size = 64" in config
    assert "image_size = 28" in config


def test_a_recipe_file_gives_settings_and_flags_win(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text('model = "lenet5_relu"\nepochs = 1\nlr = 0.5\naugment = []\n')
    code, _, _ = run(
        capsys, "train", "digits", "--recipe", tmp_path / "r.toml", "--lr", 0.01, "--output", tmp_path / "run"
    )
    config = (tmp_path / "run" / "config.toml").read_text()
    assert code == 0
    assert "lr = 0.01" in config
    assert "augment = []" in config


def test_evaluate_names_the_part_and_says_what_chose_the_checkpoint(
    capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    code, out, _ = run(capsys, "evaluate", trained, "digits")
    assert code == 0
    assert "on test, 359 images" in out
    code, out, _ = run(capsys, "evaluate", trained / "best.safetensors", "digits", "--split", "val", "--json")
    assert json.loads(out)["remark"] == "this part chose the checkpoint, so the score flatters it"


def test_predict_takes_files_folders_and_patterns(
    capsys: pytest.CaptureFixture[str], trained: Path, digit: Path
) -> None:
    for what in (digit, digit.parent, digit.parent / "n*.png"):
        code, out, _ = run(capsys, "predict", trained, what, "--top", 2, "--json")
        found = json.loads(out)
        assert code == 0
        assert [p["image"] for p in found] == [str(digit)]
        assert len(found[0]["classes"]) == 2
        assert found[0]["probabilities"][0] >= found[0]["probabilities"][1]


def test_predict_goes_on_after_a_picture_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], trained: Path, digit: Path
) -> None:
    (digit.parent / "a_broken.png").write_bytes(b"x")
    code, out, err = run(capsys, "predict", trained, digit.parent)
    assert code == 1
    assert "nought.png" in out
    assert "a_broken.png is no image" in err
    assert "1 of 2 pictures could not be read" in err


def test_weights_of_others_are_carried_over_and_it_is_said_what_is_new(
    capsys: pytest.CaptureFixture[str], trained: Path, make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder({"a": 10, "b": 10})
    source = trained / "best.safetensors"
    arguments = ["--weights", source, "--freeze", "features", "--epochs", 1, "--output", tmp_path / "r"]
    code, _, err = run(capsys, "train", root, *arguments)
    assert code == 0
    assert f"weights of lenet5_relu from {source}; head.5 is new (10 classes before, 2 now)" in err
    assert "frozen: all but the head" in err
    code, out, _ = run(capsys, "predict", tmp_path / "r", root / "a" / "0.png", "--json")
    assert (code, set(json.loads(out)[0]["classes"])) == (0, {"a", "b"})


def test_predict_takes_weights_by_name_or_in_place_of_a_run(
    capsys: pytest.CaptureFixture[str], trained: Path, digit: Path
) -> None:
    source = trained / "best.safetensors"
    _, first, _ = run(capsys, "predict", source, digit, "--json")
    code, second, _ = run(
        capsys, "predict", "--weights", source, "--model", "lenet5_relu", digit, digit, "--json"
    )
    assert code == 0
    assert json.loads(second) == json.loads(first) * 2
    code, _, err = run(capsys, "predict", "--weights", source, "--model", "lenet5", digit)
    assert code == 2
    assert "holds weights of lenet5_relu, not of lenet5" in err


@pytest.mark.realdata
@pytest.mark.reference
@pytest.mark.parametrize(("picture", "name"), [("chelsea", "Egyptian cat"), ("coffee", "espresso")])
def test_the_deep_compression_squeezenet_names_a_cat_and_a_cup_of_coffee(
    capsys: pytest.CaptureFixture[str], realdata: Path, tmp_path: Path, picture: str, name: str
) -> None:
    pixels = getattr(pytest.importorskip("skimage.data"), picture)()
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    source = realdata / "squeezenet_deep_compression" / "compressed_SqueezeNet.net"
    code, out, _ = run(capsys, "predict", source, tmp_path / "picture.png", "--top", 2, "--json")
    assert code == 0
    assert name in json.loads(out)[0]["classes"]


def test_check_leaves_with_three_where_it_found_something(
    capsys: pytest.CaptureFixture[str], make_folder: MakeFolder
) -> None:
    root = make_folder({"a": 4, "b": 4})
    code, out, _ = run(capsys, "check", root)
    assert (code, "nothing was found" in out) == (0, True)
    (root / "a" / "zero.jpg").write_bytes(b"")
    code, out, _ = run(capsys, "check", root, "--json")
    assert code == 3
    assert [f["keys"] for f in json.loads(out)["findings"]] == [["a/zero.jpg"]]


def test_a_photo_of_a_hundred_megapixels_is_no_attack(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("1", (9 + i, 9), name == "a").save(tmp_path / name / f"{i}.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a" / "large.png")
    _, out, err = run(capsys, "check", tmp_path)
    assert "unreadable" not in out
    assert "bomb" not in err


def test_explain_arithmetic_prints_what_the_layer_gave(
    capsys: pytest.CaptureFixture[str], trained: Path, digit: Path
) -> None:
    arguments = ["explain", "arithmetic", trained, digit, "--layer", "stages.1.0", "--at", "3,4"]
    code, out, _ = run(capsys, *arguments, "--entry", "0,0,2,2")
    assert code == 0
    assert "window" in out
    assert "gradient of kernel entry (0, 0, 2, 2)" in out
    code, out, _ = run(capsys, *arguments, "--channel", 3, "--json")
    value = json.loads(out)["value"]
    assert value["total"] == pytest.approx(value["given"], rel=1e-5)
    assert sum(value["sums"]) + value["bias"] == pytest.approx(value["total"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--layer", "conv7"], "layers that can be shown: stages.0.0, stages.1.0, head.1"),
        (["--layer", "stages.1.0", "--at", "99,0"], "99"),
        (["--layer", "stages.1.0", "--at", "a,b"], "'a,b' is not a list of whole numbers"),
    ],
)
def test_a_layer_or_place_that_is_not_there_is_a_misuse(
    capsys: pytest.CaptureFixture[str], trained: Path, digit: Path, arguments: list[str], sentence: str
) -> None:
    code, _, err = run(capsys, "explain", "arithmetic", trained, digit, *arguments)
    assert code == 2
    assert sentence in err


def test_models_lists_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models", "lenet*")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", "lenet1989", "lenet5", "lenet5_relu"]
    code, out, _ = run(capsys, "models", "lenet5_relu", "--json")
    assert json.loads(out)[0]["parameters"] == 61_706


def test_models_lists_those_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "models", "*net", "--task", "segment", "--json")
    found = json.loads(out)
    assert {row["task"] for row in found} == {"segment"}
    assert {"unet", "segnet", "deconvnet"} <= {row["name"] for row in found}


def test_models_tells_the_error_with_its_protocol_and_the_rung(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "models", "resnet20_cifar10")
    assert out.splitlines()[0].split("  ")[-1] == "paper"
    assert "  3  8.75 (CIFAR-10 with augmentation, trained on 45..." in out
    _, out, _ = run(capsys, "models", "lenet5", "--json")
    assert json.loads(out)[0]["error"] is None  # the canon's figure is from memory
    _, out, _ = run(capsys, "models", "resnet50", "--json")
    (found,) = json.loads(out)
    assert (found["rung"], found["error"]["top1"], found["error"]["top5"]) == (3, 24.01, 7.02)


def test_verify_tells_each_check_with_its_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", "resnet18_c")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[1:5] for row in rows[1:4]] == [
        ["1", "parameters", "passed", "(regression)"],
        ["1", "macs", "passed", "(regression)"],
        ["2", "shapes", "passed", "definition"],
    ]
    assert out.splitlines()[-1] == "networks 1, checks 3: 3 passed, 0 not run, 0 failed"
    code, out, _ = run(capsys, "verify", "lenet*", "--rung", 1, "--json", "--quiet")
    found = json.loads(out)
    assert code == 0
    assert [(row["network"], row["rung"]) for row in found] == [
        ("lenet1989", 1),
        ("lenet5", 1),
        ("lenet5_relu", 0),
    ]
    assert found[0]["findings"][0]["counted"] == 9_760


def test_verify_leaves_with_three_where_the_canon_says_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = canon.entry("classification/lenet", "lenet1989")
    assert known.params is not None
    wrong = replace(known, params=replace(known.params, value=9_761))
    monkeypatch.setattr(canon, "entry", lambda *_: wrong)
    code, out, _ = run(capsys, "verify", "lenet1989")
    assert code == 3
    assert "9,760 counted, not the canon's 9,761" in out
    assert "1 failed" in out


def test_verify_says_not_run_where_the_other_library_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("cnnkit.weights.definitions.import_module", absent)
    code, out, _ = run(capsys, "verify", "squeezenet1_1", "--rung", 3, "--json")
    (found,) = json.loads(out)
    assert (code, found["rung"], found["findings"][-1]["status"]) == (0, 2, "not run")


def test_verify_records_what_it_found_beside_what_was_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ledger, "PATH", tmp_path / "ledger.json")
    try:
        ledger.write({"lenet5": [], "perceptron": []}, ledger.PATH)
        code, _, _ = run(capsys, "verify", "lenet1989", "--record")
        written = json.loads(ledger.PATH.read_text())["networks"]
    finally:
        ledger.read.cache_clear()
    assert code == 0
    assert {name: len(rows) for name, rows in written.items()} == {"lenet1989": 6, "lenet5": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train", "digits", "--model", "lenet55"], 2, "no model 'lenet55'; did you mean lenet5"),
        (["train", "digits", "--model", "net.py:own"], 2, "no model 'net.py:own'; there are alexnet"),
        (["train", "digits"], 2, "name a network with --model"),
        (["train", "--model", "lenet5"], 2, "name the data to train on"),
        (["train", "nowhere/at/all", "--model", "lenet5"], 2, "nowhere/at/all does not exist"),
        (["train", "digits", "--model", "lenet5", "--epochs", "0"], 2, "epochs must be at least 1, got 0"),
        (["train", "digits", "--model", "lenet5", "--epochs", "x"], 2, "'x' is not a valid integer"),
        (["train", "digits", "--model", "lenet5", "--lrr", "1"], 2, "No such option '--lrr'"),
        (["train", "digits", "--model", "lenet5", "--image-size", "9"], 2, "lenet5 does not take 9 x 9"),
        (["train", "digits", "--model", "lenet5", "--device", "abacus"], 2, "--device 'abacus' is not known"),
        (["train", "digits", "--model", "lenet5", "--recipe", "none.toml"], 2, "there is no recipe file"),
        (["train", "digits", "--model", "lenet5", "--resume", "--overwrite"], 2, "give one of them"),
        (["train", "--resume", "--output", "none"], 2, "holds no run to resume"),
        (["predict"], 2, "Missing argument 'RUN'"),
        (["predict", "--weights", "torchvision"], 2, "Missing argument 'IMAGE...'"),
        (
            ["predict", "--weights", "torchvision", __file__],
            2,
            "torchvision has many networks; name one with",
        ),
        (["train", "digits", "--model", "lenet5", "--freeze", "features"], 2, "give --weights"),
        (["train", "digits", "--model", "lenet5", "--weights", "none.pth"], 1, "there is no file none.pth"),
        (["train", "digits", "--weights", "torchvision"], 2, "torchvision has many networks; name one"),
        (["predict", "none.safetensors", "none.png"], 2, "there is no file, folder or match for none.png"),
        (["evaluate", "none.safetensors", "digits"], 1, "there is no file none.safetensors"),
        (["models", "resnt50"], 2, "did you mean resnet50"),
        (["verify", "resnt50"], 2, "did you mean resnet50"),
        (["verify", "lenet5", "--rung", "6"], 2, "6 is not in the range"),
        (["verify", "lenet5", "--rung", "3", "--record"], 2, "--record runs every rung; leave out --rung"),
        (["check", "nothing"], 2, "no folder or data set 'nothing'"),
        (["train", "mnist", "--model", "lenet5", "--data-dir", "empty"], 1, "could not be downloaded"),
        (["trian"], 2, "No such command 'trian'"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Error downloading")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", offline)
    monkeypatch.chdir(tmp_path)
    left, out, err = run(capsys, *arguments)
    assert (left, out) == (code, "")
    assert sentence in err
    assert not list(tmp_path.glob("runs"))


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)])
def test_help_opens_with_two_examples(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    code, out, _ = run(capsys, *verb, "--help")
    assert code == 0
    after = out.split("Examples:\n")[1].splitlines()
    assert all(line.strip().startswith(f"cnnkit {' '.join(verb)}".strip()) for line in after[:2])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["models"], 0),
        (["verify", "x"], 2),
        (["train", "digits", "--model", "lenet"], 2),
        (["nonsense"], 2),
        (["train", "--help"], 0),
        (["predict", "x"], 2),
    ],
)
def test_neither_torch_nor_a_validator_is_imported_before_there_is_work(
    arguments: list[str], code: int
) -> None:
    program = (
        "import sys, cnnkit.cli\n"
        f"try: cnnkit.cli.main({arguments!r})\n"
        "except SystemExit as left: print(left.code, file=sys.stderr)\n"
        "heavy = {'torch', 'pydantic', 'numpy', 'rich', 'lightning', 'matplotlib', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-2:] == [str(code), "[]"]


def test_a_reader_that_goes_away_brings_no_traceback() -> None:
    command = f"{sys.executable} -m cnnkit models | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("name")
    assert done.stderr == ""
