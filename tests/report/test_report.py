"""The report is one page that needs nothing else, and says what it was given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from cnnkit.draw.charts import confusion, curves
from cnnkit.draw.encode import enlarged, grey
from cnnkit.explain.maps import feature_maps, first_kernels
from cnnkit.models import create
from cnnkit.report import Panel, chart, page, pictures, table, text
from cnnkit.train.fit import fit


class Reader(HTMLParser):
    """Text and references of a page; an element that is never closed is an error."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}  # noqa: RUF012

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words, self.references = "", []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("report") / "run"
    run = fit("digits", model="lenet5_relu", epochs=2, output=output, console=Console(quiet=True))
    return run.report.read_text("utf-8")


def test_a_run_s_report_refers_to_nothing_outside_itself(report: str) -> None:
    references = Reader(report).references
    assert references
    assert all(r.startswith(("data:", "#")) for r in references)
    assert not re.search(r"@import|url\((?!#)|<script", report)


def test_a_run_s_report_has_every_section(report: str) -> None:
    words = Reader(report).words
    for title in (
        *("lenet5_relu on digits", "Curves", "Confusion matrix", "Classes", "Most confident mistakes"),
        *("Learned kernels of the first layer", "Feature maps", "Configuration", "Environment"),
    ):
        assert title in words
    assert "val accuracy (this part chose the checkpoint)" in words
    assert "batch_size = 32" in words
    assert f"torch {torch.__version__.split('+')[0]}" in words


def test_what_users_named_cannot_break_the_page() -> None:
    evil = "<script>alert(1)</script>"
    body = table([{evil: evil}]) + pictures([(Image.new("L", (2, 2)), evil)]) + text(evil)
    made = page(evil, evil, {evil: evil}, [Panel(evil, body, evil)])
    assert "<script" not in made
    assert Reader(made).words.count(evil) >= 7


def test_what_is_wider_than_a_phone_scrolls_inside_its_panel() -> None:
    made = page("a", "b", {}, [Panel("c", table([{"class": "ant", "images": 3}]))])
    assert '<div class="scroll"><table>' in made
    assert re.search(r"\.scroll \{[^}]*overflow-x: auto", made)


def test_charts_are_inline_and_keep_their_text() -> None:
    made = chart(curves({"Loss": {"train": [3.0, 2.0], "val": [3.5, 2.5]}}, [1, 2], "epoch"))
    assert made.startswith('<div class="chart"><svg')
    assert ">Loss<" in made
    matrix = chart(confusion(torch.tensor([[5, 1], [0, 7]]), ["ant", "bee"]))
    assert all(f">{word}<" in matrix for word in ("ant", "bee", "5", "1", "7", "predicted"))


def test_tiny_pictures_are_enlarged_in_whole_pixels() -> None:
    assert enlarged(Image.new("L", (8, 9)), 80).size == (80, 90)
    assert enlarged(Image.new("L", (100, 90)), 80).size == (100, 90)


def test_a_map_spans_black_to_white() -> None:
    assert list(grey(torch.tensor([[-3.0, 1.0, 5.0]])).tobytes()) == [0, 128, 255]


def test_first_kernels_are_those_of_the_first_convolution() -> None:
    model = create("resnet18", num_classes=2)
    name, kernels = first_kernels(model) or ("", torch.empty(0))
    assert kernels.shape == (64, 3, 7, 7)
    assert torch.equal(kernels, dict(model.named_modules())[name].weight)
    assert first_kernels(torch.nn.Linear(2, 2)) is None


def test_feature_maps_are_what_the_layers_give_and_hooks_are_gone(tmp_path: Path) -> None:
    model = create("lenet5_relu").train()
    image = torch.rand(1, 28, 28)
    maps = feature_maps(model, image)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "stages.0.0": (6, 28, 28),
        "stages.1.0": (16, 10, 10),
    }
    torch.testing.assert_close(maps["stages.0.0"], model.stages[0][0](image[None])[0].detach())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
