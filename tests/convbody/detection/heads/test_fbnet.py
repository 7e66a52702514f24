"""FBNet's heads: their stages and options, and what an architecture without them says."""

import json

import pytest
import torch

from convbody.detection import build_detector
from convbody.detection.heads.registries import (
    BOX_FEATURE_EXTRACTORS,
    KEYPOINT_FEATURE_EXTRACTORS,
    MASK_FEATURE_EXTRACTORS,
    RPN_HEADS,
)
from registry import ConfigError, load_cfg

TINY = {
    "first": [8, 2],
    "stages": [
        [[1, 8, 1, 2]],
        [[2, 16, 3, 1]],
        [[2, 16, 1, 1]],
        [[2, 16, 2, 2], [2, 24, 1, -2]],
        [[1, 8, 1, 1], [1, 12, 1, 1]],
    ],
    "block_op_type": [["ir_k3"], ["ir_k3"] * 3, ["skip"], ["ir_k3"] * 3, ["ir_k3"] * 2],
    "last": [32, 0.0],
    "backbone": [0],
    "rpn": [1, 2],
    "bbox": [3],
    "head": [4],
}


def cfg_of(*opts, arch=TINY):
    named = ["MODEL.FBNET.ARCH", "tiny", "MODEL.FBNET.ARCH_DEF", json.dumps(arch)]
    return load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "FBNet", *named, *opts])


def box_head(*opts, arch=TINY, resolution=6):
    return BOX_FEATURE_EXTRACTORS["FBNet.roi_head"](cfg_of(*opts, arch=arch), 8, resolution)


def names(module):
    return [name for name, _ in module.named_children()]


def test_the_stages_of_the_architecture_become_the_head():
    head = box_head()
    assert names(head.head) == ["blocks", "last"] and names(head.head.blocks) == [
        "xif3_0",
        "xif3_1",
        "xif3_2",
    ]
    assert (head.out_channels, head.out_resolution) == (32, 6)
    for count in (3, 0):
        assert head(torch.rand(count, 8, 6, 6)).shape == (count, 32, 6, 6)


@pytest.mark.parametrize(("scale", "width"), [(1.0, 32), (0.5, 16), (0.0, 24), (-1.0, 24), (-0.5, 12)])
def test_the_last_convolution_has_a_factor(scale, width):
    head = box_head("MODEL.FBNET.DET_HEAD_LAST_SCALE", scale)
    assert head.out_channels == width == head(torch.rand(1, 8, 6, 6)).shape[1]
    assert (names(head.head.last) == []) == (scale == 0)


def test_blocks_and_stride_may_be_chosen():
    head = box_head("MODEL.FBNET.DET_HEAD_BLOCKS", [0, 1], "MODEL.FBNET.DET_HEAD_STRIDE", 1)
    assert names(head.head.blocks) == ["xif3_0", "xif3_1"] and head.out_resolution == 6
    assert box_head("MODEL.FBNET.DET_HEAD_BLOCKS", [0]).out_resolution == 3
    assert box_head(resolution=7).out_resolution == 8  # half of 7 is 4
    with pytest.raises(ConfigError, match=r"the head has blocks 0 to 2 .*DET_HEAD_BLOCKS = \[3\]"):
        box_head("MODEL.FBNET.DET_HEAD_BLOCKS", [3])
    with pytest.raises(ConfigError, match="1 or 2, or 0.*DET_HEAD_STRIDE = 4"):
        box_head("MODEL.FBNET.DET_HEAD_STRIDE", 4)


def test_a_head_without_stages_of_its_own_takes_those_called_head():
    mask = MASK_FEATURE_EXTRACTORS["FBNet.roi_head_mask"](cfg_of(), 8, 6)
    points = KEYPOINT_FEATURE_EXTRACTORS["FBNet.roi_head_keypoints"](cfg_of(), 8, 6)
    for head in (mask, points):
        assert names(head.head.blocks) == ["xif4_0", "xif4_1"] and head.out_channels == 12


def test_the_rpn_counts_its_blocks_from_the_end_over_all_of_its_stages():
    head = RPN_HEADS["FBNet.rpn_head"](cfg_of("MODEL.FBNET.RPN_HEAD_BLOCKS", 2), 16, 5)
    assert names(head[0].head) == ["xif1_2", "xif2_0"]
    logits, deltas = head([torch.rand(2, 16, 4, 6), torch.rand(2, 16, 2, 3)])
    assert [t.shape for t in logits] == [(2, 5, 4, 6), (2, 5, 2, 3)]
    assert [t.shape for t in deltas] == [(2, 20, 4, 6), (2, 20, 2, 3)]
    with pytest.raises(ConfigError, match="the head has 4 blocks"):
        RPN_HEADS["FBNet.rpn_head"](cfg_of("MODEL.FBNET.RPN_HEAD_BLOCKS", 5), 16, 5)


@pytest.mark.parametrize("word", ["gn", "af"])
def test_the_rpn_has_a_norm_of_its_own(word):
    opts = ["MODEL.FBNET.RPN_BN_TYPE", word, "MODEL.GROUP_NORM.NUM_GROUPS", 4]
    head = RPN_HEADS["FBNet.rpn_head"](cfg_of(*opts), 16, 5)
    kinds = {type(m).__name__ for m in head.modules() if "Norm" in type(m).__name__}
    assert kinds == {{"gn": "GroupNorm", "af": "FrozenBatchNorm2d"}[word]}


def test_an_architecture_made_for_an_anchor_stride():
    arch = {**TINY, "rpn_stride": 8}
    with pytest.raises(ConfigError, match="anchors every 8 pixels.*ANCHOR_STRIDE"):
        RPN_HEADS["FBNet.rpn_head"](cfg_of(arch=arch), 16, 5)
    assert RPN_HEADS["FBNet.rpn_head"](cfg_of("MODEL.RPN.ANCHOR_STRIDE", (8,), arch=arch), 16, 5)


def test_an_architecture_without_the_head_says_so():
    cfg = load_cfg(None, ["MODEL.BACKBONE.CONV_BODY", "FBNet-mobilenet_v2-FPN"])
    with pytest.raises(
        ConfigError, match="'mobilenet_v2'.*no stages for rpn, only for backbone, bbox"
    ) as caught:
        RPN_HEADS["FBNet.rpn_head"](cfg, 16, 5)
    assert "RPN_HEAD" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no stages for mask"):
        MASK_FEATURE_EXTRACTORS["FBNet.roi_head_mask"](cfg, 16, 6)


def test_a_detector_with_every_head_detects_and_trains_without_objects():
    """Published: empty batches fail in the head."""
    opts = [
        *("MODEL.RPN.RPN_HEAD", "FBNet.rpn_head", "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FBNet.roi_head"),
        *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 6, "MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True),
        *("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "FBNet.roi_head_mask"),
        *("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor", "MODEL.ROI_MASK_HEAD.RESOLUTION", 6),
        *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 6, "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", 6),
        *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
        *("MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR", "FBNet.roi_head_keypoints"),
        *("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", False),
        *("MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 24, "MODEL.RPN.POST_NMS_TOP_N_TRAIN", 10),
    ]
    torch.manual_seed(0)
    detector = build_detector(cfg_of(*opts))
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
        "keypoints": torch.zeros(0, 17, 3),
    }
    sum(detector([torch.rand(3, 64, 64)], [nothing]).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    (found,) = detector.eval()([torch.rand(3, 64, 64)])
    assert found["masks"].shape[1:] == (1, 64, 64) and found["keypoints"].shape[1:] == (17, 3)
