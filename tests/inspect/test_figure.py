"""Drawings: what is in them, and that nothing covers anything else."""

import itertools
import re
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from cnnkit.draw.canvas import Canvas, breadth
from cnnkit.inspect.figure import drawing
from cnnkit.inspect.layout import HEIGHT, layout, width_of
from cnnkit.inspect.plan import Block, boxes, plan
from cnnkit.inspect.trace import trace

from .networks import SPECS, built, example

SVG = "{http://www.w3.org/2000/svg}"


def planned(name: str) -> list[list[Block]]:
    return plan(trace(built(SPECS[name]), *example(SPECS[name])))


def drawn(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawing(trace(built(SPECS[name]), *example(SPECS[name])), name=name))


def words(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def test_a_residual_network_is_its_stages_with_repeated_blocks_drawn_once() -> None:
    columns = planned("resnet50")
    counts = [sum(b.times for b in column if b.exit.label == "+") for column in columns]
    assert [n for n in counts if n] == [3, 4, 6, 3]
    assert sum(len(column) for column in columns) == 4 * 2 + 5  # image, stem, its pooling, mean, classifier
    last = columns[-2][-1]
    assert [box.label for box in last.boxes] == ["1×1, 512", "3×3, 512", "1×1, 2048", "+"]
    assert last.boxes[-1].inputs == [last.entry, last.boxes[2]] or last.boxes[-1].inputs == [
        last.boxes[2],
        last.entry,
    ]
    assert last.boxes[0].then == ["BatchNorm2d", "ReLU"]


def test_googlenet_has_nine_modules_of_four_branches() -> None:
    modules = [
        b for column in planned("googlenet") for b in column for _ in range(b.times) if b.exit.label == "cat"
    ]
    assert len(modules) == 9
    assert all(len(block.exit.inputs) == 4 for block in modules)


def test_a_chain_is_drawn_as_volumes_and_says_every_shape() -> None:
    svg = drawn("lenet5")
    assert {"1@32×32", "6@28×28", "6@14×14", "16@10×10", "16@5×5", "120", "84"} <= set(words(svg))
    assert not list(svg.iter(f"{SVG}circle"))
    assert "64@224×224" in words(drawn("vgg16"))
    assert "3×3, 64  ×2" in words(drawn("vgg16"))


def test_branches_are_drawn_as_blocks() -> None:
    svg = drawn("resnet50")
    assert words(svg).count("+") == 8
    assert {"×2", "×3", "×5", "56 × 56", "7 × 7", "vector", "linear 1000"} <= set(words(svg))


def test_a_column_that_goes_down_and_up_again_says_how_far() -> None:
    assert "392 × 392, inside to 28 × 28" in words(drawn("unet"))
    assert not any(
        "inside" in word for name in ("resnet50", "efficientnet_b0") for word in words(drawn(name))
    )


def test_maps_whose_channels_come_last_have_the_same_resolution() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.wide, self.narrow = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).permute(0, 2, 3, 1)
            return x + self.narrow(self.wide(x))

    found = [
        box for column in plan(trace(Block(), torch.zeros(1, 3, 24, 32))) for b in column for box in b.boxes
    ]
    assert [(box.label, box.channels, box.size) for box in found][1:] == [
        ("4×4 /4, 8", 8, (6, 8)),
        ("linear 32", 32, (6, 8)),
        ("linear 8", 8, (6, 8)),
        ("+", 8, (6, 8)),
    ]


NAMES = [
    "lenet5",
    "vgg16",
    "googlenet",
    "resnet50",
    "densenet121",
    "inception_v3",
    "efficientnet_b0",
    "nin_cifar10",
]


@pytest.mark.parametrize("name", NAMES)
def test_boxes_neither_overlap_nor_leave_the_picture(name: str) -> None:
    svg = drawn(name)
    left, top, width, height = map(float, svg.attrib["viewBox"].split())
    rectangles = [
        tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height"))
        for r in svg.iter(f"{SVG}rect")
        if r.find(f"{SVG}title") is not None
    ]
    for x, y, w, h in rectangles:
        assert left < x < x + w < left + width
        assert top < y < y + h < top + height
    for (x, y, w, h), (u, v, s, t) in itertools.combinations(rectangles, 2):
        assert x + w <= u or u + s <= x or y + h <= v or v + t <= y


@pytest.mark.parametrize("name", NAMES)
def test_words_fit_their_boxes(name: str) -> None:
    for column in planned(name):
        for block in column:
            placed = layout(block)
            assert len(placed.spots) == len(block.boxes)
            for box, (x, y) in placed.spots:
                assert width_of(box) >= min(22, breadth(box.label, 11))
                assert placed.left <= x <= placed.right
                assert 0 <= y <= placed.height + HEIGHT


def test_every_line_runs_downwards_between_boxes_that_are_tied() -> None:
    for column in planned("inception_v3"):
        for block in column:
            placed = layout(block)
            places = {place for _, place in placed.spots} | {(0.0, 0.0)}
            for way in placed.lines:
                assert {way[0], way[-1]} <= places
                assert all(a[1] < b[1] for a, b in itertools.pairwise(way))


def test_what_does_not_reach_an_output_is_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.used(x)

    assert [box.label for box in boxes(trace(Net(), torch.zeros(1, 3, 8, 8)))] == ["x", "3×3, 4"]


class Turns(nn.Module):
    """Two kinds of residual branch by turns, `times` over, and one more of the first."""

    def __init__(self, times: int) -> None:
        super().__init__()
        kernels = [3, 5] * times + [3]
        self.parts = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = x + part(x)
        return x


@pytest.mark.parametrize("times", [2, 6])
def test_blocks_that_come_by_turns_are_drawn_once(times: int) -> None:
    svg = ElementTree.fromstring(drawing(trace(Turns(times), torch.zeros(1, 4, 8, 8))))
    shown = words(svg)
    assert (shown.count("3×3, 4"), shown.count("5×5, 4"), shown.count("+")) == (2, 1, 3)
    assert f"×{times}" in shown


def test_blocks_that_come_once_are_all_drawn() -> None:
    shown = words(ElementTree.fromstring(drawing(trace(Turns(1), torch.zeros(1, 4, 8, 8)))))
    assert (shown.count("3×3, 4"), shown.count("5×5, 4")) == (2, 1)
    assert not any(word.startswith("×") for word in shown)


def test_a_style_can_be_asked_for() -> None:
    traced = trace(built(SPECS["lenet5"]), *example(SPECS["lenet5"]))
    assert "polygon" in drawing(traced)
    assert len(re.findall("<rect", drawing(traced, style="blocks"))) > 8


def test_a_canvas_makes_room_and_escapes() -> None:
    canvas = Canvas()
    canvas.rectangle(10, 20, 30, 40, fill="#fff", title="a < b")
    canvas.text(25, 40, "x & y", anchor="start")
    canvas.line([(0, 0), (0, 50), (60, 50)], stroke="#000", corners=5)
    root = ElementTree.fromstring(canvas.svg(margin=5))
    assert root.attrib["viewBox"].split()[:2] == ["-5", "-5"]
    assert root.find(f"{SVG}rect/{SVG}title").text == "a < b"  # type: ignore[union-attr]
    assert words(root) == ["x & y"]
