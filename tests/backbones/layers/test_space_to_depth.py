import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.layers.space_to_depth import space_to_depth


@given(
    size=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    block=st.integers(1, 4),
)
def test_every_pixel_has_its_channel_and_the_rest_is_zero(size, block):
    x = torch.arange(1.0, 1 + torch.Size(size).numel()).view(size)
    out = space_to_depth(x, block)
    channels = size[1]
    assert out.shape == (size[0], block * block * channels, -(-size[2] // block), -(-size[3] // block))
    for row in range(block):
        for column in range(block):
            first = (row * block + column) * channels
            pixels = x[:, :, row::block, column::block]
            part = out[:, first : first + channels, : pixels.shape[2], : pixels.shape[3]]
            assert torch.equal(part, pixels)
    assert out.sum() == x.sum()
