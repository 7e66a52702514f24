"""The second stage: what the box, mask and keypoint heads share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import roi_heads
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from backbones import Backbone
from backbones.layers.recompute import not_kept, recompute_from_cfg, watched
from backbones.ops import batched_nms
from convbody.detection.heads.numerics import full_precision
from convbody.detection.heads.options import count_limit, iou_thresholds, overlap_limit
from convbody.detection.heads.pooler import Pooler, build_pooler
from convbody.detection.heads.registries import (
    BOX_FEATURE_EXTRACTORS,
    BOX_PREDICTORS,
    KEYPOINT_FEATURE_EXTRACTORS,
    KEYPOINT_PREDICTORS,
    MASK_FEATURE_EXTRACTORS,
    MASK_PREDICTORS,
)
from registry import Config, ConfigError, Registry, lookup
from registry.tree import value_of

Target = dict[str, Tensor]
Sizes = list[tuple[int, int]]

_SMALLEST_SIDE = 1e-2  # of a detection, pixels of the network's input


class Branch(NamedTuple):
    """One head: pooler and extractor, both None where the box head's features are shared, and predictor."""

    pooler: Pooler | None
    extractor: nn.Module | None
    predictor: nn.Module


class Candidates(NamedTuple):
    """What the box head says of an image's P proposals, before anything is dropped.

    Boxes (P, classes, 4) xyxy inside the image and scores (P, classes), the background left out.
    """

    boxes: Tensor
    scores: Tensor

    def joined(self, other: Candidates) -> Candidates:
        """Those of both, of one image."""
        return Candidates(torch.cat((self.boxes, other.boxes)), torch.cat((self.scores, other.scores)))


def box_losses(
    logits: Tensor, deltas: Tensor, labels: list[Tensor], regression: list[Tensor], beta: float = 1.0
) -> dict[str, Tensor]:
    """Cross-entropy of R proposals' classes, and smooth L1 of the positives' boxes, over R.

    Ren et al. 2015, section 3.1.2, and Girshick 2015, equation 3.

    Args:
        logits, deltas: (R, classes), (R, 4 * classes).
        labels, regression: per image, (R_i,) with 0 for the background, and (R_i, 4).
        beta: where smooth L1 turns from square to linear, as published 1.
    """
    label = torch.cat(labels)
    positive = torch.where(label > 0)[0]
    chosen = deltas.view(*logits.shape, 4)[positive, label[positive]]
    target = torch.cat(regression)[positive].to(chosen)
    count = max(1, len(label))
    return {
        "loss_classifier": F.cross_entropy(logits, label, reduction="sum") / count,
        "loss_box_reg": F.smooth_l1_loss(chosen, target, reduction="sum", beta=beta) / count,
    }


