"""The program's work: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convbody.compare.run import Request, run
from registry import ConvbodyError, load_cfg

RECIPE = Path(__file__).resolve().parents[3] / "configs" / "classification" / "imagenet_R_50.yaml"
NARROW = {
    "MODEL.BACKBONE.CONV_BODY": "R-18",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
}


@pytest.fixture
def cfg():
    return load_cfg(None, [part for pair in NARROW.items() for part in pair])


def test_a_model_is_recorded_and_is_its_trace(cfg, tmp_path, capsys):
    trace, written = tmp_path / "trace", tmp_path / "same.json"
    assert run(cfg, Request("config:", record=trace)) == 0
    assert f"places of the defaults recorded in {trace}" in capsys.readouterr().out
    assert json.loads((trace / "trace.json").read_text())["facts"]["versions"]["torch"]
    assert run(cfg, Request("config:", against=f"trace:{trace}", json=written)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("The same within rounding")
    assert json.loads(written.read_text())["same"] is True


CLASSIFIER = {
    "MODEL.BACKBONE.CONV_BODY": "R-18",
    "MODEL.RESNETS.TRANS_FUNC": "BasicBlockWithBatchNorm",
}


@pytest.mark.parametrize(
    ("model", "changes"),
    [("resnet18", CLASSIFIER), pytest.param("resnet50", {}, marks=pytest.mark.slow)],
)
def test_a_step_of_the_recipe_is_that_of_torchvision(model, changes, capsys, tmp_path):
    """Smoothed labels, no decay of norms and biases: weights, layers, loss, gradients and update."""
    cfg = load_cfg(RECIPE, [part for pair in changes.items() for part in pair])
    request = Request("config:", f"torchvision:{model}", part="classifier", json=tmp_path / "out.json")
    assert run(cfg, request) == 0
    printed = capsys.readouterr().out
    assert all(phase in printed for phase in ("weights", "forward", "loss", "gradients", "step 1"))
    request = Request(
        "config:", f"torchvision:{model}", ("SOLVER.WEIGHT_DECAY_NORM", "0.1"), part="classifier"
    )
    if model == "resnet18":
        assert run(cfg, request) == 1
        assert "step 1" in capsys.readouterr().out.rpartition("They part")[2]


def test_targets_of_other_classes_are_one_line(tmp_path):
    opts = [part for pair in CLASSIFIER.items() for part in pair]
    cfg = load_cfg(RECIPE, [*opts, "MODEL.CLASSIFIER.NUM_CLASSES", 10])
    with pytest.raises(ConvbodyError, match="differ in shape"):
        run(cfg, Request("config:", "torchvision:resnet18", part="classifier"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("config:", against="trace:nowhere"), "no trace in nowhere"),
        (Request("config:", against="config:", steps=0), "--steps is 0"),
        (Request("config:", against="timm:resnet18", size=(0, 64)), "0x64 pixels is none"),
        (Request("config:", against="timm:convnext_atto"), "no tensor of one side is known on the other"),
    ],
)
def test_a_mistake_is_one_line(request_, message, cfg):
    with pytest.raises(ConvbodyError, match=message) as caught:
        run(cfg, request_)
    assert "\n" not in str(caught.value)
