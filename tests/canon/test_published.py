"""The short form of a published error: which figure is taken, and which are never shown."""

from typing import Any

import pytest

from cnnkit import canon
from cnnkit.canon.published import REMEMBERED, error


@pytest.mark.parametrize(
    ("published", "told"),
    [
        (
            dict(top1_err=24.7, top5_err=7.8, top1_err_10crop=22.9, protocol="1 crop"),
            "24.7 / 7.8 (1 crop)",
        ),
        (dict(top1_acc=77.1, torchvision_top1_acc=77.7), "22.9"),
        (dict(top1_err_10crop=22.85, top5_err_10crop=6.71), "22.85 / 6.71 (10crop)"),
        (dict(test_err="only plotted", test_err_zca=4.5), "4.5 (zca)"),
        (dict(svhn_err=1.75), "1.75"),
        (dict(torchvision_top1_acc=75.0, protocol="of the paper"), "25 (torchvision)"),
        (dict(top1_err="unknown", top5_err=3.0), "None"),
        (dict(top1_err_5nets=15.0, ensemble_top1_err=3.0, const_depth_top1_err=2.0), "None"),
        ({}, "None"),
    ],
)
def test_the_papers_plain_figure_is_taken(published: dict[str, Any], told: str) -> None:
    assert str(error(published)) == told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("paper (from memory)", "31 (caffe; a model card)"),
        ("readme; top-5 (from memory)", "21"),
        ("readme; single crop (from memory)", "19.5 (12crops)"),
        ("readme; ensemble (from memory)", "21 / 5.6"),
        ("readme, something else (from memory for one)", "31 (caffe; a model card)"),
        ("readme", "21 / 5.6"),
    ],
)
def test_a_figure_from_memory_is_not_shown(source: str, told: str) -> None:
    published = dict(top1_err=21.0, top5_err=5.6, top1_err_12crops=19.5, caffe_top1_err=31.0)
    assert str(error({**published, "source": source, "caffe_source": "a model card"})) == told


def test_every_clause_that_spares_a_figure_stands_in_the_canon() -> None:
    sources = [str(e.published.get("source")) for f in canon.families() for e in canon.entries(f)]
    for subject in REMEMBERED:
        assert any(f"{subject} (from memory" in source for source in sources), subject
