"""Files of networks that are architectures of FBNet: torchvision's ``mobilenet_v2``, timm's ``fbnetc_100``.

MobileNetV2's first block does not widen, and torchvision leaves out the convolution that would: read, it is
the identity, which it stays while its norm is frozen or evaluated. Written, it has to be that still.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from backbones.weights.rules import Lineage, Rule, State
from backbones.weights.torchvision import refusal, with_counters
from registry import ConvbodyError

_BODY = "backbone.body."
_EPS = 1e-5  # of the norms that the weights were trained with
_WIDEST = 1024  # channels of a first convolution; MobileNetV2's have 32 times its width
_IDENTITY = "features.1.pw."  # torchvision has no such name

#: Blocks in each stage of the architecture mobilenet_v2.
_MOBILENET_V2 = (1, 2, 3, 7, 4)
#: Stages of the architecture fbnet_c, each a block, that are not ``skip``, by the stages that timm counts.
_FBNET_C = ((0,), (1, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20), (21,))

_WIDENING = {
    "conv.0.0": "pw.conv",
    "conv.0.1": "pw.bn",
    "conv.1.0": "dw.conv",
    "conv.1.1": "dw.bn",
    "conv.2": "pwl.conv",
    "conv.3": "pwl.bn",
}
_NOT_WIDENING = {
    "pw.conv": "pw.conv",
    "pw.bn": "pw.bn",
    "conv.0.0": "dw.conv",
    "conv.0.1": "dw.bn",
    "conv.1": "pwl.conv",
    "conv.2": "pwl.bn",
}
_TIMM = {
    "conv_pw": "pw.conv",
    "bn1": "pw.bn",
    "conv_dw": "dw.conv",
    "bn2": "dw.bn",
    "conv_pwl": "pwl.conv",
    "bn3": "pwl.bn",
}
_NO_DW_NORM = (
    "holds a norm behind every depthwise convolution, which this body leaves out; set "
    "MODEL.FBNET.DW_CONV_SKIP_BN and MODEL.FBNET.DW_CONV_SKIP_RELU to False"
)


def _mobilenet_v2() -> Iterator[Rule]:
    yield from _pairs("features.0", "first", {"0": "conv", "1": "bn"})
    number = 0
    for stage, count in enumerate(_MOBILENET_V2):
        for index in range(count):
            number += 1
            layers = _WIDENING if number > 1 else _NOT_WIDENING
            yield from _pairs(f"features.{number}", f"stages.xif{stage}_{index}", layers)
    # Counts where there is no dw.bn.
    yield _refusal("features.2.conv.1.1.weight", "stages.xif1_0", "torchvision's mobilenet_v2")


def _fbnet_c() -> Iterator[Rule]:
    yield from _pairs("", "first", {"conv_stem": "conv", "bn1": "bn"})
    for stage, blocks in enumerate(_FBNET_C):
        for index, block in enumerate(blocks):
            yield from _pairs(f"blocks.{stage}.{index}", f"stages.xif{block}_0", _TIMM)
    yield _refusal("blocks.1.0.bn2.weight", "stages.xif1_0", "timm's fbnetc_100")


def _pairs(theirs: str, ours: str, layers: dict[str, str]) -> Iterator[Rule]:
    for there, here in layers.items():
        name = f"{theirs}.{there}" if theirs else there
        yield Rule(f"{name}.{{leaf}}", f"{_BODY}{ours}.{here}.{{leaf}}")


def _refusal(norm: str, block: str, what: str) -> Rule:
    return refusal(norm, f"{_BODY}{block}.pwl.conv.weight", f"a file of {what} {_NO_DW_NORM}")


def with_identity(state: State) -> State:
    """Adds the convolution that widens nothing, and a norm that does nothing."""
    first = state.get("features.0.0.weight")
    width = first.shape[0] if first is not None and first.dim() == 4 else 0
    if not 0 < width <= _WIDEST:
        return state  # of another network
    layer = {
        "conv.weight": torch.eye(width)[:, :, None, None],
        "bn.weight": torch.ones(width),
        "bn.bias": torch.zeros(width),
        "bn.running_mean": torch.zeros(width),
        "bn.running_var": torch.ones(width) - _EPS,
        "bn.num_batches_tracked": torch.tensor(0),
    }
    return {**state, **{f"{_IDENTITY}{name}": value for name, value in layer.items()}}


def without_identity(state: State) -> State:
    """Leaves that convolution out.

    Raises:
        ConvbodyError: it does something.
    """
    there = {name: value for name, value in state.items() if name.startswith(_IDENTITY)}
    wanted = with_identity(state)
    for name, value in there.items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.shape != wanted[name].shape or not torch.allclose(value.cpu(), wanted[name]):
            raise ConvbodyError(
                "torchvision's mobilenet_v2 has no convolution that widens in its first block, and that of "
                "this body is no longer the identity: it was trained"
            )
    return with_counters({name: value for name, value in state.items() if name not in there})


MOBILENET_V2 = Lineage(
    name="torchvision-mobilenet",
    marks=("features.0.0.weight",),
    rules=tuple(_mobilenet_v2()),
    complete=with_identity,
    finish=without_identity,
)
FBNET_C = Lineage(
    name="timm-fbnet", marks=("conv_stem.weight",), rules=tuple(_fbnet_c()), finish=with_counters
)
