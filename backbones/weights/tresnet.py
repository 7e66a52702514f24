"""TResNet's official files, whose norms are in-place ABN, and timm's, whose norms are batch norm as ours.

In-place ABN scales by \\|weight\\| + epsilon. Read, that sum is the weight. Written, epsilon is taken off it,
and where it is negative the sign goes into the convolution: -w * (x - mean) is w * (-x + mean). Only a weight
nearer to 0 than epsilon is written as one of epsilon.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones.weights.rules import Lineage, Rule, State, match
from backbones.weights.torchvision import with_counters
from registry import ConvbodyError

_EPS = 1e-5  # of in-place ABN

_BODY = "backbone.body."
_HEAD = Rule("head.fc.{leaf}", "fc.{leaf}")
_SQUEEZE_EXCITE = Rule("body.layer{s}.{b}.se.{rest}", _BODY + "layer{s}.{b}.se.{rest}")


def _scale(weight: Tensor) -> Tensor:
    return weight.abs() + _EPS


def _official(theirs: str, ours: str, *beside: Rule) -> tuple[Rule, ...]:
    """A convolution (0) and its norm (1)."""
    return (
        Rule(f"{theirs}.1.weight", f"{_BODY}{ours}.1.weight", to_ours=_scale, beside=beside),
        Rule(theirs + ".{j}.{leaf}", _BODY + ours + ".{j}.{leaf}", beside=beside),
    )


_BOTTLENECK = Rule("body.layer{s+2}.0.conv3.0.weight", _BODY + "layer{s+2}.0.conv3.0.weight")


def _signs_to_convolutions(state: State) -> State:
    """Takes epsilon off the scales and their signs into the convolutions before them, official names.

    Raises:
        ConvbodyError: a scale without its convolution.
    """
    written = dict(with_counters(state))
    for name, weight in state.items():
        path = name.removesuffix(".1.weight")
        if path == name or match("body.{rest}", name) is None:
            continue
        if f"{path}.0.weight" not in state or f"{path}.1.running_mean" not in state:
            raise ConvbodyError(f"{name} cannot be written without the convolution and statistics beside it")
        sign = torch.where(weight < 0, -1, 1).to(weight.dtype)
        written[name] = (weight.abs() - _EPS).clamp(min=0)
        written[f"{path}.0.weight"] = state[f"{path}.0.weight"] * sign.view(-1, 1, 1, 1)
        written[f"{path}.1.running_mean"] = state[f"{path}.1.running_mean"] * sign
    return written


OFFICIAL = Lineage(
    name="tresnet",
    marks=("body.conv1.0.weight",),
    rules=(
        *_official("body.conv1", "stem"),
        # Where a stride is, a blur follows, and both are in a sequence: behind conv2 of a bottleneck...
        *_official("body.layer{s+2}.0.conv1", "layer{s+2}.0.conv1", _BOTTLENECK),
        *_official("body.layer{s+2}.0.conv2.0", "layer{s+2}.0.conv2", _BOTTLENECK),
        # ... and behind conv1 of a basic block.
        *_official("body.layer{s+2}.0.conv1.0", "layer{s+2}.0.conv1"),
        *_official("body.layer{s}.{b}.conv{c}", "layer{s}.{b}.conv{c}"),
        *_official("body.layer{s}.{b}.downsample.{d}", "layer{s}.{b}.downsample.{d}"),
        _SQUEEZE_EXCITE,
        _HEAD,
    ),
    ignored=("{rest}.filt",),  # the blur, a constant
    finish=_signs_to_convolutions,
)


def _timm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(theirs + ".conv.{leaf}", _BODY + ours + ".0.{leaf}"),
        Rule(theirs + ".bn.{leaf}", _BODY + ours + ".1.{leaf}"),
    )


TIMM = Lineage(
    name="timm-tresnet",
    marks=("body.conv1.conv.weight",),
    rules=(
        *_timm("body.conv1", "stem"),
        *_timm("body.layer{s}.{b}.conv{c}", "layer{s}.{b}.conv{c}"),
        *_timm("body.layer{s}.{b}.downsample.{d}", "layer{s}.{b}.downsample.{d}"),
        _SQUEEZE_EXCITE,
        _HEAD,
    ),
    finish=with_counters,
)
