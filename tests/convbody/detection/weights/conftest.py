"""Detectors of the published shapes, whole or with few channels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from convbody.detection import build_detector
from registry import load_cfg

ROOT = Path(__file__).resolve().parents[4]

NARROW = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32),
    *("MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 32),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32),
    *("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (32, 32, 32)),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (32, 32, 32)),
]
FOUR_CONVS = ["MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor"]

#: Name of a test case -> file in configs/coco, and changes.
CASES = {
    "rpn": ("rpn_R_50_FPN_1x", []),
    "faster_fpn": ("faster_rcnn_R_50_FPN_1x", []),
    "faster_c4": ("faster_rcnn_R_50_C4_1x", []),
    "agnostic": ("faster_rcnn_R_50_FPN_1x", ["MODEL.CLS_AGNOSTIC_BBOX_REG", True]),
    "mask_fpn": ("mask_rcnn_R_50_FPN_1x", []),
    "mask_c4": ("mask_rcnn_R_50_C4_1x", []),
    "mask_gn": ("mask_rcnn_R_50_FPN_1x_gn", FOUR_CONVS),
    "four_convs": ("faster_rcnn_R_50_FPN_1x", FOUR_CONVS),
    "resnext": ("mask_rcnn_X_101_32x8d_FPN_1x", ["MODEL.RESNETS.WIDTH_PER_GROUP", 1]),
    "keypoint": ("keypoint_rcnn_R_50_FPN_1x", []),
    "retinanet": ("retinanet_R_50_FPN_1x", ["MODEL.RETINANET.NUM_CLASSES", 5]),
}


def config(name, *opts):
    return load_cfg(ROOT / "configs" / "coco" / f"{name}.yaml", ["MODEL.WEIGHT", "", *opts])


def shapes(name: str, *opts: object) -> dict[str, list[int]]:
    """Names and shapes of a detector in configs/coco."""
    with torch.device("meta"):
        model = build_detector(config(name, *opts))
    return {key: list(tensor.shape) for key, tensor in model.state_dict().items()}


def build(case: str) -> nn.Module:
    """A narrow detector with random weights everywhere, norms of a folded kind where they are not GN."""
    name, opts = CASES[case]
    model = build_detector(config(name, *NARROW, *opts))
    fill(model.state_dict(), seed=0)
    return model


def fill(state: dict[str, Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if not name.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))


@pytest.fixture(scope="session")
def detectors() -> SimpleNamespace:
    return SimpleNamespace(cases=CASES, narrow=NARROW, build=build, fill=fill, shapes=shapes, config=config)
