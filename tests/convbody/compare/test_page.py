"""The page, the table and the JSON tell what the comparison found."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import pytest
from html_page import Page

from convbody.compare.page import write_page
from convbody.compare.record import Place
from convbody.compare.table import as_json, grouped, part_of, text_table
from registry import ConvbodyError


@pytest.fixture
def parted(compared):
    return compared(plant=lambda side: setattr(side.model.body.layer3[1].bn2, "eps", 1e-3))


def test_the_page_shows_the_verdict_the_curves_and_every_place(parted, tmp_path):
    parted.first.label = "a <side>"
    write_page(parted, tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text()
    page = Page(source)
    assert "body.layer3.1.bn2 (output)" in page.text and "a <side>" in page.text
    assert not any({"src", "href"} & attributes.keys() - {"href"} for _, attributes in page.elements)
    assert not re.search(r"https?://(?!www\.w3\.org)", source)
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg viewBox=.0 0 1040.*?</svg>", source)]
    assert len(charts) == 3
    forward = charts[0]
    error, rounding = forward.findall("polyline")
    count = len(error.get("points").split())
    assert count == len(rounding.get("points").split())
    titles = [title.text for title in forward.iter("title")]
    assert len(titles) == 2 * count
    assert any(title.startswith("body.layer3.1.bn2 (output): error ") for title in titles)
    assert page.text.count("body.stem.conv1.weight") >= 3  # weights, gradients and the step
    assert "prefers-color-scheme: dark" in source


def test_a_page_that_cannot_be_written_is_one_line(parted, tmp_path):
    with pytest.raises(ConvbodyError, match="cannot write .*: No such file"):
        write_page(parted, tmp_path / "nowhere" / "page.html")


def test_the_table_groups_by_phase_and_part(parted):
    groups = grouped(parted.rows)
    assert [group.name for group in groups if group.phase == "forward"][:5] == [
        "body.stem", "body.layer1", "body.layer2", "body.layer3", "body.layer4",
    ]  # fmt: skip
    verdicts = {group.name: group.verdict for group in groups if group.phase == "forward"}
    assert (verdicts["body.layer2"], verdicts["body.layer3"]) == ("equal", "parts")
    assert sum(len(group.rows) for group in groups) == len(parted.rows)
    text = text_table(parted)
    assert text.splitlines()[-1].startswith("Here it is BatchNorm2d")
    assert max(map(len, text.splitlines()[: len(groups)])) < 110


def test_the_json_is_valid_and_holds_every_place(parted):
    content = json.loads(json.dumps(as_json(parted), allow_nan=False))
    assert content["same"] is False
    assert content["parting"]["name"] == "body.layer3.1.bn2"
    assert len(content["places"]) == len(parted.rows)
    assert content["parting"]["excess"] == pytest.approx(parted.parting.excess)
    assert math.isfinite(content["parting"]["error"])


@pytest.mark.parametrize(
    ("phase", "name", "part"),
    [
        ("forward", "body.stem.conv1", "body.stem"),
        ("forward", "backbone.body.layer1.0.conv1", "body.layer1"),
        ("forward", "body.layer1", "body.layer1"),
        ("gradients", "layer2.1.bn1.weight", "layer2"),
        ("gradients", "conv1.weight", "conv1"),
        ("step 1", "roi_heads.box_head.fc6.weight", "roi_heads.box_head"),
        ("step 2", "loss", "loss"),
        ("loss", "loss: feature 0", "loss"),
        ("weights", "body.stem.conv1.weight", "all"),
    ],
)
def test_a_place_belongs_to_a_part(phase, name, part):
    assert part_of(Place(phase, name)) == part
