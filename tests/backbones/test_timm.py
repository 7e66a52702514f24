import subprocess
import sys

import pytest
import timm
import torch

from backbones import build_backbone
from registry import ConfigError, UnknownNameError, load_cfg

NHWC = "timm/swin_tiny_patch4_window7_224"
GN = ("MODEL.GROUP_NORM.NUM_GROUPS", -1, "MODEL.GROUP_NORM.DIM_PER_GP", 8)


def build(name, *opts):
    return build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", name, *opts])).eval()


@pytest.mark.parametrize(
    "model", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "mobilenetv3_small_050"]
)
def test_features_are_timms(model):
    theirs = timm.create_model(model, features_only=True).eval()
    ours = build(f"timm/{model}")
    ours.body.net.load_state_dict(theirs.state_dict())
    ours.memory_format = "contiguous"  # as theirs: in the other order, sums are rounded otherwise
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for got, want in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(got, want)
    assert [i.channels for i in ours.feature_info] == theirs.feature_info.channels()


@pytest.mark.parametrize(
    "name", ["timm/hrnet_w18_small", "timm/vit_tiny_patch16_224", "timm/convnext_atto", NHWC]
)
def test_any_size_and_channels_first(name):
    backbone = build(name)
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 75, 101))
    assert [tuple(f.shape[1:]) for f in features] == [
        (i.channels, -(-75 // i.stride), -(-101 // i.stride)) for i in backbone.feature_info
    ]


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("convnext_atto", ["stem", "stages.0", "stages.1", "stages.2", "stages.3"]),
        ("tf_efficientnet_lite0", ["stem", "blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("vit_tiny_patch16_224", ["stem", "blocks.9", "blocks.10", "blocks.11"]),
    ],
)
def test_stages_hold_every_parameter_once(model, stages):
    backbone = build(f"timm/{model}")
    assert [name for name, _ in backbone.stages()] == stages
    parts = [id(p) for _, modules in backbone.stages() for m in modules for p in m.parameters()]
    assert sorted(parts) == sorted(id(p) for p in backbone.parameters())


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
@pytest.mark.parametrize("model", ["resnet18", "mobilenetv3_small_050"])
def test_swapped_norms_keep_weights_and_names(model, norm):
    plain = build(f"timm/{model}")
    for buffer in plain.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    swapped = build(f"timm/{model}", "MODEL.TIMM.NORM", norm)
    assert not any(type(m).__name__.startswith("BatchNorm") for m in swapped.modules())
    missing, _ = swapped.load_state_dict(plain.state_dict(), strict=False)
    assert missing == []
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for got, want in zip(swapped(x), plain(x), strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_group_norm_fits_every_width_or_says_so():
    backbone = build("timm/tf_efficientnet_lite0", "MODEL.TIMM.NORM", "GN", *GN)
    assert any(isinstance(m, torch.nn.GroupNorm) for m in backbone.modules())
    with pytest.raises(ConfigError, match="DIM_PER_GP"):
        build("timm/tf_efficientnet_lite0", "MODEL.TIMM.NORM", "GN")


def test_family_defaults_are_normalised_rgb():
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "timm/resnet18-FPN"])
    assert not cfg.INPUT.TO_BGR255
    assert list(cfg.INPUT.PIXEL_MEAN) == [0.485, 0.456, 0.406]
    assert cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 0 and not cfg.MODEL.TIMM.PRETRAINED


def test_arguments_reach_timm():
    backbone = build("timm/resnet18", "MODEL.TIMM.KWARGS.out_indices", [2, 3])
    assert backbone.strides == (8, 16)
    with pytest.raises(ConfigError, match=r"no such feature .*MODEL.TIMM.KWARGS .*command line"):
        build("timm/resnet18", "MODEL.TIMM.KWARGS.out_indices", [9])
    with pytest.raises(ConfigError, match=r"nonsense.*MODEL.TIMM.KWARGS"):
        build("timm/resnet18", "MODEL.TIMM.KWARGS.nonsense", 1)


def test_misuse_is_named():
    with pytest.raises(UnknownNameError, match="resnet18"):
        build("timm/resnt18")
    with pytest.raises(ConfigError, match="gives no features"):
        build("timm/mixer_s16_224", "MODEL.TIMM.KWARGS.out_indices", [99])


def test_without_timm_the_message_says_what_to_install():
    script = """
import sys
sys.modules["timm"] = None
from backbones import build_backbone
from registry import ConfigError, load_cfg
try:
    build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "timm/resnet18-FPN"]))
except ConfigError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "pip install 'convbody[timm]'" in said


@pytest.mark.parametrize(
    "model",
    ["mvitv2_tiny", "twins_svt_small", "coat_tiny", pytest.param("crossvit_9_240", marks=pytest.mark.slow)],
)
def test_stages_of_models_whose_features_are_named_after_no_modules(model):
    backbone = build(f"timm/{model}", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 1)
    names = [name for name, _ in backbone.stages()]
    assert names == ["stem", *(info.name for info in backbone.feature_info)] and len(set(names)) == len(names)
    parts = {id(p) for _, modules in backbone.stages() for m in modules for p in m.parameters()}
    assert parts == {id(p) for p in backbone.parameters()}
    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert 0 < len(frozen) < len(list(backbone.parameters())) / 4, frozen


@pytest.mark.parametrize(
    ("model", "size"),
    [("levit_128s", (224, 224)), ("convit_tiny", (224, 224)), ("efficientformer_l1", (100, 140))],
)
def test_a_model_of_one_size_takes_smaller_images_too(model, size):
    backbone = build(f"timm/{model}")
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        features = backbone(x)
        theirs = backbone.body.net(torch.nn.functional.pad(x, (0, 224 - size[1], 0, 224 - size[0])))
    for info, feature, whole in zip(backbone.feature_info, features, theirs, strict=True):
        height, width = (-(-side // info.stride) for side in size)
        assert torch.equal(feature, whole[..., :height, :width])


@pytest.mark.parametrize("model", ["nest_tiny", "botnet26t_256", "mvitv2_tiny"])
def test_a_larger_image_names_the_key_and_the_key_helps(model):
    x = torch.rand(1, 3, 280, 300)
    with torch.no_grad(), pytest.raises(ConfigError) as error:
        build(f"timm/{model}")(x)
    key, _, value = str(error.value).partition("set ")[2].partition(" to ")
    backbone = build(f"timm/{model}", key, value)
    with torch.no_grad():
        features = backbone(x)
    assert [tuple(f.shape[-2:]) for f in features] == [
        (-(-280 // info.stride), -(-300 // info.stride)) for info in backbone.feature_info
    ]


def test_a_larger_image_of_a_model_without_such_a_key():
    with torch.no_grad(), pytest.raises(ConfigError, match=r"of up to 224x224.*INPUT\.MAX_SIZE_TRAIN"):
        build("timm/efficientformer_l1")(torch.rand(1, 3, 280, 300))


def test_strides_that_do_not_divide_each_other():
    backbone = build("timm/crossvit_9_240")
    assert (backbone.strides, backbone.size_divisibility) == ((12, 17), 204)
    with torch.no_grad():
        assert [tuple(f.shape[-2:]) for f in backbone(torch.rand(1, 3, 204, 408))] == [(17, 34), (12, 24)]
