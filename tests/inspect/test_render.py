"""The table as text, CSV, JSON and HTML."""

import csv
import io
import json
from html.parser import HTMLParser

import pytest
import torch
from markupsafe import escape
from rich.console import Console
from torch import Tensor, nn

from cnnkit import canon
from cnnkit.inspect.page import as_html, lines
from cnnkit.inspect.published import Published, against_canon
from cnnkit.inspect.render import COLUMNS, as_csv, axes, record, short, text
from cnnkit.inspect.table import Table, table
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example


@pytest.fixture(scope="module")
def lenet() -> Table:
    return table(trace(built(SPECS["lenet5_relu"]), *example(SPECS["lenet5_relu"])), name="lenet5_relu")


def printed(made: Table, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(text(made, width=width))
    return console.export_text()


@pytest.mark.parametrize(
    ("number", "unit", "shown"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (1000, "", "1.00 k"),
        (999_600, "", "1.00 M"),
        (25_557_032, "", "25.6 M"),
        (4_089_184_256, "", "4.09 G"),
        (102_228_128, "B", "102 MB"),
        (12, "B", "12 B"),
    ],
)
def test_numbers_in_three_figures(number: float, unit: str, shown: str) -> None:
    assert short(number, unit) == shown


def test_axes_that_are_alike_are_said_once() -> None:
    assert (axes([7, 7]), axes([1, 7]), axes([3])) == ("7", "1x7", "3")


def test_the_text_has_a_line_a_row_and_the_totals(lenet: Table) -> None:
    shown = printed(lenet, 180)
    lines = shown.splitlines()
    first = next(line for line in lines if line.startswith("stages.0.0"))
    cells = "stages.0.0 Conv2d 5x5 p2 6x28x28 156 118 k 235 k 4.70 k 18.8 kB 22.6 kB 10.6 5 1 0"
    assert " ".join(first.split()) == cells
    assert "61,706" in next(line for line in lines if line.startswith("total"))
    assert "multiply-adds 416,520 = 833,040 FLOPs" in shown
    assert "5 with weights on the longest way, 5 in all" in shown


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(lenet: Table, width: int) -> None:
    lines = printed(lenet, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("stages.") for line in lines) == 6
    assert not any("…" in line for line in lines)


def test_csv_adds_up(lenet: Table) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(lenet))))
    assert len(lines) == len(lenet.rows)
    assert sum(int(line["macs"]) for line in lines) == lenet.total.macs
    assert sum(int(line["parameters"]) for line in lines) == lenet.total.params
    assert (lines[0]["kernel"], lines[0]["receptive_field_size"]) == ("5x5", "5")


def test_json_holds_everything(lenet: Table) -> None:
    found = json.loads(json.dumps(record(lenet)))
    assert found["macs"] == sum(row["macs"] for row in found["rows"]) == 416_520
    assert found["flops"] == 2 * found["macs"]
    assert found["kept_for_training_bytes"] < found["peak_training_bytes"]
    assert found["rows"][0]["receptive_field"][0] == {
        "size": 5,
        "least": 5,
        "jump": 1.0,
        "centre": 0.0,
        "whole": False,
    }
    assert found["inputs"] == [{"name": "images", "shape": [1, 1, 28, 28], "type": "torch.float32"}]


class Cells(HTMLParser):
    """The cells of a page's rows; open tags must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.levels: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.levels.append(int(dict(attrs).get("data-level") or -1))
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("rect", "path", "polygon", "circle")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_is_one_page_with_all_rows_and_their_modules(lenet: Table) -> None:
    page = as_html(lenet)
    cells = Cells()
    cells.feed(page)
    assert cells.open == []
    assert len(cells.rows) == len(lines(lenet)) + 2
    assert len({len(row) for row in cells.rows}) == 1
    heads = cells.rows[0]
    first = dict(zip(heads, cells.rows[1], strict=True))
    assert (first["layer"], first["kind"], first["params"]) == ("stages.0", "Sequential", "156")
    assert dict(zip(heads, cells.rows[-1], strict=True))["params"] == "61,706"
    assert "src=" not in page
    assert "href=" not in page
    assert page.count("http") == page.count("http://www.w3.org/2000/svg") == 1


@pytest.mark.parametrize("name", ["lenet5", "googlenet", "densenet121", "efficientnet_b0"])
@pytest.mark.parametrize("depth", [None, 2, 0])
def test_a_module_is_the_sum_of_the_rows_below_it(name: str, depth: int | None) -> None:
    made = table(trace(built(SPECS[name]), *example(SPECS[name])), depth=depth)
    found = lines(made)
    assert [one.row for one in found if not one.holds] == made.rows
    for i, one in enumerate(found):
        if one.holds:
            ends = (j for j in range(i + 1, len(found)) if found[j].level <= one.level)
            below = found[i + 1 : next(ends, None)]
            assert sum(other.row.macs for other in below if not other.holds) == one.row.macs > -1
            assert {other.level for other in below} >= {one.level + 1}
    top = [one.row for one in found if one.level == 0]
    assert sum(row.params for row in top) == made.total.params


def test_the_field_of_a_module_is_that_of_what_it_returns() -> None:
    made = table(trace(built(SPECS["resnet50"]), *example(SPECS["resnet50"])))
    stage = next(one.row for one in lines(made) if one.row.path == "stages.3")
    assert [(s.most, s.jump) for s in stage.spans] == [(427, 32)] * 2


def test_parameters_that_nothing_uses_have_a_row_in_the_page_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.left = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = lines(table(trace(Net(), torch.zeros(1, 3))))
    assert [(one.name, one.row.params, one.row.note) for one in found] == [
        ("used", 16, ""),
        ("left.0", 20, "never used"),
    ]


def test_every_heading_is_explained_and_totals_stand_where_figures_add_up(lenet: Table) -> None:
    page = as_html(lenet)
    shown = [column for column in COLUMNS if column.title not in ("local", "note")]
    assert all(f'title="{escape(column.told)}"' in page for column in shown)
    assert [c.title for c in COLUMNS if c.adds_up] == [
        *("params", "MACs", "FLOPs", "other", "memory", "traffic", "op/B"),
    ]


def test_the_canon_stands_beside_the_counts(lenet: Table) -> None:
    entry = canon.entry("classification/lenet", "lenet5_relu")
    found = against_canon(lenet, entry)
    assert [p.what for p in found] == ["parameters", "multiply-adds"]
    assert all(p.difference == 0 and "agree" in str(p) for p in found)
    shown = text(lenet, found)
    assert any("canon" in str(part) for part in shown.renderables)


def test_a_difference_to_the_canon_is_said_with_its_sign() -> None:
    one = Published("parameters", 90, 100, "paper", "Table 1")
    assert str(one) == "parameters 90 differ by -10 from the canon's 100 (paper: Table 1)"
    assert "an earlier count of ours" in str(Published("parameters", 1, 2, "ours", ""))


def test_the_multiply_adds_of_a_batch_are_compared_image_by_image() -> None:
    spec = SPECS["lenet5_relu"]
    made = table(trace(built(spec), *example(spec, batch=4)))
    found = against_canon(made, canon.entry(spec.canon, spec.name))
    assert [p.difference for p in found] == [0, 0]
    other = table(trace(built(SPECS["nin_cifar10"]), torch.zeros(1, 3, 64, 64)))
    entry = canon.entry("classification/nin", "nin_cifar10")
    assert [(p.what, p.difference) for p in against_canon(other, entry)] == [("parameters", 0)]
