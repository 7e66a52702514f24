import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from backbones.layers.deform_conv import DFConv2d


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("deformable_groups", [1, 2, 4])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "groups": 2}, {"dilation": 2, "bias": True}])
def test_without_displacement_it_is_a_convolution(modulated, deformable_groups, options):
    conv = DFConv2d(8, 6, modulated, deformable_groups=deformable_groups, **options)
    torch.nn.init.zeros_(conv.offset.weight)
    x = torch.randn(2, 8, 9, 7)
    dilation = options.get("dilation", 1)
    plain = F.conv2d(
        x, conv.conv.weight, None, conv.stride, dilation, dilation, groups=options.get("groups", 1)
    )
    factor = 0.5 if modulated else 1.0  # the sigmoid of zero
    torch.testing.assert_close(conv(x), plain * factor, atol=1e-5, rtol=1e-5)


def test_each_group_displaces_its_own_channels_and_has_its_own_factors():
    """Group 1 looks one pixel to the right, group 2 stays; the factors of group 2 are off, then on."""
    conv = DFConv2d(2, 1, True, kernel_size=1, deformable_groups=2)
    torch.nn.init.zeros_(conv.offset.weight)
    torch.nn.init.ones_(conv.conv.weight)
    x = torch.rand(1, 2, 3, 4)
    shifted = F.pad(x[:, :1, :, 1:], (0, 1))
    with torch.no_grad():
        # (dy, dx) of group 1, (dy, dx) of group 2, then the logits of both
        conv.offset.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 50.0, -50.0]))
        torch.testing.assert_close(conv(x), shifted)
        conv.offset.bias[5] = 50.0
        torch.testing.assert_close(conv(x), shifted + x[:, 1:])


def test_a_batch_of_none():
    assert DFConv2d(4, 6)(torch.zeros(0, 4, 5, 5)).shape == (0, 6, 5, 5)


@pytest.mark.parametrize("modulated", [False, True])
def test_it_is_torchvisions_operator_behind_the_predictor_of_its_offsets(modulated):
    conv = DFConv2d(8, 6, modulated, stride=2, groups=2, deformable_groups=4, bias=True)
    torch.nn.init.normal_(conv.offset.weight)
    x = torch.randn(2, 8, 9, 7)
    offset, logits = conv.offset(x).split([72, 36 if modulated else 0], dim=1)
    mask = logits.sigmoid() if modulated else None
    wanted = deform_conv2d(x, offset, conv.conv.weight, conv.conv.bias, 2, 1, 1, mask)
    torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=1e-5)


def test_its_parameters_have_the_published_names():
    names = ["offset.weight", "offset.bias", "conv.weight"]
    assert list(DFConv2d(4, 6).state_dict()) == names
    assert list(DFConv2d(4, 6, bias=True).state_dict()) == [*names, "conv.bias"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_does_the_same(copied):
    conv = DFConv2d(4, 6)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(copied(conv)(x), conv(x), atol=0, rtol=0)


def test_frozen_it_passes_gradients_on_and_takes_none():
    conv = DFConv2d(4, 6).requires_grad_(False)
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad.any() and all(parameter.grad is None for parameter in conv.parameters())
