"""FCOS (Tian et al. 2019, arXiv 1904.01355) on any pyramid."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection import fcos
from torchvision.models.detection.image_list import ImageList

from backbones import Backbone
from convbody.detection.heads.anchors import Anchors, anchor_convention
from convbody.detection.heads.dense import DenseDetector, refuse_region_heads, zero_based
from convbody.detection.heads.options import class_count, count_limit, overlap_limit
from convbody.detection.inputs import Target, TargetNeeds
from convbody.detection.transform import DetectionTransform
from convbody.training.class_rows import ClassRows, layer_rows
from registry import Config, ConfigError

_NORM_GROUPS = 32  # of the group norm in torchvision's towers


class FCOS(DenseDetector, fcos.FCOS):
    """torchvision's FCOS, its points where MODEL.ANCHOR_CONVENTION has the centres of anchors.

    "published" is the middle of the cells, as the paper has them.
    """

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        refuse_region_heads(cfg)
        node, width = cfg.MODEL.FCOS, backbone.out_channels
        classes = class_count(cfg, "MODEL.FCOS")
        if width % _NORM_GROUPS:
            raise ConfigError(
                f"the towers of FCOS have {_NORM_GROUPS} norm groups; {width} channels do not divide by that",
                "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
                cfg,
            )
        super().__init__(
            backbone,
            classes - 1,
            # One square per cell, a stride wide: its centre is the point, its side the unit of the distances.
            anchor_generator=Anchors(
                backbone.strides,
                [(stride,) for stride in backbone.strides],
                (1.0,),
                anchor_convention(cfg),
            ),
            head=fcos.FCOSHead(width, 1, classes - 1, node.NUM_CONVS),
            center_sampling_radius=node.CENTER_SAMPLING_RADIUS,
            score_thresh=node.INFERENCE_TH,
            nms_thresh=overlap_limit(node.NMS_TH),
            detections_per_img=None,  # detect() counts
            topk_candidates=node.PRE_NMS_TOP_N,
        )
        self.class_rows = layer_rows("head.classification_head.cls_logits", ClassRows())
        self.limit = count_limit(cfg.TEST.DETECTIONS_PER_IMG)
        self.transform = DetectionTransform(cfg, backbone.size_divisibility)
        self.needs = TargetNeeds(classes, class_key="MODEL.FCOS.NUM_CLASSES")

    def losses(self, images: ImageList, features: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """``loss_cls`` (focal), ``loss_box_reg`` (GIoU) and ``loss_centerness`` (cross-entropy)."""
        counts = [feature.shape[2] * feature.shape[3] for feature in features]
        anchors = self.anchor_generator(images, features)
        losses = self.compute_loss(zero_based(targets), self.predict(features), anchors, counts)
        return {
            "loss_cls": losses["classification"],
            "loss_box_reg": losses["bbox_regression"],
            "loss_centerness": losses["bbox_ctrness"],
        }
