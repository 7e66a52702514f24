"""Two-stage detectors: Faster, Mask and Keypoint R-CNN, and the proposal network alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import generalized_rcnn
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone
from convbody.detection.heads.options import class_count, refuse_augmentation
from convbody.detection.heads.roi import Candidates, RoIHeads, build_roi_heads
from convbody.detection.heads.rpn import RPN
from convbody.detection.inputs import Target, TargetNeeds
from convbody.detection.model import Detector
from convbody.detection.transform import DetectionTransform
from registry import Config, ConfigError


def build_rcnn(cfg: Config, backbone: Backbone) -> Detector:
    """The two-stage detector on ``backbone``, or, with MODEL.RPN_ONLY, its first stage."""
    if not cfg.MODEL.RPN_ONLY:
        if cfg.TEST.BBOX_AUG.ENABLED:
            from convbody.detection.heads.augmented import AugmentedRCNN  # a subclass of the one below

            return AugmentedRCNN(cfg, backbone)
        return GeneralizedRCNN(cfg, backbone)
    refuse_augmentation(cfg)
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key]:
            raise ConfigError("MODEL.RPN_ONLY leaves out this head; turn one off", f"MODEL.{key}", cfg)
    return ProposalNetwork(cfg, backbone)


class GeneralizedRCNN(Detector, generalized_rcnn.GeneralizedRCNN):
    """Proposals, then heads that classify, refine, segment and place keypoints (He et al. 2017)."""

    rpn: RPN
    roi_heads: RoIHeads

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        classes = class_count(cfg, "MODEL.ROI_BOX_HEAD")
        super().__init__(
            backbone,
            RPN(cfg, backbone),
            build_roi_heads(cfg, backbone),
            DetectionTransform(cfg, backbone.size_divisibility),
        )
        self.needs = TargetNeeds(
            classes,
            masks=cfg.MODEL.MASK_ON,
            keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES if cfg.MODEL.KEYPOINT_ON else 0,
            class_key="MODEL.ROI_BOX_HEAD.NUM_CLASSES",
        )

    def losses(self, images: ImageList, features: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages."""
        predictions = self.rpn(images, features)
        proposals, _ = self.rpn.propose(predictions, images.image_sizes)
        return {
            **self.roi_heads.losses(features, proposals, images.image_sizes, targets),
            **self.rpn.losses(predictions, targets, images.image_sizes),
        }

    def detect(self, images: ImageList, features: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of the second stage."""
        return self.roi_heads.finish(features, self.candidates(images, features), images.image_sizes)

    def candidates(self, images: ImageList, features: list[Tensor]) -> list[Candidates]:
        """What both stages say of the boxes, before any is dropped."""
        proposals, _ = self.rpn.propose(self.rpn(images, features), images.image_sizes)
        return self.roi_heads.candidates(features, proposals, images.image_sizes)


class ProposalNetwork(Detector):
    """The first stage alone: its detections are the proposals, all of label 1, scored by objectness."""

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        super().__init__()
        self.transform = DetectionTransform(cfg, backbone.size_divisibility)
        self.backbone = backbone
        self.rpn = RPN(cfg, backbone)
        self.needs = TargetNeeds(num_classes=None)

    def losses(self, images: ImageList, features: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Losses of the proposals."""
        return self.rpn.losses(self.rpn(images, features), targets, images.image_sizes)

    def detect(self, images: ImageList, features: list[Tensor]) -> list[dict[str, Tensor]]:
        """The proposals."""
        boxes, scores = self.rpn.propose(self.rpn(images, features), images.image_sizes)
        return [
            {"boxes": box, "labels": torch.ones_like(score, dtype=torch.int64), "scores": score}
            for box, score in zip(boxes, scores, strict=True)
        ]
