"""Detectors small enough to train in a test, and a batch for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from registry import Config, load_cfg

SMALL_BODY = {
    "MODEL.RESNETS.STEM_FUNC": "StemWithGN",
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithGN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 32,
    "MODEL.GROUP_NORM.NUM_GROUPS": 4,
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": 4,
    "MODEL.ROI_MASK_HEAD.CONV_LAYERS": (16, 16),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": (16, 16),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CLASSES": 4,
    "MODEL.FCOS.NUM_CLASSES": 4,
    "MODEL.RPN.STRADDLE_THRESH": -1,
    "MODEL.RPN.ANCHOR_SIZES": (8, 16, 32, 64, 128),
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 50,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RETINANET.ANCHOR_SIZES": (16, 32, 64, 96, 128),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.TO_BGR255": False,
    "INPUT.PIXEL_MEAN": [0.45, 0.45, 0.45],
    "INPUT.PIXEL_STD": [0.25, 0.25, 0.25],
}

FPN = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
C4 = {"MODEL.BACKBONE.CONV_BODY": "R-18-C4", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6}
FPN_MASK = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR": "MaskRCNNFPNFeatureExtractor",
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": False,
    "MODEL.ROI_MASK_HEAD.RESOLUTION": 28,
}
KEYPOINT = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR": False,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION": 28,
}
PYRAMID = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET"}

KINDS: dict[str, dict[str, Any]] = {
    "faster-fpn": FPN,
    "faster-c4": C4,
    "mask-fpn": {**FPN, **FPN_MASK},
    "mask-c4": {**C4, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.RESOLUTION": 6},
    "keypoint-fpn": {**FPN, **KEYPOINT},
    "keypoint-c4": {**C4, **KEYPOINT},
    "everything-fpn": {**FPN, **FPN_MASK, **KEYPOINT},
    "rpn-fpn": {**FPN, "MODEL.RPN_ONLY": True},
    "rpn-c4": {**C4, "MODEL.RPN_ONLY": True},
    "retinanet": {**PYRAMID, "MODEL.RETINANET_ON": True, "MODEL.RPN_ONLY": True},
    "fcos": {**PYRAMID, "MODEL.META_ARCHITECTURE": "FCOS", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 64},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kinds() -> tuple[str, ...]:
    return tuple(KINDS)


@pytest.fixture
def small_cfg() -> Callable[..., Config]:
    """``small_cfg(kind, {KEY: value})``: the config of a small detector."""

    def make(kind: str, changes: dict[str, Any] | None = None) -> Config:
        options = {**SMALL_BODY, **KINDS[kind], **(changes or {})}
        return load_cfg(None, [part for pair in options.items() for part in pair])

    return make


@pytest.fixture
def small_detector(small_cfg: Callable[..., Config]) -> Callable[..., nn.Module]:
    """``small_detector(kind, {KEY: value})``: that detector, its weights the same in every test."""
    from convbody.detection import build_detector

    def make(kind: str, changes: dict[str, Any] | None = None) -> nn.Module:
        torch.manual_seed(1)
        return build_detector(small_cfg(kind, changes))

    return make


def make_target(boxes: list[list[float]], labels: list[int], height: int, width: int) -> dict[str, Tensor]:
    """A target with boxes, their filled masks, and three keypoints in each box."""
    box = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(box), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, box.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    centre = (box[:, :2] + box[:, 2:]) / 2
    points = torch.stack([box[:, :2] + 1, centre, box[:, 2:] - 1], dim=1)
    keypoints = torch.cat([points, torch.full((len(box), 3, 1), 2.0)], dim=2)
    return {
        "boxes": box,
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
        "keypoints": keypoints,
    }


@pytest.fixture
def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two images of different sizes, one with two objects, one with none."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.rand(3, 64, 80, generator=generator) * 0.2,
        torch.rand(3, 72, 64, generator=generator) * 0.2,
    ]
    images[0][0, 8:40, 10:50] += 0.7
    images[0][2, 30:60, 50:78] += 0.7
    return images, [
        make_target([[10, 8, 50, 40], [50, 30, 78, 60]], [1, 3], 64, 80),
        make_target([], [], 72, 64),
    ]
