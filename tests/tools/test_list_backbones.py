import json
import runpy
import sys
from pathlib import Path

import pytest

from backbones.listing import backbone_names
from backbones.summary import summarise
from registry import UnknownNameError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listed(monkeypatch, capsys):
    """Runs the program; gives its exit status, its output and what it wrote to stderr."""

    def run(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["list_backbones.py", *arguments])
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(ROOT / "tools" / "list_backbones.py"), run_name="__main__")
        return exit.value.code, *capsys.readouterr()

    return run


def test_without_a_pattern_every_name_and_its_place(listed):
    status, out, _ = listed()
    place = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert status == 0 and list(place) == backbone_names()
    assert place["R-50-FPN"].startswith("backbones/resnet/body.py:")
    assert place["timm/*-FPN"].startswith("backbones/timm.py:")


def test_a_pattern_is_built_and_counted(listed):
    status, out, err = listed("R-18-C?", "--json", "--size", "64", "96")
    assert (status, err) == (0, "")
    c4, c5 = json.loads(out)
    assert (c4["name"], c5["name"]) == ("R-18-C4", "R-18-C5")
    assert c5["parameters"] == 11_166_912  # ResNet-18 without its classifier and its norms
    assert [(f["channels"], f["stride"]) for f in c4["features"]] == [(256, 16)]
    head, row = listed("R-18-C5", "--size", "64", "96")[1].splitlines()
    assert head.split()[:3] == ["name", "Mparams", "GFLOPs"]
    assert row.split()[:5] == ["R-18-C5", "11.17", f"{c5['gflops']:.2f}", "32", "512"]


def test_what_cannot_be_built_is_a_line_of_its_own(listed):
    status, out, _ = listed("timm/coat_tiny", "--size", "256", "256")
    assert status == 2 and "does not take images" in out


def test_unknown_names_end_in_one_line(listed):
    status, out, err = listed("R-5O-FPN")
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and "R-50-FPN" in err and len(err.splitlines()) == 1


def test_a_size_is_positive(listed):
    status, out, err = listed("R-18-FPN", "--size", "0", "64")
    assert (status, out) == (2, "") and err == "error: --size takes two positive numbers, not 0 and 64\n"


def test_resnet_50_costs_what_is_published():
    """4.1 G multiply-adds at 224 x 224, with the stride in the 3x3 convolutions."""
    summary = summarise("R-50", (224, 224), ["MODEL.RESNETS.STRIDE_IN_1X1", False])
    assert summary.gflops == pytest.approx(4.09, abs=0.05)
    assert summary.parameters == 23_454_912


def test_deformable_taps_are_counted():
    plain = summarise("R-18", (64, 64)).gflops
    deformable = summarise("R-18", (64, 64), ["MODEL.RESNETS.STAGE_WITH_DCN", (True,) * 4]).gflops
    assert deformable > plain


def test_timm_is_one_entry_until_asked_for():
    assert "timm/*" in backbone_names()
    assert backbone_names("timm/resnet18") == ["timm/resnet18"]
    assert {"timm/resnet18", "timm/resnet18d-FPN"} <= set(backbone_names("timm/resnet18*"))
    with pytest.raises(UnknownNameError, match="Q"):
        backbone_names("Q*")
