"""A trace on disk is as good as the model; one of another program may say less."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from convbody.compare.batch import random_images
from convbody.compare.port import compare_with_trace, record_side
from convbody.compare.trace import FORMAT, read_trace, write_trace
from convbody.compare.verdict import Status
from registry import ConvbodyError


@pytest.fixture
def folder(side_of, tmp_path):
    write_trace(record_side(side_of(), random_images(2, 64, 64, 0), steps=2), tmp_path / "trace")
    return tmp_path / "trace"


def edit(folder, change):
    file = folder / "trace.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_a_model_is_its_trace_whatever_weights_it_starts_with(folder, side_of):
    side = side_of()
    with torch.no_grad():
        for parameter in side.model.parameters():
            parameter.mul_(2)
    comparison = compare_with_trace(side, read_trace(folder))
    assert comparison.parting is None
    assert comparison.first.steps == 2
    assert {row.status for row in comparison.rows} <= {Status.EXACT, Status.NOISE}
    parting = compare_with_trace(side_of({"SOLVER.MOMENTUM": 0.8}), read_trace(folder)).parting
    assert parting.place.phase == "step 2"


def test_a_trace_of_another_program_may_hold_less(folder, side_of):
    """No float64 reference, no descriptions, a few places only."""

    def strip(content):
        keep = ("weights", "forward")
        places = [place for place in content["places"] if place["phase"] in keep]
        for place in places:
            del place["rounding"], place["dtype"]
        content.update(places=places)
        del content["modules"], content["optimizer"], content["facts"], content["label"]

    edit(folder, strip)
    comparison = compare_with_trace(side_of(), read_trace(folder))
    assert comparison.parting is None
    assert {row.place.phase for row in comparison.rows} == {"weights", "forward"}


def test_the_batch_is_that_of_the_trace(folder, side_of):
    trace = read_trace(folder)
    assert torch.equal(trace.batch["images"], random_images(2, 64, 64, 0)["images"])
    trace.batch = random_images(1, 96, 64, 0)
    parting = compare_with_trace(side_of(), trace).parting
    assert parting.status is Status.SHAPE
    assert parting.detail == "shape (1, 3, 96, 64) here, (2, 3, 64, 64) there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="2"), f"not of the format '{FORMAT}'"),
        (lambda content: content.update(loss="hinge"), '"loss" has to be one of projection'),
        (lambda content: content["places"][0].pop("name"), "lacks 'name'"),
        (lambda content: content["places"][0].update(tensor="nowhere"), "lacks 'nowhere'"),
        (lambda content: content["places"][0].update(shape=[7]), r"has shape \(7,\); its tensor has \(16, 3"),
    ],
)
def test_what_a_trace_gets_wrong_is_named(change, message, folder):
    edit(folder, change)
    with pytest.raises(ConvbodyError, match=message) as caught:
        read_trace(folder)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(folder, tmp_path):
    with pytest.raises(ConvbodyError, match=r"no trace in .*nowhere: there is no trace\.json"):
        read_trace(tmp_path / "nowhere")
    tensors = load_file(folder / "tensors.safetensors")
    del tensors["batch/images"]
    save_file(tensors, folder / "tensors.safetensors")
    with pytest.raises(ConvbodyError, match="no tensor batch/images"):
        read_trace(folder)
    (folder / "tensors.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConvbodyError, match="cannot be read"):
        read_trace(folder)


def test_a_loss_of_another_kind_is_an_error(folder, side_of):
    trace = read_trace(folder)
    trace.loss = "cross entropy"
    with pytest.raises(ConvbodyError, match="'projection' here and 'cross entropy' in the trace"):
        compare_with_trace(side_of(), trace)
