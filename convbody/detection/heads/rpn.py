"""The region proposal network (Ren et al. 2015, arXiv 1506.01497), with the published top-n rules."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from backbones import Backbone
from backbones.ops import batched_nms
from convbody.detection.heads.anchors import rpn_anchors
from convbody.detection.heads.numerics import full_precision
from convbody.detection.heads.options import count_limit, iou_thresholds, overlap_limit
from convbody.detection.heads.registries import RPN_HEADS
from registry import Config, lookup

Target = dict[str, Tensor]


class SingleConvRPNHead(RPNHead):
    """One 3x3 convolution, then a 1x1 convolution for objectness and one for boxes."""

    def __init__(self, cfg: Config, in_channels: int, num_anchors: int) -> None:
        super().__init__(in_channels, num_anchors)


class Predictions(NamedTuple):
    """What the head says of every anchor: objectness (N * A, 1), deltas (N * A, 4), anchors N x (A, 4)."""

    objectness: Tensor
    deltas: Tensor
    anchors: list[Tensor]
    level_sizes: list[int]  # anchors of one image per feature map, summing to A


class RPN(RegionProposalNetwork):
    """torchvision's RPN with the published keys that it lacks.

    Top-n counts per feature map first and then over all of them (in training optionally over the batch),
    anchors that leave the image take no part in the loss, and scores come with the proposals.
    """

    def __init__(self, cfg: Config, backbone: Backbone) -> None:
        rpn = cfg.MODEL.RPN
        anchors = rpn_anchors(cfg, backbone)
        head = lookup(RPN_HEADS, cfg, "MODEL.RPN.RPN_HEAD")
        foreground, background = iou_thresholds(cfg, "MODEL.RPN")
        super().__init__(
            anchors,
            head(cfg, backbone.out_channels, anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=foreground,
            bg_iou_thresh=background,
            batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
            positive_fraction=rpn.POSITIVE_FRACTION,
            pre_nms_top_n={"training": rpn.PRE_NMS_TOP_N_TRAIN, "testing": rpn.PRE_NMS_TOP_N_TEST},
            post_nms_top_n={
                "training": count_limit(rpn.POST_NMS_TOP_N_TRAIN),
                "testing": count_limit(rpn.POST_NMS_TOP_N_TEST),
            },
            nms_thresh=overlap_limit(rpn.NMS_THRESH),
        )
        self.min_size = max(float(rpn.MIN_SIZE), 1e-3)  # a side of nothing has no logarithm
        self.straddle_thresh = rpn.STRADDLE_THRESH
        self.total_top_n = {"training": rpn.FPN_POST_NMS_TOP_N_TRAIN, "testing": rpn.FPN_POST_NMS_TOP_N_TEST}
        self.total_per_batch = rpn.FPN_POST_NMS_PER_BATCH

    def forward(self, images: ImageList, features: list[Tensor]) -> Predictions:
        """Predictions for every anchor on the feature maps."""
        objectness, deltas = self.head(features)
        level_sizes = [level[0].numel() for level in objectness]
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        anchors = self.anchor_generator(images, features)
        return Predictions(full_precision(flat_objectness), full_precision(flat_deltas), anchors, level_sizes)

    @torch.no_grad()
    def propose(
        self, predictions: Predictions, image_sizes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image, proposals (P, 4) xyxy and their scores (P,) in [0, 1], best first."""
        count = len(image_sizes)
        objectness = predictions.objectness.reshape(count, -1)
        deltas = predictions.deltas.reshape(count, -1, 4)
        best = self._get_top_n_idx(objectness, predictions.level_sizes)
        levels = torch.repeat_interleave(
            torch.tensor([min(size, self.pre_nms_top_n()) for size in predictions.level_sizes])
        ).to(best.device)
        boxes, scores = [], []
        for i, size in enumerate(image_sizes):
            decoded = self.box_coder.decode_single(deltas[i, best[i]], predictions.anchors[i][best[i]])
            kept = self._suppress(clip_boxes_to_image(decoded, size), objectness[i, best[i]], levels)
            boxes.append(kept[0])
            scores.append(kept[1])
        if len(predictions.level_sizes) > 1:
            boxes, scores = self._limit_total(boxes, scores)
        return boxes, [score.sigmoid() for score in scores]

    def _suppress(self, boxes: Tensor, scores: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Non-maximum suppression and top-n within each feature map of one image; best first."""
        large = remove_small_boxes(boxes, self.min_size)
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        keep = batched_nms(boxes, scores, levels, self.nms_thresh)
        of_level = F.one_hot(levels[keep], len(self.anchor_generator.strides))
        rank = of_level.cumsum(dim=0).gather(1, levels[keep, None])[:, 0]
        keep = keep[rank <= self.post_nms_top_n()]
        return boxes[keep], scores[keep]

    def _limit_total(self, boxes: list[Tensor], scores: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The best of all feature maps: of each image, or in training of the batch."""
        limit = self.total_top_n["training" if self.training else "testing"]
        if not (self.training and self.total_per_batch):
            return [each[:limit] for each in boxes], [each[:limit] for each in scores]
        together = torch.cat(scores)
        chosen = torch.zeros_like(together, dtype=torch.bool)
        chosen[together.topk(min(limit, len(together))).indices] = True
        masks = chosen.split([len(each) for each in scores])
        return (
            [each[mask] for each, mask in zip(boxes, masks, strict=True)],
            [each[mask] for each, mask in zip(scores, masks, strict=True)],
        )

    def losses(
        self, predictions: Predictions, targets: list[Target], image_sizes: list[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """``loss_objectness`` (cross-entropy) and ``loss_rpn_box_reg`` (smooth L1) of sampled anchors."""
        labels, matched = self.assign_targets_to_anchors(predictions.anchors, targets)
        labels = [label.to(predictions.objectness) for label in labels]
        if self.straddle_thresh >= 0:
            for label, anchors, size in zip(labels, predictions.anchors, image_sizes, strict=True):
                label[straddling(anchors, size, self.straddle_thresh)] = -1.0
        regression = self.box_coder.encode(matched, predictions.anchors)
        if bool((torch.cat(labels) >= 0).any()):
            losses = self.compute_loss(predictions.objectness, predictions.deltas, labels, regression)
        else:
            # Every anchor leaves its image: nothing to learn, and a mean over nothing would be NaN.
            losses = predictions.objectness.sum() * 0, predictions.deltas.sum() * 0
        return {"loss_objectness": losses[0], "loss_rpn_box_reg": losses[1]}


def straddling(anchors: Tensor, image_size: tuple[int, int], margin: float) -> Tensor:
    """Which anchors (A, 4) leave an image of (height, width) by more than ``margin`` pixels: bool (A,)."""
    height, width = image_size
    x1, y1, x2, y2 = anchors.unbind(dim=1)
    return (x1 < -margin) | (y1 < -margin) | (x2 > width + margin) | (y2 > height + margin)
