"""torchvision's R-50-FPN and Mask R-CNN, and ours with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from backbones import build_backbone
from convbody.compare.names import pair
from convbody.compare.observe import floating
from convbody.compare.port import carry_over
from convbody.detection import build_detector
from registry import load_cfg

PEER, OURS = "torchvision", "convbody"
CONFIG = "configs/torchvision/mask_rcnn_R_50_FPN.yaml"
OPTIONS = (
    *("MODEL.WEIGHT", "", "MODEL.FROZEN_BN.EPSILON", 1e-5),
    *("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 2),  # the stem and the first stage, as trainable_layers=3
)


def peer_backbone() -> nn.Module:
    """torchvision's backbone, with frozen norms that are not the identity."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    backbone: nn.Module = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    for name, buffer in backbone.named_buffers():
        if name.endswith(("running_var", "running_mean", "bias")):
            buffer.uniform_(0.8, 1.2) if name.endswith("var") else buffer.uniform_(-0.1, 0.1)
    for name, buffer in backbone.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.3)  # activations neither grow nor vanish
    return backbone


def peer_detector(height: int, width: int) -> nn.Module:
    """torchvision's Mask R-CNN, which leaves images of this size as they are."""
    from torchvision.models.detection import MaskRCNN

    detector: nn.Module = MaskRCNN(
        peer_backbone(), 91, min_size=min(height, width), max_size=max(height, width)
    )
    return detector


def backbone(name: str, memory_format: str = "auto") -> nn.Module:
    """The backbone of ``name``, PEER or OURS."""
    theirs = peer_backbone()
    if name == PEER:
        return theirs
    return _like(theirs, build_backbone(load_cfg(CONFIG, [*OPTIONS, "MODEL.MEMORY_FORMAT", memory_format])))


def detector(name: str, height: int, width: int, recompute: str = "none") -> nn.Module:
    """The Mask R-CNN of ``name``, PEER or OURS, in training mode; ``recompute``: MODEL.RECOMPUTE of ours."""
    theirs = peer_detector(height, width)
    if name == PEER:
        return theirs
    return _like(theirs, build_detector(load_cfg(CONFIG, [*OPTIONS, "MODEL.RECOMPUTE", recompute])))


def _like(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    pairing = pair(floating(theirs), floating(ours))
    assert len(pairing.tensors) == len(floating(theirs)) == len(floating(ours)), "weights have no counterpart"
    carry_over(floating(theirs), ours, pairing.tensors)
    return ours


def per_call(call: Callable[[], object], calls: int) -> dict[str, float]:
    """Seconds a call, of wall and of CPU time (user and system, all threads), after one that warms up."""
    call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        call()
    return {"cpu": (time.process_time() - cpu) / calls, "wall": (time.perf_counter() - wall) / calls}
