"""What is not kept is made again: the same gradients, to the last bit, from fewer bytes."""

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from backbones import build_backbone
from backbones.layers.recompute import not_kept
from backbones.resnet.transformations import Bottleneck
from benchmarks.measure import saved_for_backward
from registry import ConfigError, load_cfg


def build(recompute, *options, name="R-50-FPN", frozen=2):
    torch.manual_seed(0)
    cfg = load_cfg(
        None,
        [
            *("MODEL.BACKBONE.CONV_BODY", name, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", frozen),
            *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 256, "MODEL.RECOMPUTE", recompute, *options),
        ],
    )
    return build_backbone(cfg).train()


def small(recompute, *options, **arguments):
    """A ResNet-50 with few channels."""
    widths = (
        "STEM_OUT_CHANNELS",
        8,
        "RES2_OUT_CHANNELS",
        16,
        "WIDTH_PER_GROUP",
        4,
        "BACKBONE_OUT_CHANNELS",
        8,
    )
    pairs = zip(widths[::2], widths[1::2], strict=True)
    given = [each for key, value in pairs for each in (f"MODEL.RESNETS.{key}", value)]
    return build(recompute, *given, "MODEL.GROUP_NORM.NUM_GROUPS", 2, *options, **arguments)


def gradients(model, images, *, around=nullcontext, dtype=None):
    """Of each parameter, by name, after one forward and backward pass, and the features."""
    model.zero_grad()
    with around(), torch.autocast("cpu", torch.bfloat16) if dtype else nullcontext():
        features = model(images)
    torch.stack([feature.float().square().mean() for feature in features]).sum().backward()
    named = model.named_parameters()
    grads = {name.removeprefix("model."): p.grad.clone() for name, p in named if p.grad is not None}
    return grads, features


def assert_same(ours, theirs):
    (grads, features), (wanted, wanted_features) = ours, theirs
    assert grads.keys() == wanted.keys()
    assert all(torch.equal(grads[name], wanted[name]) for name in wanted)
    assert all(torch.equal(*each) for each in zip(features, wanted_features, strict=True))


def images(height=64, width=96, **options):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1), **options)


def kept(model, height, width):
    """Bytes that a forward pass keeps."""
    with saved_for_backward(model) as saved:
        features = model(images(height, width))
    del features
    return saved.distinct


def test_bytes():
    assert kept(small("cheap"), 128, 128) < 0.8 * kept(small("none"), 128, 128)


@pytest.mark.slow
def test_the_share_of_what_torchvision_keeps():
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    theirs = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    ours = build("cheap", "MODEL.RESNETS.STRIDE_IN_1X1", False)
    assert kept(ours, 128, 128) <= 0.75 * kept(theirs, 128, 128)


