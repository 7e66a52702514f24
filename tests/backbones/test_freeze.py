import pytest
import torch
from torch import nn

from backbones import build_backbone
from backbones.freeze import freeze
from registry import ConfigError, load_cfg

BATCH_NORM = (
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    32,
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)


def build(name, at, *opts):
    options = ["MODEL.BACKBONE.CONV_BODY", name, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", at, *opts]
    return build_backbone(load_cfg(None, options))


def parts_that_learn(backbone):
    return {name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("at", [-1, 0, 1, 2, 5])
@pytest.mark.parametrize("name", ["R-18-FPN", "timm/resnet18-FPN"])
def test_the_first_stages_are_frozen_and_never_the_neck(name, at):
    backbone = build(name, at, *BATCH_NORM)
    stages = backbone.stages()
    for index, (_, modules) in enumerate(stages):
        learns = {p.requires_grad for module in modules for p in module.parameters()}
        assert learns == {index >= at}
    assert all(p.requires_grad for p in backbone.fpn.parameters())


def test_published_default_of_resnets_is_two():
    backbone = build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-18-C4"]))
    assert parts_that_learn(backbone) == {"layer2", "layer3"}


@pytest.mark.parametrize(("name", "at"), [("R-18-FPN", 6), ("R-50-C4", 5), ("timm/resnet18", 6)])
def test_beyond_the_last_stage_is_an_error(name, at):
    with pytest.raises(ConfigError, match=f"FREEZE_CONV_BODY_AT = {at}, set on the command line"):
        build(name, at, *BATCH_NORM)


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("name", ["R-18-FPN", "timm/resnet18-FPN"])
def test_frozen_statistics_stand_still_in_training(name):
    backbone = build(name, 2, *BATCH_NORM)
    model = Wrapper(backbone).eval().train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    model(torch.rand(2, 3, 64, 64))
    moved = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    frozen = {id(b) for _, modules in backbone.stages()[:2] for m in modules for b in m.buffers()}
    expected = {k for k, b in backbone.named_buffers() if id(b) not in frozen and "running" in k}
    assert {k for k in moved if "running" in k} == expected != set()


def test_a_body_put_to_training_on_its_own_stays_frozen():
    backbone = build("R-18-FPN", 2, *BATCH_NORM)
    body = backbone.eval().body.train()
    assert body.layer2.training and not body.stem.training and not body.layer1[0].bn1.training


def test_frozen_stages_keep_nothing_for_backward():
    backbone = build("R-18-FPN", 5, *BATCH_NORM).train()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        features = backbone.body(torch.rand(2, 3, 64, 64))
    assert kept == [] and not any(f.requires_grad for f in features)


def test_freezing_less_lets_the_statistics_move_again():
    backbone = build("R-18", 2, *BATCH_NORM)
    freeze(backbone, 0)
    assert backbone.train().body.stem.training
