"""Small detectors and pictures for the fuzz tests."""

from pathlib import Path

import pytest

from convbody.detection.data.synthetic import make_synthetic

SMALL = """
MODEL:
  DEVICE: cpu
  MASK_ON: true
  BACKBONE: {CONV_BODY: R-18-FPN, FREEZE_CONV_BODY_AT: 0}
  RESNETS: {STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8, WIDTH_PER_GROUP: 8, BACKBONE_OUT_CHANNELS: 16}
  RPN: {ANCHOR_SIZES: [8, 16, 32, 64, 128], POST_NMS_TOP_N_TRAIN: 50, POST_NMS_TOP_N_TEST: 30}
  ROI_HEADS: {BATCH_SIZE_PER_IMAGE: 16}
  ROI_BOX_HEAD:
    FEATURE_EXTRACTOR: FPN2MLPFeatureExtractor
    PREDICTOR: FPNPredictor
    POOLER_RESOLUTION: 7
    MLP_HEAD_DIM: 16
    NUM_CLASSES: 4
  ROI_MASK_HEAD:
    FEATURE_EXTRACTOR: MaskRCNNFPNFeatureExtractor
    SHARE_BOX_FEATURE_EXTRACTOR: false
    CONV_LAYERS: [8]
    RESOLUTION: 28
INPUT:
  MIN_SIZE_TRAIN: [64]
  MAX_SIZE_TRAIN: 64
  MIN_SIZE_TEST: 64
  MAX_SIZE_TEST: 64
DATALOADER:
  NUM_WORKERS: 0
SOLVER:
  IMS_PER_BATCH: 2
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``annotations.json`` and ``images`` of three drawn pictures."""
    return make_synthetic(tmp_path_factory.mktemp("pictures"), images=3, size=64, seed=3).parent


@pytest.fixture(scope="module")
def small_yaml() -> str:
    """The config of a small Mask R-CNN."""
    return SMALL
