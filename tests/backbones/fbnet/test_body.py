"""Architectures as bodies: features, necks, norms, freezing, weights of other code, compiler and exporter."""

import copy

import pytest
import torch
from torch import nn

from backbones import FeatureInfo, assert_backbone_contract, build_backbone
from backbones.fbnet.units import ConvUnit
from registry import FBNET_ARCHS, ConfigError, ConvbodyError, UnknownNameError, load_cfg

CONV_BODY = "MODEL.BACKBONE.CONV_BODY"
NECKS = {"C4": (16,), "C5": (32,), "FPN": (4, 8, 16, 32, 64), "FPN-RETINANET": (8, 16, 32, 64, 128)}


def build(name, *opts):
    torch.manual_seed(0)
    return build_backbone(load_cfg(None, [CONV_BODY, name, *opts]))


def tiny_opts(definition):
    return ["MODEL.FBNET.ARCH_DEF", definition]


@pytest.fixture
def small(tiny):
    """Builds the small architecture as FBNet-tiny with a neck."""
    return lambda neck="", *opts: build(f"FBNet-tiny{neck}", *tiny_opts(tiny), *opts)


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("name", FBNET_ARCHS.names())
def test_every_architecture_goes_with_every_neck(name, neck):
    with torch.device("meta"):
        assert build(f"FBNet-{name}-{neck}").strides == NECKS[neck]


def test_features_end_where_the_resolution_halves(small):
    body = small().body
    assert body.feature_info == (
        FeatureInfo("xif1_1", 8, 4),
        FeatureInfo("xif2_0", 16, 8),
        FeatureInfo("xif3_1", 24, 16),
        FeatureInfo("xif4_0", 32, 32),  # the box head's, at stride 2
    )
    assert [name for name, _ in body.stages()] == ["xif0_0", "xif1_1", "xif2_0", "xif3_1", "xif4_0"]
    blocks = dict(body.named_modules())
    expected = [["first", "stages.xif0_0"], ["stages.xif1_0", "stages.xif1_1"], ["stages.xif2_0"]]
    assert [[*map(blocks.get, names)] for names in expected] == [modules for _, modules in body.stages()][:3]
    assert body.get_submodule("stages.xif4_0").dw.conv.stride == (2, 2)
    assert body.get_parameter("stages.xif4_0.pw.conv.weight").shape == (48, 24, 1, 1)


def test_as_published_only_the_trunk_gives_a_feature(tiny):
    backbone = build("FBNet", "MODEL.FBNET.ARCH", "tiny", *tiny_opts(tiny))
    assert backbone.feature_info == (FeatureInfo("xif3_1", 24, 16),)
    assert not any("xif4" in name for name in backbone.state_dict())
    assert len(backbone(torch.rand(1, 3, 64, 64))) == 1


def test_a_trunk_that_reaches_stride_32_needs_no_head():
    body = build("FBNet-fbnet_a").body
    assert [(info.name, info.channels) for info in body.feature_info] == [
        ("xif4_0", 24),
        ("xif8_0", 32),
        ("xif16_0", 112),
        ("xif21_0", 352),
    ]


def test_the_first_convolution_may_give_a_feature(tiny):
    tiny["first"] = [8, 4, 5]
    tiny["stages"][0] = [[1, 8, 1, 2]]
    body = build("FBNet-tiny", *tiny_opts(tiny)).body.eval()
    assert body.feature_info[0] == FeatureInfo("first", 8, 4) and body.first.conv.kernel_size == (5, 5)
    assert [f.shape[1:] for f in body(torch.rand(1, 3, 64, 64))][0] == (8, 16, 16)


