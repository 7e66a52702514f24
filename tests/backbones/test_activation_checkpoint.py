"""Recomputed stages: the same gradients, statistics and names, in less memory."""

import copy

import pytest
import torch
from torch import nn

from backbones import build_backbone
from registry import BACKBONES, ConfigError, load_cfg

BATCH_NORM = (
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    32,
    "MODEL.RESNETS.STEM_FUNC",
    "StemWithBatchNorm",
    "MODEL.RESNETS.TRANS_FUNC",
    "BottleneckWithBatchNorm",
)
BODIES = [
    "R-18-FPN",
    "timm/resnet18-FPN",
    "timm/vit_tiny_patch16_224",
    pytest.param("timm/hrnet_w18_small", marks=pytest.mark.slow),  # its modules replace what is in their list
    pytest.param("timm/densenet121", marks=pytest.mark.slow),  # its blocks are module dicts
    pytest.param("TResNet-M", marks=pytest.mark.slow),  # its norms overwrite their input
]


def build(name, stages=(), frozen=0, dropout=0.0):
    torch.manual_seed(0)
    options = ["MODEL.BACKBONE.CONV_BODY", name, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", frozen, *BATCH_NORM]
    model = build_backbone(load_cfg(None, [*options, "MODEL.BACKBONE.CHECKPOINT_STAGES", tuple(stages)]))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model.train()


def backward(model, called=None):
    """Bytes that a forward pass keeps for the backward pass, which is then done."""
    torch.manual_seed(1)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = (called or model)(torch.rand(2, 3, 64, 64))
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    return sum(kept.values())


def assert_same(model, reference):
    """Names, gradients, parameters and buffers, to the last bit."""
    assert list(model.state_dict()) == list(reference.state_dict())
    for key, value in reference.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    gradients = {key: p.grad for key, p in model.named_parameters()}
    for key, parameter in reference.named_parameters():
        assert (gradients[key] is None) == (parameter.grad is None), key
        assert parameter.grad is None or torch.equal(gradients[key], parameter.grad), key


@pytest.mark.parametrize("name", BODIES)
def test_gradients_and_statistics_are_those_without(name):
    recomputed, reference = build(name, ["all"], dropout=0.2), build(name, dropout=0.2)
    for _ in range(2):
        assert backward(recomputed) < 0.8 * backward(reference)
        assert_same(recomputed, reference)


def test_only_the_named_stages():
    some, none = build("R-18", ["layer1"]), build("R-18")
    every = build("R-18", ["all"])
    assert backward(every) < backward(some) < backward(none)


def test_a_copy_recomputes_itself():
    """As an average of weights does, which is a copy that goes its own way."""
    original = build("R-18", ["all"])
    copied = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.zero_()
    reference = build("R-18")
    backward(copied)
    backward(reference)
    assert_same(copied, reference)


def test_frozen_stages_are_left_as_they_are():
    """Of those nothing is kept, and their statistics stand still."""
    recomputed, reference = build("R-18-FPN", ["stem", "layer1", "layer2"], 2), build("R-18-FPN", frozen=2)
    assert backward(recomputed) < backward(reference)
    assert_same(recomputed, reference)
    assert "forward" not in vars(recomputed.body.layer1[0]) and "forward" in vars(recomputed.body.layer2[0])


def test_evaluation_is_as_without():
    recomputed, reference = build("R-18", ["all"]).eval(), build("R-18").eval()
    with torch.no_grad():
        for ours, theirs in zip(
            recomputed(torch.ones(1, 3, 32, 32)), reference(torch.ones(1, 3, 32, 32)), strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_compiled_without_a_graph_break():
    recomputed, reference = build("R-18", ["all"]), build("R-18")
    compiled = torch.compile(recomputed, backend="aot_eager", fullgraph=True)
    backward(recomputed, lambda images: compiled(images))
    backward(reference)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(recomputed.state_dict()[key], value)
    gradients = dict(recomputed.named_parameters())
    for key, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-4)


def test_an_unknown_stage_is_an_error_that_names_the_stages():
    with pytest.raises(ConfigError, match="no stage 'layer9'; use stem, layer1, .*all.*CHECKPOINT_STAGES"):
        build("R-18", ["layer9"])


def test_a_network_without_stages_is_an_error(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("Plain", lambda cfg: nn.Conv2d(3, 4, 1))
    with pytest.raises(ConfigError, match=r"Plain has no stages.*CHECKPOINT_STAGES"):
        build("Plain", ["all"])
