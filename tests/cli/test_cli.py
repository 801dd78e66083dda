"""The command line as a person meets it: exit codes, one sentence an error, results on stdout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from cnnkit.cli import VERBS, main

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


def test_models_lists_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models", "lenet*")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", "lenet1989", "lenet5", "lenet5_relu"]
    code, out, _ = run(capsys, "models", "lenet5_relu", "--json")
    assert json.loads(out)[0]["parameters"] == 61_706


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train", "digits", "--model", "lenet55"], 2, "no model 'lenet55'; did you mean lenet5"),
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
        (["predict", "none.safetensors", "none.png"], 2, "there is no file, folder or match for none.png"),
        (["evaluate", "none.safetensors", "digits"], 1, "there is no file none.safetensors"),
        (["models", "resnt50"], 2, "did you mean resnet50"),
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
