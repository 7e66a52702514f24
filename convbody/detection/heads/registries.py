"""Names of the heads' parts. Nothing is imported until a name is used."""

from __future__ import annotations

from typing import Any

from registry import Registry

_HEADS = "convbody.detection.heads"

#: ``head(cfg, in_channels, num_anchors)``: feature maps -> objectness and box deltas of each anchor.
RPN_HEADS: Registry[Any] = Registry("RPN head", "convbody.rpn_heads")
#: ``extractor(cfg, in_channels, resolution)``: cut-outs (N, C, S, S) -> what a predictor reads. It has
#: ``out_channels`` and ``out_resolution``, the side of the maps it gives, or None when it gives vectors.
BOX_FEATURE_EXTRACTORS: Registry[Any] = Registry("box feature extractor", "convbody.box_feature_extractors")
MASK_FEATURE_EXTRACTORS: Registry[Any] = Registry(
    "mask feature extractor", "convbody.mask_feature_extractors"
)
KEYPOINT_FEATURE_EXTRACTORS: Registry[Any] = Registry(
    "keypoint feature extractor", "convbody.keypoint_feature_extractors"
)
#: ``predictor(cfg, in_channels)``: features -> logits, for masks and keypoints at ``upscale`` x resolution.
BOX_PREDICTORS: Registry[Any] = Registry("box predictor", "convbody.box_predictors")
MASK_PREDICTORS: Registry[Any] = Registry("mask predictor", "convbody.mask_predictors")
KEYPOINT_PREDICTORS: Registry[Any] = Registry("keypoint predictor", "convbody.keypoint_predictors")
#: MODEL.META_ARCHITECTURE -> ``detector(cfg, backbone)``.
META_ARCHITECTURES: Registry[Any] = Registry("meta architecture", "convbody.meta_architectures")

META_ARCHITECTURES.lazy("GeneralizedRCNN", f"{_HEADS}.rcnn:build_rcnn")
META_ARCHITECTURES.lazy("RetinaNet", f"{_HEADS}.retinanet:RetinaNet")
META_ARCHITECTURES.lazy("FCOS", f"{_HEADS}.fcos:FCOS")

RPN_HEADS.lazy("SingleConvRPNHead", f"{_HEADS}.rpn:SingleConvRPNHead")
RPN_HEADS.lazy("FBNet.rpn_head", f"{_HEADS}.fbnet:build_rpn_head")

BOX_FEATURE_EXTRACTORS.lazy("ResNet50Conv5ROIFeatureExtractor", f"{_HEADS}.conv5:Conv5FeatureExtractor")
BOX_FEATURE_EXTRACTORS.lazy("FPN2MLPFeatureExtractor", f"{_HEADS}.box:FPN2MLPFeatureExtractor")
BOX_FEATURE_EXTRACTORS.lazy("FPNXconv1fcFeatureExtractor", f"{_HEADS}.box:FPNXconv1fcFeatureExtractor")
BOX_FEATURE_EXTRACTORS.lazy("FBNet.roi_head", f"{_HEADS}.fbnet:build_box_head")
BOX_PREDICTORS.lazy("FastRCNNPredictor", f"{_HEADS}.box:BoxPredictor", "FPNPredictor")

MASK_FEATURE_EXTRACTORS.lazy("ResNet50Conv5ROIFeatureExtractor", f"{_HEADS}.conv5:Conv5FeatureExtractor")
MASK_FEATURE_EXTRACTORS.lazy("MaskRCNNFPNFeatureExtractor", f"{_HEADS}.mask:MaskRCNNFPNFeatureExtractor")
MASK_FEATURE_EXTRACTORS.lazy("FBNet.roi_head_mask", f"{_HEADS}.fbnet:build_mask_head")
MASK_PREDICTORS.lazy("MaskRCNNC4Predictor", f"{_HEADS}.mask:MaskRCNNC4Predictor")
MASK_PREDICTORS.lazy("MaskRCNNConv1x1Predictor", f"{_HEADS}.mask:MaskRCNNConv1x1Predictor")

KEYPOINT_FEATURE_EXTRACTORS.lazy(
    "KeypointRCNNFeatureExtractor", f"{_HEADS}.keypoint:KeypointRCNNFeatureExtractor"
)
KEYPOINT_FEATURE_EXTRACTORS.lazy("FBNet.roi_head_keypoints", f"{_HEADS}.fbnet:build_keypoint_head")
KEYPOINT_PREDICTORS.lazy("KeypointRCNNPredictor", f"{_HEADS}.keypoint:KeypointRCNNPredictor")
