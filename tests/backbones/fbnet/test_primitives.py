import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backbones.fbnet.primitives import InvertedResidual, Shift
from backbones.fbnet.units import ACTIVATIONS, ChannelShuffle, ConvUnit, UnitOptions, round_width
from backbones.layers.norm import FrozenBatchNorm2d, group_norm
from registry import FBNET_PRIMITIVES, ConfigError

NAMES = FBNET_PRIMITIVES.names()


def make(name, in_channels=16, out_channels=16, expansion=3, stride=1, **options):
    torch.manual_seed(0)
    primitive = FBNET_PRIMITIVES[name]
    return primitive.build(in_channels, out_channels, expansion, stride, UnitOptions(**options))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_follow_the_stride(name):
    x = torch.rand(2, 16, 9, 14)
    for stride in FBNET_PRIMITIVES[name].strides:
        shape = make(name, out_channels=24, stride=stride).eval()(x).shape
        sides = (9, 14)
        sides = tuple(-(-side // stride) if stride > 0 else side * -stride for side in sides)
        assert shape == (2, 24, *sides), stride


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_none_and_its_gradients(name):
    block = make(name, stride=1, out_channels=24).train()
    out = block(torch.rand(0, 16, 6, 6))
    assert out.shape == (0, 24, 6, 6)
    out.sum().backward()
    trainable = [p for p in block.parameters() if p.requires_grad]
    assert trainable and all(p.grad is not None and not p.grad.any() for p in trainable)
    assert all(b.isfinite().all() for b in block.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_stays(name):
    x = torch.rand(2, 16, 6, 6)
    out = make(name).eval().to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, make(name).eval()(x))


@pytest.mark.parametrize("name", NAMES)
def test_one_norm_changes_every_norm(name):
    block = make(name, out_channels=24, norm=FrozenBatchNorm2d)
    assert {type(m) for m in block.modules() if "Norm" in type(m).__name__} == {FrozenBatchNorm2d}
    grouped = make(name, out_channels=24, norm=lambda channels: group_norm(channels, 4))
    assert {type(m) for m in grouped.modules() if "Norm" in type(m).__name__} == {nn.GroupNorm}


@pytest.mark.parametrize(
    ("name", "kernel", "width", "depthwise", "groups", "squeeze"),
    [
        ("ir_k3", 3, 48, 1, 1, False),
        ("ir_k7", 7, 48, 1, 1, False),
        ("ir_k5_e6", 5, 96, 1, 1, False),
        ("ir_k3_e1_se", 3, 16, 1, 1, True),
        ("ir_k3_s4", 3, 64, 1, 4, False),
        ("ir_k5_s2_se", 5, 16, 1, 2, True),
        ("ir_k3_sep", 3, 48, 2, 1, False),
        ("ir_k33_e6", 3, 96, 2, 1, False),
        ("ir_k7_sep_e3", 7, 48, 2, 1, False),
        ("shuffle", 3, 48, 1, 4, False),
    ],
)
def test_what_the_names_say(name, kernel, width, depthwise, groups, squeeze):
    block = make(name)
    assert block.pw.conv.out_channels == width and block.pw.conv.groups == block.pwl.conv.groups == groups
    inner = [m for m in block.dw.modules() if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in inner] == [kernel] * depthwise
    assert (len(list(block.se4.parameters())) > 0) == squeeze


def test_the_last_depthwise_convolution_may_lack_norm_and_activation():
    for name, last in (("ir_k3", "dw"), ("ir_k3_sep", "dw.dw2")):
        block = make(name, dw_norm=False, dw_activation=False)
        assert [child for child, _ in block.get_submodule(last).named_children()] == ["conv"]
    assert [child for child, _ in block.dw.dw1.named_children()] == ["conv", "bn", "relu"]


def test_squeeze_excite_acts_on_the_sum():
    block = make("ir_k3_e1_se").eval()
    x = torch.rand(2, 16, 5, 5)
    plain = block.pwl(block.dw(block.pw(x))) + x
    torch.testing.assert_close(block(x), block.se4(plain))
    assert block.se4.op[1].out_channels == 8  # a quarter, and at least 8
    assert make("ir_k3_e1_se", out_channels=64).se4.op[1].out_channels == 16


def test_a_stride_of_two_is_in_the_first_of_two_depthwise_convolutions():
    block = make("ir_k33_e3", stride=2)
    assert block.dw.dw1.conv.stride == (2, 2) and block.dw.dw2.conv.stride == (1, 1)


def test_a_skip_is_nothing_where_nothing_changes():
    x = torch.rand(1, 16, 4, 4)
    assert make("skip")(x) is x
    assert [name for name, _ in make("skip", stride=2).named_children()] == ["conv"]


def test_the_shift_moves_every_channel_to_its_own_place():
    shift = Shift(53, 5, 1)  # two channels for each of 25 places, five in the middle
    kernel = shift.kernel.view(53, 5, 5)
    assert not shift.kernel.requires_grad and (kernel.sum((1, 2)) == 1).all()
    counts = kernel.sum(0)
    assert counts[2, 2] == 5 and counts.sum() == 53 and (counts.flatten().sort().values[:24] == 2).all()
    x = torch.zeros(1, 53, 7, 7)
    x[..., 3, 3] = 1
    assert shift(x)[0, 0, 5, 5] == 1 and shift(x)[0, 52, 1, 1] == 1 and shift(x)[0, 26, 3, 3] == 1


def test_groups_that_do_not_fit_are_one_line():
    with pytest.raises(ConfigError, match="4 groups cannot have 18 channels") as caught:
        make("ir_k3_s4", out_channels=18)
    assert "\n" not in str(caught.value)


def test_the_shuffle_is_the_transposition_of_groups():
    x = torch.rand(2, 12, 3, 3)
    torch.testing.assert_close(ChannelShuffle(3)(x), x[:, torch.arange(12).view(3, 4).T.flatten()])


def test_relu6_stops_at_six():
    unit = ConvUnit(4, 4, 1, 1, None, ACTIVATIONS["relu6"])
    nn.init.constant_(unit.conv.weight, 100.0)
    assert unit(torch.rand(1, 4, 3, 3) + 1).unique().tolist() == [6.0]


def test_convolutions_start_as_published():
    weight = ConvUnit(64, 128, 3, 1, None, None).conv.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)


@given(st.floats(0.01, 2000), st.integers(1, 64))
def test_rounded_widths_are_the_nearest_multiples_and_never_nothing(width, divisor):
    rounded = round_width(width, divisor)
    assert rounded % divisor == 0 and rounded >= divisor
    assert abs(rounded - int(width)) <= divisor / 2 or rounded == divisor


def test_an_expanded_width_is_rounded_to_the_divisor():
    options = UnitOptions(width_divisor=8)
    assert InvertedResidual(20, 20, 1.4, 1, options).pw.conv.out_channels == 32
    assert InvertedResidual(3, 8, 1, 1, options).pw.conv.out_channels == 8
