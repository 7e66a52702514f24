import pytest
import torch
import torch.nn.functional as F

from backbones import FeatureInfo
from backbones.necks.fpn import build_fpn, build_retinanet_fpn, pyramid_levels
from backbones.necks.pafpn import build_pafpn
from backbones.necks.single import build_c4, build_c5
from registry import ConfigError, load_cfg

INFO = tuple(FeatureInfo(f"layer{i}", 4 * 2**i, 2 * 2**i) for i in (1, 2, 3, 4))


def cfg(*opts):
    return load_cfg(None, ["MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 8, "MODEL.GROUP_NORM.NUM_GROUPS", 2, *opts])


def features(height, width):
    return [
        torch.rand(2, info.channels, -(-height // info.stride), -(-width // info.stride)) for info in INFO
    ]


def test_fpn_is_the_top_down_sum():
    fpn = build_fpn(cfg(), INFO)
    given = features(64, 64)
    outputs = fpn(given)
    coarse = fpn.fpn_inner4(given[3])
    fine = fpn.fpn_inner3(given[2]) + F.interpolate(coarse, scale_factor=2)
    torch.testing.assert_close(outputs[3], fpn.fpn_layer4(coarse))
    torch.testing.assert_close(outputs[2], fpn.fpn_layer3(fine))
    torch.testing.assert_close(outputs[4], outputs[3][..., ::2, ::2])


def test_path_aggregation_goes_back_up():
    neck = build_pafpn(cfg(), INFO)
    given = features(64, 96)
    pyramid, outputs = build_fpn(cfg(), INFO), neck(given)
    pyramid.load_state_dict(neck.state_dict(), strict=False)
    top_down = pyramid(given)
    torch.testing.assert_close(outputs[0], top_down[0])
    for level, lateral, finer, output in zip((2, 3, 4), top_down[1:], outputs, outputs[1:], strict=False):
        down = neck.get_submodule(f"pa_down{level}")(finer)
        torch.testing.assert_close(output, neck.get_submodule(f"pa_layer{level}")(lateral + down))
    torch.testing.assert_close(outputs[4], outputs[3][..., ::2, ::2])


def test_path_aggregation_over_a_dilated_stage():
    infos = (*INFO[:3], FeatureInfo("layer4", INFO[3].channels, INFO[2].stride))
    neck = build_pafpn(cfg(), infos)
    given = [torch.rand(1, info.channels, 64 // info.stride, 64 // info.stride) for info in infos]
    assert [output.shape[-1] for output in neck(given)] == [64 // info.stride for info in neck.feature_info]


@pytest.mark.parametrize("build", [build_fpn, build_retinanet_fpn, build_pafpn])
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (33, 200)])
def test_any_size(build, size):
    neck = build(cfg(), INFO)
    outputs = neck(features(*size))
    assert [(o.shape[1], tuple(o.shape[2:])) for o in outputs] == [
        (i.channels, tuple(-(-side // i.stride) for side in size)) for i in neck.feature_info
    ]


def test_retinanet_levels():
    neck = build_retinanet_fpn(cfg(), INFO)
    assert [i.stride for i in neck.feature_info] == [8, 16, 32, 64, 128]
    assert {k.split(".")[0] for k in neck.state_dict()} == {
        *(f"fpn_{kind}{i}" for kind in ("inner", "layer") for i in (2, 3, 4)),
        "top_blocks",
    }


@pytest.mark.parametrize(
    ("width", "use_c5", "in_channels"),
    [(8, True, 64), (8, False, 8), (64, True, 64)],
)
def test_p6_comes_from_c5_or_p5(width, use_c5, in_channels):
    opts = ("MODEL.RETINANET.USE_C5", use_c5, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", width)
    neck = build_retinanet_fpn(cfg(*opts), INFO)
    given = features(64, 64)
    outputs = neck(given)
    source = (
        given[3] if use_c5 and width != 64 else outputs[2]
    )  # of equal width, the published models take P5
    assert neck.top_blocks.p6.in_channels == in_channels
    torch.testing.assert_close(outputs[3], neck.top_blocks.p6(source))
    torch.testing.assert_close(outputs[4], neck.top_blocks.p7(outputs[3].relu()))


@pytest.mark.parametrize(
    ("opts", "layers"),
    [
        ((), ["Conv2d"]),
        (("MODEL.FPN.USE_GN", True), ["Conv2d", "GroupNorm"]),
        (("MODEL.FPN.NORM", "GN"), ["Conv2d", "GroupNorm"]),
        (("MODEL.FPN.NORM", "SyncBN", "MODEL.FPN.USE_RELU", True), ["Conv2d", "SyncBatchNorm", "ReLU"]),
        (("MODEL.FPN.NORM", "FrozenBN"), ["Conv2d", "FrozenBatchNorm2d"]),
        (("MODEL.FPN.NORM", "BN"), ["Conv2d", "BatchNorm2d"]),
    ],
)
def test_norm_and_relu(opts, layers):
    inner = build_fpn(cfg(*opts), INFO).fpn_inner1
    modules = [inner] if len(layers) == 1 else list(inner)
    assert [type(m).__name__ for m in modules] == layers
    assert (modules[0].bias is None) == ("Norm" in "".join(layers))


def test_two_norms_are_refused():
    with pytest.raises(ConfigError, match="MODEL.FPN.NORM = 'BN'"):
        build_fpn(cfg("MODEL.FPN.USE_GN", True, "MODEL.FPN.NORM", "BN"), INFO)


def test_single_features():
    given = features(64, 64)
    assert build_c4(cfg(), INFO)(given)[0] is given[2]
    assert build_c5(cfg(), INFO)(given)[0] is given[3]
    dilated = (*INFO[:3], FeatureInfo("layer4", 64, 16))
    assert build_c4(cfg(), dilated).feature_info == (INFO[2],)
    with pytest.raises(ConfigError, match="stride 16"):
        build_c4(cfg(), INFO[:2])


def test_levels_skip_the_stem_and_count_on_where_dilation_keeps_the_stride():
    strides = [2, 4, 8, 16, 16]
    assert pyramid_levels([FeatureInfo("", 1, s) for s in strides]) == [0, 1, 2, 3, 4]


def test_a_pyramid_needs_its_features():
    with pytest.raises(ConfigError, match="stride 8"):
        build_retinanet_fpn(cfg(), INFO[:1])


@pytest.mark.parametrize("neck", ["FPN", "FPN-RETINANET", "PAFPN"])
@pytest.mark.parametrize("body", ["R-18", "R-50", "TResNet-M", "FBNet-default"])
def test_a_pyramid_is_256_wide_where_nothing_says_otherwise(body, neck):
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", f"{body}-{neck}"])
    assert cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS == 256
