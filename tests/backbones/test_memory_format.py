"""channels_last from the image to the last feature, in every family, and the same numbers."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import build_backbone
from backbones.memory_format import arranged
from registry import BACKBONES, ConfigError, load_cfg

KEY = "MODEL.MEMORY_FORMAT"
NARROW = ("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32)
FAMILIES = {
    "R-18-FPN": (),
    "R-50-FPN": (
        *("MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True), "MODEL.FPN.USE_GN", True),
        *("MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    ),
    "R-20-CIFAR-FPN": (),
    "TResNet-M-FPN": (),
    "FBNet-fbnet_c-FPN": (),
    "FBNet": (),
    "timm/resnet18-FPN-RETINANET": ("MODEL.RETINANET.USE_C5", False),
    "timm/tf_efficientnet_lite0-C5": (),
}
SLOW = {"TResNet-M-FPN", "timm/resnet18-FPN-RETINANET", "timm/tf_efficientnet_lite0-C5"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FAMILIES]
VIEWS = {"aten::view", "aten::_unsafe_view", "aten::permute", "aten::expand"}


class Outputs(TorchDispatchMode):
    """Notes every operator that gives maps of the batch in another order than pixel by pixel."""

    def __init__(self, count):
        super().__init__()
        self.count, self.seen, self.others = count, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        for out in result if isinstance(result, tuple | list) else [result]:
            if isinstance(out, torch.Tensor) and out.ndim == 4 and len(out) == self.count:
                self.seen += 1
                in_order = out.stride(1) == 1 or out.shape[1] == 1
                if not in_order and name not in VIEWS:
                    self.others.append((name, tuple(out.shape), out.stride()))
        return result


def build(name, word, *opts):
    torch.manual_seed(0)
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *NARROW, *opts, KEY, word]))


@pytest.mark.parametrize("name", NAMES)
def test_every_family_keeps_channels_last_and_gives_the_numbers_of_contiguous(name):
    one, other = (build(name, word, *FAMILIES[name]).eval() for word in ("contiguous", "channels_last"))
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)
        assert other.state_dict()[key].stride() == value.stride()
    images = torch.rand(2, 3, 72, 104)
    with torch.no_grad(), Outputs(len(images)) as outputs:
        features = other(images)
    assert outputs.seen > 20 and not outputs.others
    with torch.no_grad():
        for wanted, feature in zip(one(images), features, strict=True):
            assert feature.stride(1) == 1
            torch.testing.assert_close(feature, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["R-18-FPN", "TResNet-M-FPN", "FBNet"])
def test_training_keeps_channels_last(name):
    model, images = build(name, "channels_last").train(), torch.rand(2, 3, 72, 104)
    with Outputs(len(images)) as outputs:
        model(images)
    assert outputs.seen > 20 and not outputs.others


def test_gradients_are_those_of_contiguous():
    gradients = []
    for word in ("contiguous", "channels_last"):
        model = build("R-18-FPN", word)
        features = model(torch.linspace(0, 1, 3 * 64 * 96).view(1, 3, 64, 96))
        torch.stack([feature.square().mean() for feature in features]).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for wanted, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_auto_on_the_cpu_is_channels_last_for_quick_networks_in_float32():
    images = torch.rand(1, 3, 64, 64)
    last = images.to(memory_format=torch.channels_last)
    assert arranged(images, "auto") is images and arranged(last, "auto") is last
    assert arranged(last, "contiguous").is_contiguous()
    assert arranged(images, "auto", quick=True).stride(1) == 1
    assert arranged(images, "contiguous", quick=True) is images
    assert arranged(images.double(), "auto", quick=True).stride(1) != 1
    with torch.autocast("cpu", torch.bfloat16):
        assert arranged(images, "auto", quick=True) is images


@pytest.mark.gpu
def test_auto_on_a_gpu_is_channels_last_in_half_precision():
    images = torch.rand(1, 3, 64, 64, device="cuda")
    assert arranged(images, "auto") is images
    assert arranged(images.bfloat16(), "auto").stride(1) == 1
    with torch.autocast("cuda", torch.float16):
        assert arranged(images, "auto").stride(1) == 1


def test_an_unknown_word_is_an_error_that_names_the_words():
    with pytest.raises(ConfigError, match=r"use auto, contiguous or channels_last.*MODEL\.MEMORY_FORMAT"):
        build("R-18", "nhwc")


def test_a_network_registered_whole_has_its_own(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("Plain", lambda cfg: nn.Conv2d(3, 4, 1))
    build("Plain", "auto")
    with pytest.raises(ConfigError, match=r"Plain is registered whole.*set auto.*MODEL\.MEMORY_FORMAT"):
        build("Plain", "channels_last")