OPTIONS = {
    "plain": (),
    "channels_last": ("MODEL.MEMORY_FORMAT", "channels_last"),
    "deformable": ("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)),
    "batch norm": ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithBatchNorm"),
    "group norm in the neck": ("MODEL.FPN.USE_GN", True),
    "ReLU in the neck": ("MODEL.FPN.USE_RELU", True),
    "checkpointed": ("MODEL.BACKBONE.CHECKPOINT_STAGES", ("layer2", "layer4")),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_are_those_without(options, dtype):
    recomputed, reference = small("cheap", *options), small("none", *options)
    assert list(recomputed.state_dict()) == list(reference.state_dict())
    assert_same(gradients(recomputed, images(), dtype=dtype), gradients(reference, images(), dtype=dtype))
    for name, buffer in reference.named_buffers():  # statistics move once
        assert torch.equal(recomputed.get_buffer(name), buffer)


@settings(deadline=None, max_examples=5)
@given(height=st.integers(32, 80), width=st.integers(32, 80), frozen=st.integers(0, 5))
def test_at_any_size_and_however_much_is_frozen(height, width, frozen):
    recomputed, reference = (small(word, frozen=frozen) for word in ("cheap", "none"))
    assert_same(*(gradients(model, images(height, width)) for model in (recomputed, reference)))


@pytest.mark.parametrize("name", ["R-50-FPN-RETINANET", "R-50-PAFPN", "R-50"])
def test_other_necks(name):
    assert_same(*(gradients(small(word, name=name), images()) for word in ("cheap", "none")))


@pytest.fixture
def convolutions(monkeypatch):
    """Weights of the convolutions that ran."""
    ran, conv2d = [], torch.nn.functional.conv2d

    def counted(x, weight, *args):
        ran.append(weight)
        return conv2d(x, weight, *args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", counted)
    return ran


def test_the_backward_pass_runs_each_cheap_convolution_once(convolutions):
    loss = sum(feature.sum() for feature in small("cheap")(images()))
    convolutions.clear()
    loss.backward()
    blocks, laterals = 4 + 6 + 3, 4  # of the stages that learn
    assert len(convolutions) == blocks + laterals
    assert all(weight.shape[-1] == 1 for weight in convolutions)


def test_a_checkpointed_block_runs_once_more_and_no_more(convolutions):
    counts = []
    for word in ("cheap", "none"):
        model = small(word, "MODEL.BACKBONE.CHECKPOINT_STAGES", ("all",), name="R-50")
        loss = sum(feature.sum() for feature in model(images()))
        convolutions.clear()
        loss.backward()
        counts.append(len(convolutions))
    assert counts[0] == counts[1] > 0


class Checkpointed(nn.Module):
    """A whole model that a user checkpoints."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return checkpoint(self.model, x, use_reentrant=False)


def test_inside_checkpoint_and_beside_offloading():
    reference = gradients(small("none"), images())
    model = small("cheap")
    assert_same(gradients(model, images(), around=torch.autograd.graph.save_on_cpu), reference)
    assert_same(gradients(Checkpointed(model), images()), reference)


def test_a_graph_that_is_kept_gives_the_same_twice():
    model = small("cheap")
    loss = sum(feature.square().mean() for feature in model(images()))
    learning = [p for p in model.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss, learning, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, learning)))


def bottleneck(recompute):
    torch.manual_seed(0)
    return Bottleneck(8, 4, 8, recompute=recompute).double().train()


def test_second_derivatives():
    x = torch.rand(1, 8, 5, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for recompute in (True, False):
        block = bottleneck(recompute).requires_grad_(False)
        (slope,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), x)[0])
    assert torch.equal(*results)


def test_hooks_see_one_run():
    model, seen = small("cheap"), []
    for name in ("body.layer2.0.conv1", "body.layer3.0.bn1", "fpn.fpn_inner2"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    assert_same(gradients(model, images()), gradients(small("none"), images()))
    assert seen == ["body.layer2.0.conv1", "body.layer3.0.bn1", "fpn.fpn_inner2"]


def test_without_autograd_and_in_evaluation():
    model = small("cheap").eval()
    with torch.no_grad():
        features = model(images())
    assert_same(gradients(model, images()), gradients(small("none").eval(), images()))
    assert all(torch.equal(*each) for each in zip(features, model(images()), strict=True))


def test_memory_goes_with_the_graph():
    block, x = bottleneck(True), torch.rand(1, 8, 5, 5, dtype=torch.float64)
    gc.disable()
    try:
        y = x * 1
        loss = block(y).sum()
        kept = weakref.ref(y)
        del y
        assert kept() is not None
        loss.backward()
        del loss
        assert kept() is None
    finally:
        gc.enable()


def test_an_input_that_was_changed_is_an_error():
    x = torch.rand(2, requires_grad=True)
    y = x * 2
    z = y.exp()
    with not_kept([z], lambda y: [y.exp()], y):
        loss = z.square().sum()
    y.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_compiled_in_one_graph_and_exported():
    block, x = bottleneck(True), torch.rand(2, 8, 5, 5, dtype=torch.float64)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    exported = torch.export.export(block, (x,)).module()
    results = []
    for call in (compiled, block):
        loss = call(x).square().sum()
        results.append(torch.autograd.grad(loss, [block.conv1.weight, block.conv2.weight]))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(exported(x), block(x))


def test_an_unknown_word_is_an_error():
    with pytest.raises(ConfigError, match="use cheap or none.*MODEL.RECOMPUTE"):
        small("all")
