"""Blob names of Caffe2 and Detectron: ImageNet ResNets, with affine or group norms, and detectors' FPNs.

A blob is ``res<stage>_<block>_<branch>_<what>``. Batch norm of these files is folded into a scale and a shift
(``_bn_s``, ``_bn_b``). Detectron names the FPN's convolutions after the block that feeds them, the last of
its stage, so that the block's number tells the depth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BRANCHES = {
    "branch2a": ("conv1", "bn1"),
    "branch2b": ("conv2", "bn2"),
    "branch2c": ("conv3", "bn3"),
    "branch1": ("downsample.0", "downsample.1"),
}

#: Last block of each stage, in R-50, R-101 and R-152.
_LAST_BLOCKS = {1: "2", 2: "(?:3|7)", 3: "(?:5|22|35)", 4: "2"}

RENAMES = (
    (r"^conv1_w$", "body.stem.conv1.weight"),
    (r"^(?:res_conv1_bn|conv1_gn)_", "body.stem.bn1."),
    *(
        (rf"^res{stage + 1}_(\d+)_{branch}_(?:bn|gn)_", rf"body.layer{stage}.\1.{norm}.")
        for stage in _LAST_BLOCKS
        for branch, (_, norm) in _BRANCHES.items()
    ),
    *(
        (rf"^res{stage + 1}_(\d+)_{branch}_w$", rf"body.layer{stage}.\1.{conv}.weight")
        for stage in _LAST_BLOCKS
        for branch, (conv, _) in _BRANCHES.items()
    ),
    *(
        (rf"^{blob}_res{stage + 1}_{last}_sum{'_lateral' * lateral}_", f"fpn.{conv}{stage}.")
        for stage, last in _LAST_BLOCKS.items()
        # The coarsest stage starts the top-down path: there is nothing to add its convolution to.
        for blob, conv, lateral in (("fpn_inner", "fpn_inner", stage < 4), ("fpn", "fpn_layer", False))
    ),
    (r"^(fpn\.fpn_(?:inner|layer)\d)\.gn_", r"\1.1."),
    (r"^fpn_([67])_", r"fpn.top_blocks.p\1."),
    (r"^((?:body|fpn)\..+)\.(?:w|s|gamma)$", r"\1.weight"),
    (r"^((?:body|fpn)\..+)\.(?:b|beta)$", r"\1.bias"),
    (r"^(body\..+)\.rm$", r"\1.running_mean"),
    (r"^(body\..+)\.riv$", r"\1.running_var"),
)

_NORM = re.compile(r"((?:res_conv1|res[2-5]_\d+_branch(?:1|2[abc]))_bn)_s$")


def completed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blobs of a network: the solver's are left out, and folded norms get the statistics they imply.

    A scale without statistics is one with mean 0 and variance 1. Files of other lineages stay as they are.
    """
    blobs = {name: value for name, value in state.items() if name != "lr" and not name.endswith("_momentum")}
    for name, scale in list(blobs.items()):
        norm = _NORM.match(name)
        if norm and f"{norm[1]}_rm" not in blobs and f"{norm[1]}_running_mean" not in blobs:
            blobs[f"{norm[1]}_rm"] = torch.zeros_like(scale)
            blobs[f"{norm[1]}_riv"] = torch.ones_like(scale)
    return blobs
