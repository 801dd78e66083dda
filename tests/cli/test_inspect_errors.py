"""What `cnnkit inspect` refuses: one sentence, and before torch is imported where that can be."""

import subprocess
import sys
from pathlib import Path

import pytest

from .inspected import NET, run

CHANNELS = "layer 'stem.0.0' (Conv2d) fails on an input of shape (1, 1, 224, 224)"
PLACES = "'conv9' is no layer of the network; its convolutions are stem.0.0"
MAKERS = "has no 'nothing'; it has Question, Decides, Detector, counts_with_numbers, number, fails, needs"
RUN = "--run is about how a network is traced, and --gradients runs it anyway"
BATCH = "--batch changes nothing about --at, which looks at one example"
PICTURE = "--image and --out belong together: the picture, and where it goes with the unit's box"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A person's own file."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a network: one of `cnnkit models`, a file of weights, or FILE.py:NAME"),
        (["resnet5"], "no model 'resnet5'; did you mean resnet50, resnet152, resnet34?"),
        (["resnet18", "resnet50"], "2 networks are given; add --compare to see them side by side"),
        (["resnet18", "--compare"], "--compare sets several networks side by side; name at least two"),
        (["resnet18", "--json", "--csv"], "--json and --csv are two forms of one result; give one of them"),
        (
            ["resnet18", "--check", "--gradients"],
            "--check and --gradients are two questions; ask one at a time",
        ),
        (["resnet18", "--layer", "stem"], "--layer belongs to --check or --effective"),
        (["resnet18", "--image", "a.png"], "--image belongs to --at"),
        (["resnet18", "--steps", "0"], "--steps belongs to --gradients"),
        (["resnet18", "--check", "--html", "a"], "--html is about the table, which --check does not show"),
        (["resnet18", "--at", "stem,1,1", "--image", "a"], PICTURE),
        (["resnet18", "--gradients", "--run"], RUN),
        (["resnet18", "--at", "stem,1,1", "--batch", "4"], BATCH),
        (["--gradients", "--against", "sigmoid"], "--against is about a network; name one"),
        (["resnet18", "--figure", "a.png"], "--figure draws SVG, so a.png must end in .svg"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_torch_is_there(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run(capsys, *arguments) == (2, "", f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet18", "--input", "1,224,224"], CHANNELS),
        (["inception_v3", "--input", "3,20,20"], "is too small for its window of 3x3"),
        (
            ["resnet18", "--input", "3,224"],
            "layer 'stem.0.0' (Conv2d) fails on an input of shape (1, 3, 224)",
        ),
        (["resnet18", "--input", "3,,4"], "'3,,4' is no shape: every side is a whole number from 1"),
        (["resnet18", "--input", "3,0,4"], "'3,0,4' is no shape: every side is a whole number from 1"),
        (
            ["resnet18", "--input", "large"],
            "'large' is no input: write the shape of one example as 3,224,224",
        ),
        (["resnet18", "--input", "int:3,4"], "'int' in 'int:3,4' is no type of number; there are float32"),
        (["resnet18", "--input", "x=3,4,4", "--input", "x=3,4,4"], "--input is given twice for x"),
        (["resnet18", "--input", "3,9,9", "--input", "3,9,9"], "cannot be called with these inputs"),
        (["resnet18", "--check", "--layer", "conv9"], "'conv9' is no layer that is called; there are stem"),
        (["resnet18", "--as-dense", "conv9"], PLACES),
        (["resnet18", "--at", "stem.0,200,3"], "'stem.0' has a map of 112x112, so no unit (200, 3)"),
        (["resnet18", "--at", "stem.0"], "'stem.0' is no unit of a layer such as features.0,10,12"),
        (["inception_v3", "--without", "pooling"], "does not hang together without its poolings"),
        (
            ["lenet5", "--gradients", "--against", "magic"],
            "--against magic: there is no such change; there are",
        ),
        (["lenet5", "--gradients", "--data", "digit"], "no folder or data set 'digit'; did you mean digits"),
        (["neocognitron", "--gradients"], "neocognitron has no layer whose weights learn by gradients"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, *arguments, "--quiet")
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (":nothing", MAKERS),
        ("", "say which function of {net} makes the network, as in {net}:Question"),
        (":number", "{net}:number() returns an int, not a torch.nn.Module"),
        (":fails", "{net}:fails() fails: ZeroDivisionError: division by zero (net.py:40: `return 1 / 0`)"),
        (":needs", "{net}:needs() fails: TypeError: needs() missing 1 required positional argument: 'width'"),
        (":WIDTH", "'WIDTH' in {net} is an int, not a function or class"),
        (":ready", "say what goes into ready with --input, as in --input 3,224,224"),
    ],
)
def test_a_file_that_makes_no_network_says_why(
    capsys: pytest.CaptureFixture[str], net: Path, name: str, sentence: str
) -> None:
    arguments = [] if name == ":ready" else ["--input", "3,8,8"]
    code, out, err = run(capsys, f"{net}{name}", *arguments)
    assert (code, out) == (2, "")
    assert sentence.format(net=net) in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(:", "cannot be run: line 1 is no Python"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library' (net.py:1:"),
        ("raise ValueError", "cannot be run: ValueError (net.py:1:"),
    ],
)
def test_a_file_that_does_not_run_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "net.py").write_text(text)
    code, _, err = run(capsys, tmp_path / "net.py:f", "--input", 3)
    assert code == 2
    assert sentence in err


def test_a_picture_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("no/such/folder.png", "picture.nothing"):
        code, _, err = run(capsys, "--gradients", "--steps", 0, "--batch", 2, "--out", tmp_path / name)
        assert code == 1
        assert f"{tmp_path / name} could not be written: " in err


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, tmp_path / "no.py:f")[::2] == (2, f"error: there is no file {tmp_path}/no.py\n")
    code, _, err = run(capsys, tmp_path / "no.safetensors")
    assert code in (1, 2)
    assert "there is no file" in err


def test_help_and_refusals_need_no_torch() -> None:
    script = (
        "import sys\n"
        "from cnnkit.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    assert not {'torch', 'pydantic', 'numpy', 'rich', 'PIL'} & set(sys.modules)\n"
    )
    for arguments in (["--help"], ["resnet5"], ["resnet18", "--check", "--effective"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "inspect", *arguments], capture_output=True, text=True, check=False
        )
        assert "AssertionError" not in done.stderr
        assert done.returncode == (0 if "--help" in arguments else 2)
