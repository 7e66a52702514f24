import torch

from backbones.layers.squeeze_excite import SqueezeExcite, global_average_pool


def test_channels_are_scaled_by_what_their_means_say():
    layer = SqueezeExcite(3, 2)
    x = torch.randn(2, 3, 4, 5)
    hidden = (x.mean((2, 3)) @ layer.fc1.weight[:, :, 0, 0].T + layer.fc1.bias).clamp(min=0)
    factor = torch.sigmoid(hidden @ layer.fc2.weight[:, :, 0, 0].T + layer.fc2.bias)
    torch.testing.assert_close(layer(x), x * factor[:, :, None, None])


def test_pooling_is_the_mean_in_any_memory_format():
    x = torch.randn(2, 3, 4, 5)
    for image in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(global_average_pool(image), x.mean((2, 3)))
