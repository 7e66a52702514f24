"""What a backbone costs and gives: parameters, multiply-adds and features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from backbones.build import CONV_BODY, build_backbone
from backbones.spec import FeatureInfo
from registry import load_cfg


@dataclass(frozen=True)
class Summary:
    """A built backbone in numbers.

    ``gflops`` counts a multiply-add as one, in convolutions, linear layers, norms and attention, for one
    image.
    """

    name: str
    parameters: int
    gflops: float
    features: tuple[FeatureInfo, ...]


def summarise(name: str, size: tuple[int, int], opts: Sequence[Any] = ()) -> Summary:
    """Builds ``name`` with its family's defaults and ``opts``; counts for an image of ``size`` (H, W)."""
    backbone = build_backbone(load_cfg(None, [CONV_BODY, name, *opts])).eval()
    parameters = sum(p.numel() for p in backbone.parameters())
    features = tuple(getattr(backbone, "feature_info", ()))
    return Summary(name, parameters, _gflops(backbone, size), features)


def _gflops(backbone: torch.nn.Module, size: tuple[int, int]) -> float:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of Python branches; shapes are fixed here
        from fvcore.nn import FlopCountAnalysis

        count = FlopCountAnalysis(backbone, torch.zeros(1, 3, *size))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        count.set_op_handle("convbody::deform_conv2d", _deform_conv_flops)
        count.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        return float(count.total()) / 1e9


def _deform_conv_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Every output pixel is a dot product of the kernel's length."""
    weight, output = inputs[2].type().sizes(), outputs[0].type().sizes()
    return int(torch.Size(weight).numel() * output[0] * output[2] * output[3])


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Two matrix products: queries (..., L, E) by keys (..., S, E), the result by values."""
    query, key = inputs[0].type().sizes(), inputs[1].type().sizes()
    return int(2 * torch.Size(query).numel() * key[-2])
