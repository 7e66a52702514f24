"""RetinaNet (Lin et al. 2017, arXiv 1708.02002) with the published losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import retinanet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import Conv2dNormActivation, sigmoid_focal_loss

from backbones import Backbone
from convbody.detection.heads.anchors import retinanet_anchors
from convbody.detection.heads.dense import DenseDetector, refuse_region_heads, zero_based
from convbody.detection.heads.options import class_count, count_limit, iou_thresholds, overlap_limit
from convbody.detection.inputs import Target, TargetNeeds
from convbody.detection.transform import DetectionTransform
from convbody.training.class_rows import ClassRows, layer_rows
from registry import Config

_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # scales of the published regression targets


class RetinaNetHead(nn.Module):
    """torchvision's two towers, NUM_CONVS deep, with losses normalised over the batch as published."""

    def __init__(self, cfg: Config, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        node = cfg.MODEL.RETINANET
        self.alpha, self.gamma = node.LOSS_ALPHA, node.LOSS_GAMMA
        self.beta, self.box_weight = node.BBOX_REG_BETA, node.BBOX_REG_WEIGHT
        self.box_coder = BoxCoder(weights=_BOX_WEIGHTS)
        self.classification_head = retinanet.RetinaNetClassificationHead(
            in_channels, num_anchors, node.NUM_CLASSES - 1, node.PRIOR_PROB
        )
        self.class_rows = layer_rows("classification_head.cls_logits", ClassRows(groups=num_anchors))
        self.regression_head = retinanet.RetinaNetRegressionHead(in_channels, num_anchors)
        for tower in (self.classification_head, self.regression_head):
            tower.conv = _tower(in_channels, node.NUM_CONVS)

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """cls_logits (N, anchors, classes) and bbox_regression (N, anchors, 4)."""
        return {
            "cls_logits": self.classification_head(features),
            "bbox_regression": self.regression_head(features),
        }

    def compute_loss(
        self, targets: list[Target], outputs: dict[str, Tensor], anchors: list[Tensor], matched: list[Tensor]
    ) -> dict[str, Tensor]:
        """Focal loss over positives plus images, and smooth L1 over positives times BBOX_REG_WEIGHT.

        Args:
            targets: labels from 0.
            outputs: of :meth:`forward`.
            anchors, matched: per image (A, 4), and (A,): index of the object, -1 background, -2 neither.
        """
        logits, deltas = outputs["cls_logits"], outputs["bbox_regression"]
        match = torch.stack(matched)
        positive = match >= 0
        classes = torch.zeros_like(logits)
        regression = []
        for i, target in enumerate(targets):
            rows = torch.where(positive[i])[0]
            objects = match[i, rows]
            classes[i, rows, target["labels"][objects]] = 1.0
            boxes = target["boxes"][objects].to(deltas)
            regression.append(self.box_coder.encode_single(boxes, anchors[i][rows]))
        count = positive.sum()
        counted = match != Matcher.BETWEEN_THRESHOLDS
        focal = sigmoid_focal_loss(logits[counted], classes[counted], self.alpha, self.gamma, reduction="sum")
        smooth = F.smooth_l1_loss(deltas[positive], torch.cat(regression), beta=self.beta, reduction="sum")
        return {
            "loss_retina_cls": focal / (count + len(targets)),
            "loss_retina_reg": smooth / (count * self.box_weight).clamp(min=1),
        }


class RetinaNet(DenseDetector, retinanet.RetinaNet):
    """torchvision's RetinaNet with the published keys, anchors and losses."""

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        refuse_region_heads(cfg)
        node = cfg.MODEL.RETINANET
        classes = class_count(cfg, "MODEL.RETINANET")
        anchors = retinanet_anchors(cfg, backbone)
        head = RetinaNetHead(cfg, backbone.out_channels, anchors.num_anchors_per_location()[0])
        foreground, background = iou_thresholds(cfg, "MODEL.RETINANET")
        super().__init__(
            backbone,
            classes - 1,
            anchor_generator=anchors,
            head=head,
            score_thresh=node.INFERENCE_TH,
            nms_thresh=overlap_limit(node.NMS_TH),
            detections_per_img=None,  # detect() counts
            fg_iou_thresh=foreground,
            bg_iou_thresh=background,
            topk_candidates=node.PRE_NMS_TOP_N,
        )
        self.box_coder = head.box_coder
        self.limit = count_limit(cfg.TEST.DETECTIONS_PER_IMG)
        self.transform = DetectionTransform(cfg, backbone.size_divisibility)
        self.needs = TargetNeeds(classes, class_key="MODEL.RETINANET.NUM_CLASSES")

    def losses(self, images: ImageList, features: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """``loss_retina_cls`` and ``loss_retina_reg``."""
        anchors = self.anchor_generator(images, features)
        return self.compute_loss(zero_based(targets), self.predict(features), anchors)


def _tower(channels: int, count: int) -> nn.Sequential:
    """3x3 convolutions, each followed by a ReLU, that start small (normal, std 0.01)."""
    blocks = [Conv2dNormActivation(channels, channels, norm_layer=None) for _ in range(count)]
    for block in blocks:
        nn.init.normal_(block[0].weight, std=0.01)
        nn.init.zeros_(block[0].bias)
    return nn.Sequential(*blocks)
