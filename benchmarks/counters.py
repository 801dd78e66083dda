"""Seven cases on which parameter and multiply-add counters disagree, against the count by hand.

    python benchmarks/counters.py --markdown

Candidates: cnnkit.inspect, torchinfo, fvcore, thop, ptflops (by modules and by operators) and
torch.utils.flop_counter. Each is called as its documentation says, in evaluation mode. A counter that is not
installed is said to be missing; one that raises is shown by its error. FLOPs are halved where a tool counts
two for a multiply-add. In the table `=` is the count by hand and the rest the figure that differs.
"""

import argparse
import contextlib
import copy
import importlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cnnkit.inspect.table import table
from cnnkit.inspect.trace import trace


class Thrice(nn.Module):
    """One 3x3 convolution of 8 channels used three times behind a 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(self.conv(self.first(x))))


class Functional(nn.Module):
    """`F.conv2d` and `F.scaled_dot_product_attention` on a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.conv2d(x, self.weight, padding=1).flatten(2).transpose(1, 2).unsqueeze(1)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens)


class Cell(nn.Module):
    """One step of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(10, 20)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.cell(x)[0]
        return hidden


class Tied(nn.Module):
    """An embedding whose matrix is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embed(tokens))


@dataclass(frozen=True)
class Case:
    """A module, its input, and what is right."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Tensor
    params: int
    macs: int
    working: str


def vision(name: str) -> Callable[[], nn.Module]:
    return lambda: importlib.import_module("torchvision.models").get_model(name, weights=None)


def resnet50() -> int:
    """Table 1 of He et al., with the stride in the 3x3: stem, bottlenecks, classifier."""
    macs, inputs = 112**2 * 64 * 3 * 7**2, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, side = 64 * 2**stage, 56 // 2**stage
        for block in range(blocks):
            before = side * (2 if stage and not block else 1)
            macs += before**2 * inputs * width + side**2 * (width * width * 9 + width * 4 * width)
            macs += 0 if block else side**2 * inputs * 4 * width  # the shortcut's projection
            inputs = 4 * width
    return macs + 2048 * 1000


T, W = 197, 768  # tokens and width of ViT-B/16
CASES = (
    Case(
        "ResNet-50, 224",
        vision("resnet50"),
        torch.zeros(1, 3, 224, 224),
        25_557_032,
        resnet50(),
        "stem, 16 bottlenecks with the stride in the 3x3, classifier",
    ),
    Case(
        "ViT-B/16, 224",
        vision("vit_b_16"),
        torch.zeros(1, 3, 224, 224),
        86_567_656,
        196 * W * 3 * 256 + 12 * (T * W * 3 * W + 2 * T * T * W + T * W * W + 2 * T * W * 4 * W) + W * 1000,
        "patches + 12 (q, k, v + scores and mean + output + two layers of 4W) + head",
    ),
    Case(
        "one conv used 3x, 32",
        Thrice,
        torch.zeros(1, 3, 32, 32),
        32 + 584,
        32 * 32 * (3 * 8 + 3 * 8 * 8 * 9),
        "32² (3·8 + 3·8·8·9)",
    ),
    Case(
        "F.conv2d + attention, 16",
        Functional,
        torch.zeros(1, 3, 16, 16),
        216,
        256 * 8 * 27 + 2 * 256 * 256 * 8,
        "256·8·27 + 2·256²·8",
    ),
    Case(
        "grouped transposed conv, 7",
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 12, 4, 2, 1, groups=4)),
        torch.zeros(1, 8, 7, 7),
        8 * 3 * 16 + 12,
        7 * 7 * 8 * 3 * 16,
        "7²·8·(12/4)·4²",
    ),
    Case(
        "LSTM cell, 10 to 20",
        Cell,
        torch.zeros(1, 10),
        4 * (10 * 20 + 20 * 20 + 40),
        4 * (10 * 20 + 20 * 20),
        "4 (10·20 + 20·20)",
    ),
    Case(
        "tied embedding, 7 tokens",
        Tied,
        torch.zeros(1, 7, dtype=torch.int64),
        800,
        7 * 16 * 50,
        "7·16·50; looking up is free",
    ),
)

Found = tuple[float, float]


def ours(model: nn.Module, inputs: Tensor) -> Found:
    total = table(trace(model, inputs)).total
    return total.params, total.macs


def by_torchinfo(model: nn.Module, inputs: Tensor) -> Found:
    found = importlib.import_module("torchinfo").summary(model, input_data=inputs, verbose=0)
    return found.total_params, found.total_mult_adds


def by_fvcore(model: nn.Module, inputs: Tensor) -> Found:
    fvcore = importlib.import_module("fvcore.nn")
    macs = fvcore.FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).total()
    return fvcore.parameter_count(model)[""], macs


def by_thop(model: nn.Module, inputs: Tensor) -> Found:
    macs, params = importlib.import_module("thop").profile(model, inputs=(inputs,), verbose=False)
    return params, macs


def by_ptflops(backend: str) -> Callable[[nn.Module, Tensor], Found]:
    def counted(model: nn.Module, inputs: Tensor) -> Found:
        macs, params = importlib.import_module("ptflops").get_model_complexity_info(
            model,
            tuple(inputs.shape[1:]),
            input_constructor=lambda _: {first_argument(model): inputs},
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            backend=backend,
        )
        return params, macs

    return counted


def first_argument(model: nn.Module) -> str:
    return model.forward.__code__.co_varnames[1]


def by_torch(model: nn.Module, inputs: Tensor) -> Found:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2


#: The candidates: heading, distribution, how it counts.
COUNTERS: tuple[tuple[str, str, Callable[[nn.Module, Tensor], Found]], ...] = (
    ("cnnkit", "cnnkit", ours),
    ("torchinfo", "torchinfo", by_torchinfo),
    ("fvcore", "fvcore", by_fvcore),
    ("thop", "thop", by_thop),
    ("ptflops, modules", "ptflops", by_ptflops("pytorch")),
    ("ptflops, operators", "ptflops", by_ptflops("aten")),
    ("flop_counter / 2", "torch", by_torch),
)


def counted(count: Callable[[nn.Module, Tensor], Found], case: Case) -> Found | str:
    """What one counter says of a case, or the error that it ends in."""
    model = case.build().eval()
    heard = io.StringIO()
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            params, macs = count(copy.deepcopy(model), case.inputs)
        return "no answer" if macs is None else (params, macs)
    except Exception as error:  # whatever a counter dies of is its result
        return type(error).__name__


def cell(found: Found | str, case: Case) -> dict[str, str]:
    """What is shown: `=` where it is right."""
    if isinstance(found, str):
        return {"MACs": found, "parameters": found}
    params, macs = found
    return {
        "MACs": "=" if macs == case.macs else f"{macs:,.0f}",
        "parameters": "=" if params == case.params else f"{params:,.0f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print tables for the documentation")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    present, missing = [], []
    for name, package, count in COUNTERS:
        try:
            version = importlib.metadata.version(package)
            present.append((name, f"{package} {version}", count))
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    answers = {
        (name, case.name): cell(counted(count, case), case) for name, _, count in present for case in CASES
    }
    for what in ("MACs", "parameters"):
        head = ["case", "by hand", *(name for name, _, _ in present)]
        rows = [
            [
                case.name,
                f"{case.macs if what == 'MACs' else case.params:,}",
                *(answers[name, case.name][what] for name, _, _ in present),
            ]
            for case in CASES
        ]
        show(what, head, rows, markdown=asked.markdown)
    print("MACs by hand: " + "; ".join(f"{case.name}: {case.working}" for case in CASES))
    print(
        "Not all differences are errors: torchinfo and ptflops count a bias as a multiply-add; fvcore, thop "
        "and ptflops count norms and poolings too."
    )
    print("Versions: " + ", ".join(dict.fromkeys(version for _, version, _ in present)))
    if missing:
        print("NOT INSTALLED, so not compared: " + ", ".join(missing))


def show(title: str, head: list[str], rows: list[list[str]], *, markdown: bool) -> None:
    """A table on standard output."""
    print(f"\n{title}\n")
    if markdown:
        print("| " + " | ".join(head) + " |")
        print("|" + " --- |" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        print()
        return
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