@pytest.mark.parametrize("size", [(1, 1), (30, 33), (75, 101)])
def test_any_size(small, size):
    backbone = small().eval()
    for info, feature in zip(backbone.feature_info, backbone(torch.rand(1, 3, *size)), strict=True):
        assert feature.shape[2:] == tuple(-(-side // info.stride) for side in size)


NORMS = {
    "bn": "BatchNorm2d",
    "af": "FrozenBatchNorm2d",
    "gn": "GroupNorm",
    "FrozenBN": "FrozenBatchNorm2d",
    "SyncBN": "SyncBatchNorm",
    "ABN": "ActivatedBatchNorm2d",
}


@pytest.mark.parametrize(("word", "kind"), NORMS.items())
def test_one_word_changes_every_norm(small, word, kind):
    body = small("", "MODEL.FBNET.BN_TYPE", word, "MODEL.GROUP_NORM.NUM_GROUPS", 4).body
    kinds = {type(m).__name__ for m in body.modules() if "Norm" in type(m).__name__}
    assert kinds == {kind}
    sum(f.square().mean() for f in body(torch.rand(2, 3, 64, 96))).backward()
    assert not [name for name, p in body.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", ["default", "xirb16d_dsmask", "mobilenet_v2", "cham_v1a", "cham_v2"])
def test_eight_groups_divide_every_width_of_the_detection_architectures(name):
    with torch.device("meta"):
        build(f"FBNet-{name}", "MODEL.FBNET.BN_TYPE", "gn", "MODEL.GROUP_NORM.NUM_GROUPS", 8)


def test_batch_norms_are_those_of_the_published_code(small):
    assert {(m.eps, m.momentum) for m in small().modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}


def test_nothing_is_frozen_unless_asked_for(small):
    assert all(p.requires_grad for p in small().parameters())
    frozen = small("-FPN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 2).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    sum(f.square().mean() for f in frozen(torch.rand(2, 3, 64, 64))).backward()
    torch.optim.SGD((p for p in frozen.parameters() if p.grad is not None), lr=1.0).step()
    same = {name for name, value in frozen.state_dict().items() if torch.equal(value, before[name])}
    still = ("body.first.", "body.stages.xif0_", "body.stages.xif1_")
    assert {name for name in before if name.startswith(still)} <= same
    assert not any(name.startswith("body.stages.xif2_0.pw.") for name in same)


def test_widths_are_scaled_and_rounded(tiny):
    opts = ["MODEL.FBNET.SCALE_FACTOR", 0.6, "MODEL.FBNET.WIDTH_DIVISOR", 4]
    body = build("FBNet-tiny", *tiny_opts(tiny), *opts).body
    # 8, 16, 24 and 32 times 0.6 are 4, 9, 14 and 19.
    assert [info.channels for info in body.feature_info] == [4, 8, 16, 20]
    small = build(
        "FBNet-tiny", *tiny_opts(tiny), "MODEL.FBNET.SCALE_FACTOR", 0.1, "MODEL.FBNET.WIDTH_DIVISOR", 8
    )
    assert [info.channels for info in small.feature_info] == [8, 8, 8, 8]


def test_depthwise_norms_are_left_out_as_published(small):
    for skip in (True, False):
        opts = ["MODEL.FBNET.DW_CONV_SKIP_BN", skip, "MODEL.FBNET.DW_CONV_SKIP_RELU", skip]
        unit = small("", *opts).body.get_submodule("stages.xif1_0.dw")
        assert isinstance(unit, ConvUnit) and (hasattr(unit, "bn"), hasattr(unit, "relu")) == (not skip,) * 2
    assert not hasattr(build("FBNet-default").body.get_submodule("stages.xif1_0.dw"), "bn")
    assert hasattr(build("FBNet-mobilenet_v2").body.get_submodule("stages.xif1_0.dw"), "bn")


@pytest.mark.parametrize(
    ("change", "opts", "message"),
    [
        ({}, ("MODEL.FBNET.BN_TYPE", "bnn"), "no norm is called 'bnn'.*BN_TYPE"),
        ({}, ("MODEL.FBNET.BN_TYPE", "gn"), "channels do not divide by 32.*DIM_PER_GP"),
        ({}, ("MODEL.FBNET.ACTIVATION", "relu7"), "relu, relu6; nearest.*ACTIVATION = 'relu7'"),
        ({}, ("MODEL.FBNET.SCALE_FACTOR", 0.0), "a positive factor.*SCALE_FACTOR"),
        ({}, ("MODEL.FBNET.WIDTH_DIVISOR", -1), "0 or more.*WIDTH_DIVISOR"),
        ({}, ("MODEL.FBNET.SCALE_FACTOR", 0.4), "ir_k3_s2 as xif3_0: .*2 groups.*block_op_type.3.0"),
        ({2: [[2, 16, 1, -2]]}, (), "xif2_0 would upsample.*block_op_type.2.0"),
        ({0: [[1, 8, 1, 2]], 1: [[2, 8, 2, 4]]}, (), ""),
    ],
)
def test_what_cannot_be_built_is_one_line(tiny, change, opts, message):
    for stage, rows in change.items():
        tiny["stages"][stage] = rows
    if not message:
        build("FBNet-tiny", *tiny_opts(tiny), *opts)
        return
    with pytest.raises(ConvbodyError, match=message) as caught:
        build("FBNet-tiny", *tiny_opts(tiny), *opts)
    assert "\n" not in str(caught.value)


def test_a_trunk_without_a_feature_is_refused(tiny):
    tiny.update(stages=[[[1, 8, 1, 1]]], block_op_type=[["skip"]], backbone=[0])
    for part in ("bbox", "rpn"):
        del tiny[part]
    with pytest.raises(ConfigError, match="stops at stride 2"):
        build("FBNet-tiny", *tiny_opts(tiny))


def test_an_unknown_architecture_has_neighbours():
    with pytest.raises(
        UnknownNameError, match=r"'mobilnet_v2' \(MODEL.BACKBONE.CONV_BODY.*nearest: mobilenet_v2"
    ):
        build("FBNet-mobilnet_v2-FPN")


def test_an_unknown_neck_is_not_mistaken_for_an_architecture_alone():
    with pytest.raises(UnknownNameError, match="'fbnet_c-FPM'.*nearest: fbnet_c,.*necks: C4, C5, FPN"):
        build("FBNet-fbnet_c-FPM")


def test_the_small_architecture_keeps_the_contract(tiny):
    assert_backbone_contract("FBNet-tiny-FPN", opts=tiny_opts(tiny), data_parallel=False)
    opts = ["MODEL.FBNET.ARCH", "tiny", *tiny_opts(tiny)]
    assert_backbone_contract("FBNet", opts=opts, data_parallel=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FBNet", "FBNet-mobilenet_v2-FPN-RETINANET"])
def test_published_architectures_keep_the_contract(name):
    assert_backbone_contract(name)


@pytest.mark.slow
def test_it_compiles_and_exports(small):
    torch._dynamo.reset()
    backbone, x = small("-FPN").eval(), torch.rand(2, 3, 65, 96)
    with torch.no_grad():
        wanted = backbone(x)
        compiled = torch.compile(copy.deepcopy(backbone), backend="aot_eager", fullgraph=True)(x)
        program = torch.export.export(backbone, (x,))
    for one, two, three in zip(wanted, compiled, program.module()(x), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-5)


def test_channels_last_stays(small):
    backbone = small().eval().to(memory_format=torch.channels_last)
    for feature in backbone(torch.rand(1, 3, 64, 64).to(memory_format=torch.channels_last)):
        assert feature.is_contiguous(memory_format=torch.channels_last)
