"""The supernet: every architecture of a space at once, and the choice among them as parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.layers.squeeze_excite import global_average_pool
from convbody.search.choice import draw_branches
from convbody.search.mixed import MixedLayer
from convbody.search.space import SearchSpace
from registry import Config, ConfigError

FORWARDS = ("soft", "sampled", "naive")


class Supernet(nn.Module):
    """Images (N, in_channels, H, W) -> logits (N, num_classes).

    Attributes:
        theta: (layers, candidates), whose softmax is how likely each candidate is.
        mode: how mixtures run, as ``forward`` says.

    Args:
        space: gives the layers, with the strides of training.
        in_channels, num_classes: of images and logits.
        forward: "soft" | "sampled" | "naive", see SEARCH.FORWARD.
        branches: draws of each layer's candidates, for "sampled".
    """

    def __init__(
        self, space: SearchSpace, in_channels: int, num_classes: int, forward: str = "soft", branches: int = 2
    ) -> None:
        super().__init__()
        self.mode, self._branches = forward, branches
        self.first = space.first_convolution(in_channels, training=True)
        self.layers = nn.ModuleList(
            MixedLayer({op: space.block(layer, op, training=True) for op in space.candidates})
            for layer in space.layers
        )
        self.fc = nn.Linear(space.layers[-1].out_channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        self.theta = nn.Parameter(torch.zeros(len(space.layers), len(space.candidates)))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, shares: Tensor | None = None) -> Tensor:
        """Logits of the mixture with ``shares`` (layers, candidates); without them, of the likeliest
        architecture alone.
        """
        x = self.first(images.contiguous(memory_format=torch.channels_last))
        if shares is None:
            one = torch.ones((), device=x.device, dtype=x.dtype)
            for layer, index in zip(self.layers, self.theta.argmax(dim=1).tolist(), strict=True):
                x = layer.picked(x, [(index, one)])  # type: ignore[operator]
        elif self.mode == "sampled":
            for layer, picks in zip(self.layers, draw_branches(shares, self._branches), strict=True):
                x = layer.picked(x, picks)  # type: ignore[operator]
        else:
            for layer, row in zip(self.layers, shares, strict=True):
                x = layer.soft(x, row) if self.mode == "soft" else layer.naive(x, row)  # type: ignore
        return F.linear(global_average_pool(x), self.fc.weight, self.fc.bias)


def build_supernet(cfg: Config, space: SearchSpace) -> Supernet:
    """The supernet that SEARCH describes, of random weights and a choice that prefers nothing.

    Raises:
        ConfigError: a value that cannot be, or candidates that cannot have a layer's widths.
    """
    if cfg.SEARCH.FORWARD not in FORWARDS:
        raise ConfigError(f"use {', '.join(FORWARDS)}", "SEARCH.FORWARD", cfg)
    if cfg.SEARCH.BRANCHES < 1:
        raise ConfigError("at least 1 draw is needed", "SEARCH.BRANCHES", cfg)
    channels = len(cfg.INPUT.PIXEL_MEAN)
    classes = cfg.MODEL.CLASSIFIER.NUM_CLASSES
    return Supernet(space, channels, classes, cfg.SEARCH.FORWARD, cfg.SEARCH.BRANCHES)
