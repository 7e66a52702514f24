import copy

import pytest
import torch
from torch import nn

from backbones import FeatureInfo, assert_backbone_contract, build_backbone
from backbones.layers.activated_norm import ActivatedBatchNorm2d
from backbones.layers.deform_conv import DFConv2d
from backbones.tresnet.blocks import BasicBlock, Bottleneck
from backbones.tresnet.body import VARIANTS, TResNet, Variant
from registry import ConvbodyError, load_cfg

NORMS = {
    "ABN": "ActivatedBatchNorm2d",
    "SyncABN": "SyncActivatedBatchNorm2d",
    "BN": "BatchNorm2d",
    "SyncBN": "SyncBatchNorm",
    "FrozenBN": "FrozenBatchNorm2d",
    "GN": "GroupNorm",
}
TINY = Variant((2, 1, 2, 1), width=8)
TINY_V2 = Variant((1, 2, 1, 1), width=8, basic_stages=0)


def tiny(variant=TINY, **options):
    opts = [part for key, value in options.items() for part in (f"MODEL.TRESNETS.{key}", value)]
    torch.manual_seed(0)
    groups = ("MODEL.GROUP_NORM.NUM_GROUPS", 4)
    return TResNet(variant, load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-M", *groups, *opts]))


@pytest.mark.parametrize(
    ("name", "parameters", "channels", "blocks"),
    [
        ("M", 31_389_032, (64, 128, 1024, 2048), (3, 4, 11, 3)),
        ("L", 55_989_256, (76, 152, 1216, 2432), (4, 5, 18, 3)),
        ("XL", 78_436_244, (83, 166, 1328, 2656), (4, 5, 24, 3)),
        ("L-V2", 46_174_824, (256, 512, 1024, 2048), (3, 4, 23, 3)),
    ],
)
def test_published_sizes(name, parameters, channels, blocks):
    with torch.device("meta"):
        body = build_backbone(load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", f"TResNet-{name}"])).body
    classifier = 1000 * (channels[-1] + 1)
    assert sum(p.numel() for p in body.parameters()) + classifier == parameters
    names = [f"layer{i}" for i in (1, 2, 3, 4)]
    assert body.feature_info == tuple(map(FeatureInfo, names, channels, (4, 8, 16, 32)))
    layers = [body.get_submodule(layer) for layer in names]
    assert tuple(len(layer) for layer in layers) == blocks
    kinds = [Bottleneck] * 4 if name == "L-V2" else [BasicBlock, BasicBlock, Bottleneck, Bottleneck]
    assert all(isinstance(b, kind) for layer, kind in zip(layers, kinds, strict=True) for b in layer)


@pytest.mark.parametrize("variant", [TINY, TINY_V2])
@pytest.mark.parametrize(("norm", "kind"), NORMS.items())
def test_one_word_changes_every_norm(norm, kind, variant):
    body = tiny(variant, NORM=norm)
    kinds = {type(m).__name__ for m in body.modules() if "Norm2d" in type(m).__name__} | {
        type(m).__name__ for m in body.modules() if type(m).__name__ in ("GroupNorm", "SyncBatchNorm")
    }
    assert kinds == {kind}
    features = body(torch.rand(2, 3, 65, 97))
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    idle = [name for name, p in body.named_parameters() if p.grad is None]
    assert not idle


def test_the_norm_does_not_change_the_numbers():
    torch.manual_seed(0)
    abn = tiny(NORM="ABN")
    for name, tensor in abn.state_dict().items():
        if name.endswith(("1.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
    x = torch.rand(2, 3, 64, 96)
    for norm in ("BN", "FrozenBN", "SyncBN"):
        other = tiny(NORM=norm)
        other.load_state_dict(abn.state_dict(), strict=norm != "FrozenBN")
        for one, two in zip(abn.eval()(x), other.eval()(x), strict=True):
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    plain = tiny(NORM="BN").train()
    plain.load_state_dict(abn.state_dict())
    grads = []
    for body in (abn.double().train(), plain.double()):
        loss = sum(f.sin().sum() for f in body(x.double()))
        grads.append(torch.autograd.grad(loss, list(body.parameters())))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


def test_initialisation():
    body = tiny(TINY)
    conv = body.layer1[0].conv1[0].weight.detach()  # 8 channels of 3x3: deviation sqrt(2 / 72)
    assert conv.std().item() == pytest.approx((2 / (8 * 9)) ** 0.5, rel=0.1)
    for block, last in ((body.layer1[0], "conv2"), (body.layer4[0], "conv3")):
        assert not block.get_submodule(f"{last}.1").weight.any()
    # What cannot learn does not start at nothing: the branch would stay so.
    assert tiny(NORM="FrozenBN").layer1[0].conv2[1].weight.all()


def test_details_of_the_published_network():
    body = tiny(TINY)
    assert [m.slope for m in (body.stem[1], body.layer1[0].conv1[1], body.layer3[0].conv2[1])] == [
        1e-2,
        1e-3,
        1e-3,
    ]
    assert body.layer3[0].se is not None and body.layer4[0].se is None
    assert body.layer3[0].se.fc1.out_channels == 64
    assert body.layer1[0].downsample is None
    kinds = [type(m) for m in body.layer2[0].downsample]
    assert kinds[0] is nn.AvgPool2d and len(kinds) == 2
    assert len(tiny(TINY_V2).layer1[0].downsample) == 1
    assert [name for name, _ in body.stages()] == ["stem", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (30, 33), (75, 101)])
def test_any_size(size):
    body = tiny().eval()
    for info, feature in zip(body.feature_info, body(torch.rand(1, 3, *size)), strict=True):
        assert feature.shape[2:] == tuple(-(-side // info.stride) for side in size)


def test_images_of_other_channels():
    assert len(tiny(IN_CHANNELS=1)(torch.rand(2, 1, 64, 64))) == 4


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_stages(modulated):
    flags = {"STAGE_WITH_DCN": (False, False, True, True), "DEFORMABLE_GROUPS": 2}
    body = tiny(**flags, WITH_MODULATED_DCN=modulated)
    deformable = {name.split(".")[0] for name, m in body.named_modules() if isinstance(m, DFConv2d)}
    assert deformable == {"layer3", "layer4"}
    assert body.layer3[0].conv2[0].offset.out_channels == (27 if modulated else 18) * 2
    assert body(torch.rand(2, 3, 64, 64))[-1].shape == (2, 256, 2, 2)


@pytest.mark.parametrize("neck", ["C4", "C5", "FPN", "FPN-RETINANET"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_neck(name, neck):
    with torch.device("meta"):
        cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", f"{name}-{neck}"])
        backbone = build_backbone(cfg)
    wanted = {"C4": (16,), "C5": (32,), "FPN": (4, 8, 16, 32, 64), "FPN-RETINANET": (8, 16, 32, 64, 128)}
    assert backbone.strides == wanted[neck]


def test_the_published_weights_want_images_in_their_range():
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "TResNet-L-V2-FPN"])
    assert (cfg.INPUT.TO_BGR255, list(cfg.INPUT.PIXEL_MEAN), cfg.MODEL.FROZEN_BN.EPSILON) == (
        False,
        [0] * 3,
        1e-5,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"NORM": "InplaceABN"}, "ABN.*MODEL.TRESNETS.NORM"),
        (
            {"STAGE_WITH_DCN": (True, False, False, False)},
            "stages 1 to 2 are of basic.*STAGE_WITH_DCN",
        ),
        ({"STAGE_WITH_DCN": (True,)}, "one flag per stage, 4"),
        ({"STAGE_WITH_DCN": (False,) * 3 + (True,), "DEFORMABLE_GROUPS": 0}, "DEFORMABLE_GROUPS = 0"),
        ({"STAGE_WITH_DCN": (False,) * 3 + (True,), "DEFORMABLE_GROUPS": 3}, "do not divide by 3"),
        ({"IN_CHANNELS": 0}, "IN_CHANNELS = 0"),
    ],
)
def test_misuse_is_one_line(options, message):
    with pytest.raises(ConvbodyError, match=message) as caught:
        tiny(**options)
    assert "\n" not in str(caught.value)


def test_an_image_too_small_to_train_on_is_one_line():
    with pytest.raises(ConvbodyError, match="at least two values per channel"):
        tiny().train()(torch.rand(1, 3, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [TINY, TINY_V2])
def test_it_compiles_and_exports_in_evaluation(variant):
    torch._dynamo.reset()
    body, x = tiny(variant).eval(), torch.rand(2, 3, 65, 96)
    assert any(isinstance(m, ActivatedBatchNorm2d) for m in body.modules())
    with torch.no_grad():
        wanted = body(x)
        compiled = torch.compile(copy.deepcopy(body), backend="aot_eager", fullgraph=True)(x)
        program = torch.export.export(body, (x,))
    for one, two, three in zip(wanted, compiled, program.module()(x), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["SyncABN", "BN", "FrozenBN", "GN"])
def test_tresnet_m_keeps_the_contract_with_every_norm(norm):
    opts = ["MODEL.TRESNETS.NORM", norm]
    assert_backbone_contract("TResNet-M-FPN", opts=opts, data_parallel=norm == "SyncABN")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "TResNet-M"])
def test_every_variant_keeps_the_contract(name):
    assert_backbone_contract(f"{name}-FPN-RETINANET", data_parallel=False)
