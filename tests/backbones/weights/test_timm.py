"""timm's and torchvision's classifiers: their weights in our ResNets, ours in theirs, the same features."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from backbones import build_backbone
from backbones.weights import load_weights
from backbones.weights.write import convert
from registry import ConfigError, ConvbodyError, load_cfg

BN = ["MODEL.RESNETS.STEM_FUNC", "StemWithBatchNorm", "MODEL.RESNETS.TRANS_FUNC", "BottleneckWithBatchNorm"]
RESNEXT = ["MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP"]

#: Name there -> name of the body here, and what it takes.
BODIES = {
    "resnet18": ("R-18", []),
    "resnet34": ("R-34", []),
    "resnet50": ("R-50", []),
    "resnet101": ("R-101", []),
    "resnet152": ("R-152", []),
    "resnext50_32x4d": ("R-50", [*RESNEXT, 4]),
    "resnext101_32x8d": ("R-101", [*RESNEXT, 8]),
    "wide_resnet50_2": ("R-50", ["MODEL.RESNETS.WIDTH_PER_GROUP", 128]),
}
FAST = ("resnet18", "resnext50_32x4d")
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in BODIES]


def ours(name):
    body, options = BODIES[name]
    options = [*BN, "MODEL.RESNETS.STRIDE_IN_1X1", False, *options]
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", body, *options])).eval()


def filled(model):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.copy_(noise.abs() * 0.2 + 0.5)
        elif tensor.dim() == 4:
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(0.1 * noise)
    return model.eval()


def torchvisions_features(model, image):
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    features = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        features.append(x)
    return features


def close(found, expected):
    assert len(found) == len(expected) == 4
    for ours_, theirs in zip(found, expected, strict=True):
        assert (ours_ - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_features_come_out_and_its_weights_go_back(tmp_path, name):
    theirs, body = filled(models.get_model(name, weights=None)), ours(name)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    report = load_weights(body, tmp_path / "model.pth")
    assert (report.lineage, report.missing, report.wrong_shape) == ("torchvision", (), ())
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = torchvisions_features(theirs, image)
        close(body(image), expected)
        other = models.get_model(name, weights=None).eval()
        other.fc = nn.Identity()
        other.load_state_dict(convert(body.state_dict(), "torchvision").state, strict=True)
        close(torchvisions_features(other, image), expected)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", pytest.param("resnext50_32x4d", marks=pytest.mark.slow)]
)
def test_timms_features_come_out_and_its_weights_go_back(tmp_path, name):
    theirs, body = filled(timm.create_model(name)), ours(name)
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    report = load_weights(body, tmp_path / "model.pth")
    assert (report.missing, set(report.unexpected)) == ((), {"fc.weight", "fc.bias"})
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True)[1:]
        close(body(image), expected)
        other = timm.create_model(name, num_classes=0).eval()
        other.load_state_dict(convert(body.state_dict(), "timm").state, strict=True)
        close(other.forward_intermediates(image, intermediates_only=True)[1:], expected)


def test_a_group_norm_resnet_of_timm(tmp_path):
    theirs = filled(timm.create_model("resnet50_gn"))
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    gn = ["MODEL.RESNETS.STEM_FUNC", "StemWithGN", "MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN"]
    options = ["MODEL.BACKBONE.CONV_BODY", "R-50", *gn, "MODEL.RESNETS.STRIDE_IN_1X1", False]
    body = build_backbone(load_cfg(None, options)).eval()
    assert load_weights(body, tmp_path / "model.pth").missing == ()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        close(body(image), theirs.forward_intermediates(image, intermediates_only=True)[1:])


@pytest.mark.parametrize("name", ["resnet50d", "resnet26t"])
def test_a_stem_of_three_convolutions_is_refused_in_one_sentence(tmp_path, name):
    """Nine tenths of the tensors have a place: without a word it would load with a random stem."""
    torch.save(timm.create_model(name).state_dict(), tmp_path / "model.pth")
    with pytest.raises(ConvbodyError, match="stem of three convolutions") as caught:
        load_weights(ours("resnet50"), tmp_path / "model.pth")
    assert "timm/" in str(caught.value) and "\n" not in str(caught.value)


def test_a_deeper_resnet_is_refused(tmp_path):
    torch.save(timm.create_model("resnet101").state_dict(), tmp_path / "model.pth")
    with pytest.raises(ConfigError, match="deeper body"):
        load_weights(ours("resnet50"), tmp_path / "model.pth")
