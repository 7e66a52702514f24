import pytest
import torch
import torch.nn.functional as F

from backbones.layers.blur_pool import BlurPool2d


def test_it_is_the_binomial_filter_on_mirrored_edges():
    x = torch.randn(2, 3, 8, 11)
    row = torch.tensor([0.25, 0.5, 0.25])
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    wanted = torch.stack([F.conv2d(p[:, None], torch.outer(row, row)[None, None]) for p in padded.unbind(1)])
    torch.testing.assert_close(BlurPool2d()(x), wanted[:, :, 0, ::2, ::2].transpose(0, 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 2), (5, 8)])
def test_a_constant_stays_and_sides_halve_upwards(size):
    out = BlurPool2d()(torch.full((2, 3, *size), 7.0))
    assert out.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(out, torch.full_like(out, 7.0))


def test_it_has_no_weights_and_keeps_the_dtype():
    blur = BlurPool2d()
    assert not blur.state_dict()
    assert blur(torch.rand(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
