"""Keypoint head (He et al. 2017, arXiv 1703.06870, section 5)."""

from __future__ import annotations

from torchvision.models.detection import keypoint_rcnn

from convbody.training.class_rows import KEYPOINTS, ClassRows
from registry import Config


class KeypointRCNNFeatureExtractor(keypoint_rcnn.KeypointRCNNHeads):
    """3x3 convolutions of widths CONV_LAYERS: (N, C, S, S) to (N, D, S, S)."""

    def __init__(self, cfg: Config, in_channels: int, resolution: int) -> None:
        layers = cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS
        super().__init__(in_channels, layers)
        self.out_channels: int = layers[-1] if layers else in_channels
        self.out_resolution = resolution


class KeypointRCNNPredictor(keypoint_rcnn.KeypointRCNNPredictor):
    """A heat map per keypoint at four times the resolution: (N, NUM_CLASSES, 4S, 4S)."""

    upscale = 4

    def __init__(self, cfg: Config, in_channels: int) -> None:
        super().__init__(in_channels, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES)
        # A transposed convolution has its outputs along the second axis.
        self.class_rows = {
            "kps_score_lowres.weight": ClassRows(axis=1, of=KEYPOINTS),
            "kps_score_lowres.bias": ClassRows(of=KEYPOINTS),
        }
