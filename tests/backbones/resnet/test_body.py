import pytest
import torch

from backbones import FeatureInfo
from backbones.resnet.head import build_res5_head
from backbones.resnet.transformations import BasicBlock, Bottleneck
from registry import STAGE_SPECS, STEM_MODULES, TRANSFORMATION_MODULES, ConvbodyError, load_cfg

NARROW = (
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    16,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    8,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    32,
    "MODEL.GROUP_NORM.NUM_GROUPS",
    4,
)
NORMS = ("FixedBatchNorm", "GN", "BatchNorm", "SyncBN")


@pytest.mark.parametrize(
    ("name", "blocks", "kind"),
    [
        ("R-18", (2, 2, 2, 2), BasicBlock),
        ("R-34", (3, 4, 6, 3), BasicBlock),
        ("R-50", (3, 4, 6, 3), Bottleneck),
        ("R-101", (3, 4, 23, 3), Bottleneck),
        ("R-152", (3, 8, 36, 3), Bottleneck),
    ],
)
def test_depths(published, name, blocks, kind):
    body = published.build(name, *NARROW).body
    layers = [body.layer1, body.layer2, body.layer3, body.layer4]
    assert tuple(len(layer) for layer in layers) == blocks
    assert all(isinstance(block, kind) for layer in layers for block in layer)
    assert [name for name, _ in body.stages()] == ["stem", "layer1", "layer2", "layer3", "layer4"]


def test_every_published_name_has_stages():
    for name in ("R-50-C4", "R-50-C5", "R-101-C4", "R-101-C5", "R-50-FPN", "R-101-FPN", "R-152-FPN"):
        assert name in STAGE_SPECS
    indices = [(s.index, s.return_features) for s in STAGE_SPECS["R-101-C4"]]
    assert indices == [(1, False), (2, False), (3, True)]


def test_c4_does_not_own_the_stage_of_its_head(published):
    assert not hasattr(published.build("R-50-C4", *NARROW).body, "layer4")


def test_widths_and_strides_follow_the_config(published):
    info = published.build("R-50", *NARROW).feature_info
    assert info == tuple(FeatureInfo(f"layer{i}", 16 * 2 ** (i - 1), 2 * 2**i) for i in (1, 2, 3, 4))


def test_c5_reports_its_true_width(published):
    c5 = published.build("R-50-C5", *NARROW)
    assert c5.out_channels == 128 == c5(torch.zeros(1, 3, 32, 32))[0].shape[1]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["R-18", "R-50"])
def test_norm_of_stem_and_blocks(published, name, norm):
    funcs = (
        "MODEL.RESNETS.STEM_FUNC",
        f"StemWith{norm}",
        "MODEL.RESNETS.TRANS_FUNC",
        f"BottleneckWith{norm}",
    )
    body = published.build(name, *NARROW, *funcs).body
    wanted = {"FixedBatchNorm": "FrozenBatchNorm2d", "GN": "GroupNorm", "BatchNorm": "BatchNorm2d"}.get(
        norm, "SyncBatchNorm"
    )
    kinds = {
        type(m).__name__
        for m in body.modules()
        if "Norm" in type(m).__name__ and "With" not in type(m).__name__
    }
    assert kinds == {wanted}
    assert len(body(torch.rand(2, 3, 64, 64))) == 4


def test_options_reach_the_norms(published):
    gn = ("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN", "MODEL.GROUP_NORM.EPSILON", 1e-3)
    body = published.build("R-50", *NARROW, *gn, "MODEL.FROZEN_BN.EPSILON", 1e-4).body
    assert (body.layer1[0].bn1.num_groups, body.layer1[0].bn1.eps) == (4, 1e-3)
    assert body.stem.bn1.eps == 1e-4


@pytest.mark.parametrize("name", ["R-18", "R-50"])
def test_dilation_keeps_the_resolution_of_stage_3(published, name):
    body = published.build(name, *NARROW, "MODEL.RESNETS.RES5_DILATION", 2)
    assert body.strides == (4, 8, 16, 16)
    assert [tuple(f.shape[2:]) for f in body(torch.zeros(1, 3, 64, 96))][2:] == [(4, 6), (4, 6)]
    assert body.body.layer4[0].conv2.dilation == (2, 2) == body.body.layer4[0].conv2.padding


def test_dilated_head_keeps_the_resolution():
    for dilation, side in ((1, 7), (2, 14)):
        cfg = load_cfg(None, [*NARROW, "MODEL.RESNETS.RES5_DILATION", dilation])
        assert build_res5_head(cfg)(torch.zeros(2, 64, 14, 14)).shape == (2, 128, side, side)


def test_head_of_basic_blocks():
    head = build_res5_head(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "R-18-C4"]))
    assert len(head.layer4) == 2 and isinstance(head.layer4[0], BasicBlock)
    assert head(torch.zeros(1, 256, 14, 14)).shape == (1, 512, 7, 7)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("name", ["R-18", "R-50"])
def test_deformable_stages(published, name, modulated):
    flags = ("MODEL.RESNETS.STAGE_WITH_DCN", (False, False, True, True), "MODEL.RESNETS.DEFORMABLE_GROUPS", 2)
    body = published.build(name, *NARROW, *flags, "MODEL.RESNETS.WITH_MODULATED_DCN", modulated).body
    deformable = {key.split(".")[0] for key in body.state_dict() if key.endswith("conv2.offset.weight")}
    assert deformable == {"layer3", "layer4"}
    assert body.layer3[0].conv2.offset.out_channels == (27 if modulated else 18) * 2


def test_initialisation(published):
    block = published.build("R-50-FPN", *NARROW).body.layer4[0]
    bound = (3 / block.conv2.weight[0].numel()) ** 0.5  # kaiming uniform with a = 1
    assert bound * 0.99 < block.conv2.weight.abs().max() <= bound


def test_two_stem_and_eight_block_words():
    assert set(STEM_MODULES.names()) >= {f"StemWith{norm}" for norm in NORMS}
    blocks = {f"{block}With{norm}" for norm in NORMS for block in ("Bottleneck", "BasicBlock")}
    assert set(TRANSFORMATION_MODULES.names()) >= blocks


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.RESNETS.TRANS_FUNC", "BottelneckWithGN"), "BottleneckWithGN.*|MODEL.RESNETS.TRANS_FUNC"),
        (("MODEL.RESNETS.STAGE_WITH_DCN", (True,)), "one flag per stage"),
        (("MODEL.RESNETS.TRANS_FUNC", "BasicBlockWithGN", "MODEL.RESNETS.NUM_GROUPS", 32), "NUM_GROUPS"),
        (("MODEL.RESNETS.STEM_FUNC", "StemWithGN", "MODEL.GROUP_NORM.NUM_GROUPS", 48), "do not divide"),
        (
            ("MODEL.RESNETS.STAGE_WITH_DCN", (True,) * 4, "MODEL.RESNETS.DEFORMABLE_GROUPS", 3),
            "do not divide by 3",
        ),
        (
            ("MODEL.RESNETS.STAGE_WITH_DCN", (True,) * 4, "MODEL.RESNETS.DEFORMABLE_GROUPS", 0),
            "DEFORMABLE_GROUPS = 0",
        ),
        (("MODEL.RESNETS.RES5_DILATION", 0), "RES5_DILATION = 0"),
        (("MODEL.RESNETS.WIDTH_PER_GROUP", -1), "WIDTH_PER_GROUP = -1"),
    ],
)
def test_misuse_is_one_line(published, opts, message):
    with pytest.raises(ConvbodyError, match=message) as caught:
        published.build("R-50", *opts)
    assert "\n" not in str(caught.value)
