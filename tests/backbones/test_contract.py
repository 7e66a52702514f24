"""Every name keeps the contract, and a backbone that breaks a clause is told which."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones import Backbone, FeatureInfo, assert_backbone_contract
from backbones.listing import backbone_names
from registry import BACKBONES, BODIES

ROOT = Path(__file__).resolve().parents[2]
NARROW = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32)
FAST = ("R-18-C4", "R-18-FPN-RETINANET")
# Every body under one neck, and every neck on one body: a neck sees of a body what its features say.
NAMES = [n for n in backbone_names() if "*" not in n and (n.endswith("-FPN") or n.startswith("R-18-"))]
TIMM = [f"timm/resnet18{neck}" for neck in ("", "-C4", "-C5", "-FPN", "-FPN-RETINANET")]
OTHER_TIMM = ["timm/tf_efficientnet_lite0-FPN", "timm/hrnet_w18_small-FPN", "timm/vit_tiny_patch16_224-C5"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NAMES]
)
def test_each_body_and_each_neck(name):
    pyramid_strides = ("MODEL.CIFAR_RESNETS.STEM_STRIDE", 4)
    assert_backbone_contract(name, opts=[*NARROW, *pyramid_strides], data_parallel=False)


@pytest.mark.parametrize("norm", ["GN", "BatchNorm", "SyncBN"])
@pytest.mark.slow
def test_resnets_with_other_norms(norm):
    funcs = (f"StemWith{norm}", f"BottleneckWith{norm}")
    keys = ("MODEL.RESNETS.STEM_FUNC", "MODEL.RESNETS.TRANS_FUNC")
    opts = [word for pair in zip(keys, funcs, strict=True) for word in pair]
    assert_backbone_contract("R-18-FPN", opts=[*NARROW, *opts], data_parallel=norm != "GN")


@pytest.mark.slow
def test_deformable_resnets():
    dcn = ("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.RESNETS.DEFORMABLE_GROUPS", 2)
    assert_backbone_contract("R-50-FPN", opts=[*NARROW, *dcn, "MODEL.RESNETS.WITH_MODULATED_DCN", True])


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n.endswith("-C4") else pytest.mark.slow) for n in TIMM + OTHER_TIMM],
)
def test_timm(name):
    assert_backbone_contract(name, opts=NARROW, data_parallel=False)


@pytest.mark.parametrize("name", ["R-18-FPN", pytest.param("timm/resnet18-C4", marks=pytest.mark.slow)])
def test_two_processes(name):
    assert_backbone_contract(name, opts=NARROW)


class Good(Backbone):
    """Keeps every clause; the cases below break one each."""

    def __init__(self, cfg):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4))
        self.layer1 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.feature_info = (FeatureInfo("layer1", 8, 4),)

    def forward(self, x):
        return [self.layer1(self.stem(x))]


class WrongChannels(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.feature_info = (FeatureInfo("layer1", 9, 4),)


class WrongStride(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.feature_info = (FeatureInfo("layer1", 8, 8),)


class EvenOnly(Good):
    def forward(self, x):
        return super().forward(x.unflatten(-1, (-1, 4)).flatten(-2))


class NoEmptyBatch(Good):
    def forward(self, x):
        return super().forward(torch.stack(list(x)))


class HiddenState(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.scale = torch.rand(())

    def forward(self, x):
        return [feature * self.scale for feature in super().forward(x)]


class Random(Good):
    calls = 0

    def __init__(self, cfg):
        super().__init__(cfg)
        type(self).calls += 1
        self.layer1.weight.data += self.calls


class Unused(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.extra = nn.Conv2d(8, 8, 1)


class MovingStatistics(Good):
    def forward(self, x):
        self.stem[1].train(self.training)
        return super().forward(x)


class StatisticsOutsideTheStages(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.first = nn.BatchNorm2d(3, affine=False)

    def forward(self, x):
        return super().forward(self.first(x))

    def stages(self):
        return [(name, module) for name, module in super().stages() if name != "first"]


class FeatureOfNoStage(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.feature_info = (FeatureInfo("block.0", 8, 4),)


class NoFeatureInfo(Good):
    def __init__(self, cfg):
        super().__init__(cfg)
        del self.feature_info


class Divergent(Good):
    """Its parameters are changed locally, which no gradient reduction knows of."""

    def forward(self, x):
        if self.training and torch.distributed.is_initialized():
            with torch.no_grad():
                self.layer1.bias += torch.distributed.get_rank()
        return super().forward(x)


BODIES.register("Divergent", Divergent)  # here, because the child processes import this file


def check(monkeypatch, kind, **options):
    monkeypatch.setattr(BODIES, "_entries", dict(BODIES._entries))
    BODIES.register("Case", kind)
    assert_backbone_contract("Case", **options)


def test_a_good_backbone_passes(monkeypatch):
    check(monkeypatch, Good, data_parallel=False)


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (WrongChannels, "feature info.*channels=9"),
        (WrongStride, "feature info.*stride=8"),
        (EvenOnly, "any image size.*75, 101"),
        (NoEmptyBatch, "a batch of none"),
        (HiddenState, "state dict round trip"),
        (Random, "deterministic rebuild.*layer1.weight"),
        (Unused, "every trainable parameter.*extra.weight"),
        (MovingStatistics, "freeze.*running_mean"),
        (StatisticsOutsideTheStages, "freeze.*first.running_mean"),
        (FeatureOfNoStage, r"stages.*block\.0.*named after no stage"),
        (NoFeatureInfo, "builds.*feature_info"),
    ],
)
def test_a_broken_clause_is_named(monkeypatch, kind, clause):
    with pytest.raises(AssertionError, match=rf"Case.*{clause}"):
        check(monkeypatch, kind, data_parallel=False)


OWN = """
from torch import nn
from backbones import Backbone, FeatureInfo, assert_backbone_contract
from registry import BODIES

@BODIES.register("Own")
class Own(Backbone):
    feature_info = (FeatureInfo("only", 4, 2),)
    def __init__(self, cfg):
        super().__init__()
        self.only = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    def forward(self, x):
        return [self.only(x)]
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "stdin"])
@pytest.mark.parametrize("name", ["R-18-C4", "Own"])
def test_a_script_without_a_main_guard_and_a_repl(tmp_path, way, name):
    code = f"{OWN if name == 'Own' else 'from backbones import assert_backbone_contract'}"
    code += f"\nassert_backbone_contract({name!r})\nprint('checked')\n"
    (tmp_path / "own.py").write_text(code)
    command = [sys.executable, "own.py"] if way == "script" else [sys.executable]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, input=code, capture_output=True, text=True, cwd=tmp_path, env=env)
    if name == "Own" and way == "stdin":
        assert "ConvbodyError: Own is defined in" in done.stderr and "data_parallel=False" in done.stderr
    else:
        assert done.stdout.strip() == "checked", done.stderr


@pytest.mark.slow
def test_processes_that_drift_apart_are_found():
    with pytest.raises(AssertionError, match=r"data-parallel.*layer1.bias"):
        assert_backbone_contract("Divergent")


def test_a_whole_name_without_stages_passes_when_nothing_is_frozen(monkeypatch):
    class Plain(nn.Conv2d):
        feature_info = (FeatureInfo("only", 4, 2),)

        def __init__(self, cfg):
            super().__init__(3, 4, 3, stride=2, padding=1)

        def forward(self, x):
            return [super().forward(x)]

    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("Plain", Plain)
    assert_backbone_contract("Plain", data_parallel=False)
