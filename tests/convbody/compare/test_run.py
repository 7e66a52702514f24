"""The program's work: what it prints, writes and returns."""

from __future__ import annotations

import json

import pytest

from convbody.compare.run import Request, run
from registry import ConvbodyError, load_cfg

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