class RoIHeads(roi_heads.RoIHeads):
    """torchvision's RoIHeads; a mask or keypoint head may read the box head's features (C4 detectors)."""

    def __init__(self, cfg: Config, box: Branch, mask: Branch | None, keypoint: Branch | None) -> None:
        node = cfg.MODEL.ROI_HEADS
        foreground, background = iou_thresholds(cfg, "MODEL.ROI_HEADS")
        super().__init__(
            box.pooler,
            box.extractor,
            box.predictor,
            fg_iou_thresh=foreground,
            bg_iou_thresh=background,
            batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            bbox_reg_weights=tuple(node.BBOX_REG_WEIGHTS),
            score_thresh=node.SCORE_THRESH,
            nms_thresh=overlap_limit(node.NMS),
            detections_per_img=count_limit(node.DETECTIONS_PER_IMG),
        )
        self.box_beta = cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA
        self.class_agnostic = cfg.MODEL.CLS_AGNOSTIC_BBOX_REG
        self.recompute = recompute_from_cfg(cfg)
        if mask is not None:
            self.mask_roi_pool, self.mask_head, self.mask_predictor = mask
        if keypoint is not None:
            self.keypoint_roi_pool, self.keypoint_head, self.keypoint_predictor = keypoint

    def has_mask(self) -> bool:
        """Whether masks are predicted."""
        return self.mask_predictor is not None

    def has_keypoint(self) -> bool:
        """Whether keypoints are predicted."""
        return self.keypoint_predictor is not None

    def losses(
        self, features: list[Tensor], proposals: list[Tensor], sizes: Sizes, targets: list[Target]
    ) -> dict[str, Tensor]:
        """Losses of all heads on a sample of the proposals and the objects themselves."""
        proposals, matched, labels, regression = self.select_training_samples(proposals, targets)
        box_features = self._box_features(features, proposals, sizes)
        losses = box_losses(*self._predict_boxes(box_features), labels, regression, self.box_beta)
        if not (self.has_mask() or self.has_keypoint()):
            return losses

        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [each[keep] for each, keep in zip(proposals, positive, strict=True)]
        objects = [each[keep] for each, keep in zip(matched, positive, strict=True)]
        shared = box_features[torch.cat(labels) > 0]
        # Without positives the heads run on zero boxes, so that their parameters still get a (zero) gradient.
        if self.has_mask():
            logits = self._predict_masks(features, boxes, sizes, shared)
            masks, classes = [t["masks"] for t in targets], [t["labels"] for t in targets]
            losses["loss_mask"] = roi_heads.maskrcnn_loss(logits, boxes, masks, classes, objects)
        if self.has_keypoint():
            logits = self._predict_keypoints(features, boxes, sizes, shared)
            points = [t["keypoints"] for t in targets]
            losses["loss_keypoint"] = roi_heads.keypointrcnn_loss(logits, boxes, points, objects)
        return losses

    def candidates(self, features: list[Tensor], proposals: list[Tensor], sizes: Sizes) -> list[Candidates]:
        """Per image, a box and a score for every proposal and class."""
        logits, deltas = self._predict_boxes(self._box_features(features, proposals, sizes))
        counts = [len(each) for each in proposals]
        # torchvision's ``decode`` leaves the boxes of no proposals without their classes.
        boxes = self.box_coder.decode_single(deltas, torch.cat(proposals)).view(*logits.shape, 4)
        scores = logits.softmax(dim=-1)
        return [
            Candidates(clip_boxes_to_image(box, size)[:, 1:], score[:, 1:])
            for box, score, size in zip(boxes.split(counts), scores.split(counts), sizes, strict=True)
        ]

    def finish(
        self, features: list[Tensor], candidates: list[Candidates], sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Of the best candidates, per image boxes, labels, scores, masks (D, 1, M, M) inside the boxes, and
        keypoints with scores.
        """
        results = [self._best(*each) for each in candidates]
        boxes = [result["boxes"] for result in results]
        labels = [result["labels"] for result in results]
        if self.has_mask():
            masks = roi_heads.maskrcnn_inference(self._predict_masks(features, boxes, sizes), labels)
            for result, mask in zip(results, masks, strict=True):
                result["masks"] = mask
        if self.has_keypoint():
            logits = self._predict_keypoints(features, boxes, sizes)
            for result, points, point_scores in zip(
                results, *roi_heads.keypointrcnn_inference(logits, boxes), strict=True
            ):
                # torchvision gives float32 of every type.
                result["keypoints"], result["keypoints_scores"] = points.to(logits), point_scores.to(logits)
        return results

    def _best(self, boxes: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """Threshold, non-maximum suppression within each class, and top-n over all of them; best first."""
        rows, columns = torch.where(scores > self.score_thresh)
        boxes, scores, labels = boxes[rows, columns], scores[rows, columns], columns + 1
        large = remove_small_boxes(boxes, min_size=_SMALLEST_SIDE)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]}

    def _predict_boxes(self, box_features: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, classes) and deltas (R, 4 * classes)."""
        logits, deltas = (full_precision(each) for each in self.box_predictor(box_features))
        if self.class_agnostic:
            deltas = deltas[:, 4:].repeat(1, logits.shape[1])
        return logits, deltas

    def _predict_masks(
        self, features: list[Tensor], boxes: list[Tensor], sizes: Sizes, shared: Tensor | None = None
    ) -> Tensor:
        x = self._region_features(self.mask_roi_pool, self.mask_head, features, boxes, sizes, shared)
        return full_precision(self.mask_predictor(x))

    def _predict_keypoints(
        self, features: list[Tensor], boxes: list[Tensor], sizes: Sizes, shared: Tensor | None = None
    ) -> Tensor:
        x = self._region_features(self.keypoint_roi_pool, self.keypoint_head, features, boxes, sizes, shared)
        return full_precision(self.keypoint_predictor(x)).contiguous()  # what torchvision's loss reads

    def _region_features(
        self,
        pooler: Pooler | None,
        extractor: nn.Module | None,
        features: list[Tensor],
        boxes: list[Tensor],
        sizes: Sizes,
        shared: Tensor | None,
    ) -> Any:
        """What a predictor reads: its own extractor's features, or, without one, the box head's."""
        if pooler is not None and extractor is not None:
            return self._extracted(pooler, extractor, features, boxes, sizes)
        if shared is not None:
            return shared
        return self._box_features(features, boxes, sizes)

    def _box_features(self, features: list[Tensor], boxes: list[Tensor], sizes: Sizes) -> Tensor:
        return self._extracted(self.box_roi_pool, self.box_head, features, boxes, sizes)

    def _extracted(
        self,
        pooler: nn.Module,
        extractor: nn.Module,
        features: list[Tensor],
        boxes: list[Tensor],
        sizes: Sizes,
    ) -> Any:
        """The extractor's features of cut-outs, which the backward pass cuts out again: RoIAlign is quick."""
        cut_outs = pooler(features, boxes, sizes)
        if not self.recompute or watched(pooler):
            return extractor(cut_outs)
        with not_kept([cut_outs], lambda *features: [pooler(features, boxes, sizes)], *features):
            return extractor(cut_outs)


def build_roi_heads(cfg: Config, backbone: Backbone) -> RoIHeads:
    """The second stage that MODEL.ROI_BOX_HEAD, MASK_ON and KEYPOINT_ON describe.

    Raises:
        ConfigError: heads that do not fit each other or the backbone.
    """
    extractor = _build_extractor(cfg, "MODEL.ROI_BOX_HEAD", BOX_FEATURE_EXTRACTORS, backbone)
    predictor = lookup(BOX_PREDICTORS, cfg, "MODEL.ROI_BOX_HEAD.PREDICTOR")(cfg, extractor.out_channels)
    box = Branch(build_pooler(cfg, "MODEL.ROI_BOX_HEAD", backbone), extractor, predictor)
    mask = keypoint = None
    if cfg.MODEL.MASK_ON:
        parts = MASK_FEATURE_EXTRACTORS, MASK_PREDICTORS
        mask = _build_branch(cfg, "MODEL.ROI_MASK_HEAD", *parts, backbone, extractor)
    if cfg.MODEL.KEYPOINT_ON:
        parts = KEYPOINT_FEATURE_EXTRACTORS, KEYPOINT_PREDICTORS
        keypoint = _build_branch(cfg, "MODEL.ROI_KEYPOINT_HEAD", *parts, backbone, extractor)
    return RoIHeads(cfg, box, mask, keypoint)


def _build_extractor(cfg: Config, head: str, extractors: Registry[Any], backbone: Backbone) -> Any:
    make = lookup(extractors, cfg, f"{head}.FEATURE_EXTRACTOR")
    return make(cfg, backbone.out_channels, value_of(cfg, head).POOLER_RESOLUTION)


def _build_branch(
    cfg: Config,
    head: str,
    extractors: Registry[Any],
    predictors: Registry[Any],
    backbone: Backbone,
    box_extractor: Any,
) -> Branch:
    """A mask or keypoint head, with features of its own or those of the box head."""
    node = value_of(cfg, head)
    share = node.SHARE_BOX_FEATURE_EXTRACTOR
    extractor = box_extractor if share else _build_extractor(cfg, head, extractors, backbone)
    if extractor.out_resolution is None:
        raise ConfigError(
            "the box head's features are vectors, without the places that this head needs; set it to False",
            f"{head}.SHARE_BOX_FEATURE_EXTRACTOR",
            cfg,
        )
    predictor = lookup(predictors, cfg, f"{head}.PREDICTOR")(cfg, extractor.out_channels)
    resolution = extractor.out_resolution * predictor.upscale
    if resolution != node.RESOLUTION:
        raise ConfigError(
            f"this head gives {resolution} x {resolution}; set {resolution}", f"{head}.RESOLUTION", cfg
        )
    if share:
        return Branch(None, None, predictor)
    return Branch(build_pooler(cfg, head, backbone), extractor, predictor)
