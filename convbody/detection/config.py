"""Published keys that build and test a detector: MODEL's heads, and TEST."""

from __future__ import annotations

from typing import Any

from registry import config_section
from registry.allowed import above, at_least, at_most, between, each


@config_section("MODEL")
def detector_defaults() -> dict[str, Any]:
    """Which detector is built on the backbone."""
    return {
        # "GeneralizedRCNN" (Faster, Mask, Keypoint R-CNN, RPN), "RetinaNet" or "FCOS".
        "META_ARCHITECTURE": "GeneralizedRCNN",
        # Train and test the proposal network alone.
        "RPN_ONLY": False,
        # Add a mask head.
        "MASK_ON": False,
        # Build RetinaNet, whatever META_ARCHITECTURE and RPN_ONLY say.
        "RETINANET_ON": False,
        # Add a keypoint head.
        "KEYPOINT_ON": False,
        # Whose weights the anchors are for. "published": in the middle of their cells, of rounded shape;
        # "detectron2": around the first corner of their cells; "torchvision": there, with rounded corners.
        "ANCHOR_CONVENTION": "published",
        # Regress one box per proposal instead of one per class.
        "CLS_AGNOSTIC_BBOX_REG": False,
    }


@config_section(
    "MODEL.RPN",
    allowed={
        "ANCHOR_SIZES": each(above(0)),
        "ANCHOR_STRIDE": each(above(0)),
        "ASPECT_RATIOS": each(above(0.0)),
        "FG_IOU_THRESHOLD": between(0.0, 1.0),
        "BG_IOU_THRESHOLD": between(0.0, 1.0),
        "BATCH_SIZE_PER_IMAGE": at_least(1),
        "POSITIVE_FRACTION": between(0.0, 1.0),
        "NMS_THRESH": at_most(1.0),
    },
)
def rpn_defaults() -> dict[str, Any]:
    """The region proposal network."""
    return {
        # One anchor size per feature map. Where the backbone gives several, that is so in any case: a saved
        # config that never set the key holds False.
        "USE_FPN": False,
        # Sides of the square anchors, pixels of the network's input.
        "ANCHOR_SIZES": (32, 64, 128, 256, 512),
        # Pixels from one anchor to the next, per feature map. The default: the backbone's strides.
        "ANCHOR_STRIDE": (16,),
        # Height over width.
        "ASPECT_RATIOS": (0.5, 1.0, 2.0),
        # Anchors that leave the image by more than this many pixels are not trained on; -1 trains on all.
        "STRADDLE_THRESH": 0,
        # Anchors with at least FG overlap (IoU) with an object are positive, with less than BG negative.
        "FG_IOU_THRESHOLD": 0.7,
        "BG_IOU_THRESHOLD": 0.3,
        # Anchors per image in the loss, and the largest share of positive ones.
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        # Best-scoring boxes of a feature map that enter and that leave non-maximum suppression.
        "PRE_NMS_TOP_N_TRAIN": 12000,
        "PRE_NMS_TOP_N_TEST": 6000,
        "POST_NMS_TOP_N_TRAIN": 2000,
        "POST_NMS_TOP_N_TEST": 1000,
        # IoU above which the lower-scoring of two proposals is dropped.
        "NMS_THRESH": 0.7,
        # Proposals with a side shorter than this are dropped, pixels of the network's input.
        "MIN_SIZE": 0,
        # With several feature maps: proposals kept of all of them together.
        "FPN_POST_NMS_TOP_N_TRAIN": 2000,
        "FPN_POST_NMS_TOP_N_TEST": 2000,
        # In training, count FPN_POST_NMS_TOP_N_TRAIN over the batch rather than over each image.
        "FPN_POST_NMS_PER_BATCH": True,
        # Name in RPN_HEADS.
        "RPN_HEAD": "SingleConvRPNHead",
    }


@config_section(
    "MODEL.ROI_HEADS",
    allowed={
        "FG_IOU_THRESHOLD": between(0.0, 1.0),
        "BG_IOU_THRESHOLD": between(0.0, 1.0),
        "BBOX_REG_WEIGHTS": each(above(0.0), 4),
        "BATCH_SIZE_PER_IMAGE": at_least(1),
        "POSITIVE_FRACTION": between(0.0, 1.0),
        "NMS": at_most(1.0),
    },
)
def roi_heads_defaults() -> dict[str, Any]:
    """What the heads on proposals share."""
    return {
        # Published name; the backbone itself says whether the heads read one feature map or several.
        "USE_FPN": False,
        # Proposals with at least FG overlap (IoU) with an object are positive, with less than BG background.
        "FG_IOU_THRESHOLD": 0.5,
        "BG_IOU_THRESHOLD": 0.5,
        # Scales of the regression targets (x, y, width, height).
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        # Proposals per image in the loss, and the largest share of positive ones.
        "BATCH_SIZE_PER_IMAGE": 512,
        "POSITIVE_FRACTION": 0.25,
        # Detections below this score are dropped.
        "SCORE_THRESH": 0.05,
        # IoU above which the lower-scoring of two detections of one class is dropped.
        "NMS": 0.5,
        # Detections kept per image, all classes together.
        "DETECTIONS_PER_IMG": 100,
    }


_POOLER_ALLOWED = {"POOLER_RESOLUTION": at_least(1), "POOLER_SCALES": each(above(0.0))}


def _pooler_defaults() -> dict[str, Any]:
    return {
        # Side of the square that RoIAlign cuts out of the features, cells.
        "POOLER_RESOLUTION": 14,
        # Samples per cell and direction; 0: as many as the box covers.
        "POOLER_SAMPLING_RATIO": 0,
        # 1 / stride of each feature map that is read. The default: the only map, or all up to stride 32.
        "POOLER_SCALES": (1.0 / 16,),
    }


@config_section("MODEL.ROI_BOX_HEAD", allowed=_POOLER_ALLOWED)
def box_head_defaults() -> dict[str, Any]:
    """The head that classifies proposals and refines their boxes."""
    return {
        **_pooler_defaults(),
        # Names in BOX_FEATURE_EXTRACTORS and BOX_PREDICTORS.
        "FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
        "PREDICTOR": "FastRCNNPredictor",
        # Classes, the background (0) included.
        "NUM_CLASSES": 81,
        # Width of the fully connected layers.
        "MLP_HEAD_DIM": 1024,
        # Where the box loss turns from square to linear.
        "SMOOTH_L1_BETA": 1.0,
        # Group norm after every layer.
        "USE_GN": False,
        # Convolutional extractors: dilation, width and number of the convolutions.
        "DILATION": 1,
        "CONV_HEAD_DIM": 256,
        "NUM_STACKED_CONVS": 4,
    }


@config_section("MODEL.ROI_MASK_HEAD", allowed=_POOLER_ALLOWED)
def mask_head_defaults() -> dict[str, Any]:
    """The head that draws a mask inside each box."""
    return {
        **_pooler_defaults(),
        # Names in MASK_FEATURE_EXTRACTORS and MASK_PREDICTORS.
        "FEATURE_EXTRACTOR": "ResNet50Conv5ROIFeatureExtractor",
        "PREDICTOR": "MaskRCNNC4Predictor",
        # Unused by every published mask head.
        "MLP_HEAD_DIM": 1024,
        # Width of each 3x3 convolution; the last is also the width of the predictor.
        "CONV_LAYERS": (256, 256, 256, 256),
        # Side of a predicted mask, cells; must be what pooler and predictor give.
        "RESOLUTION": 14,
        # Read the features of the box head instead of computing others.
        "SHARE_BOX_FEATURE_EXTRACTOR": True,
        # Published names; masks always come pasted into the image, as probabilities.
        "POSTPROCESS_MASKS": False,
        "POSTPROCESS_MASKS_THRESHOLD": 0.5,
        # Dilation of the convolutions.
        "DILATION": 1,
        # Group norm after every convolution.
        "USE_GN": False,
    }


@config_section("MODEL.ROI_KEYPOINT_HEAD", allowed=_POOLER_ALLOWED)
def keypoint_head_defaults() -> dict[str, Any]:
    """The head that places keypoints inside each box."""
    return {
        **_pooler_defaults(),
        # Names in KEYPOINT_FEATURE_EXTRACTORS and KEYPOINT_PREDICTORS.
        "FEATURE_EXTRACTOR": "KeypointRCNNFeatureExtractor",
        "PREDICTOR": "KeypointRCNNPredictor",
        # Unused by every published keypoint head.
        "MLP_HEAD_DIM": 1024,
        # Width of each 3x3 convolution.
        "CONV_LAYERS": (512,) * 8,
        # Side of a predicted heat map, cells; must be what pooler and predictor give.
        "RESOLUTION": 14,
        # Keypoints per object.
        "NUM_CLASSES": 17,
        # Read the features of the box head instead of computing others.
        "SHARE_BOX_FEATURE_EXTRACTOR": True,
    }


@config_section(
    "MODEL.RETINANET",
    allowed={
        "ANCHOR_SIZES": each(above(0)),
        "ASPECT_RATIOS": each(above(0.0)),
        "ANCHOR_STRIDES": each(above(0)),
        "OCTAVE": above(0.0),
        "SCALES_PER_OCTAVE": at_least(1),
        "FG_IOU_THRESHOLD": between(0.0, 1.0),
        "BG_IOU_THRESHOLD": between(0.0, 1.0),
        "NMS_TH": at_most(1.0),
    },
)
def retinanet_defaults() -> dict[str, Any]:
    """RetinaNet (Lin et al. 2017, arXiv 1708.02002)."""
    return {
        # Classes, the background (0) included.
        "NUM_CLASSES": 81,
        # Side of the smallest anchor of each feature map, pixels of the network's input; height over width.
        "ANCHOR_SIZES": (32, 64, 128, 256, 512),
        "ASPECT_RATIOS": (0.5, 1.0, 2.0),
        # Pixels from one anchor to the next, per feature map. The default: the backbone's strides.
        "ANCHOR_STRIDES": (8, 16, 32, 64, 128),
        # Published name; every anchor takes part in the loss.
        "STRADDLE_THRESH": 0,
        # Anchor sizes per feature map: ANCHOR_SIZE * OCTAVE ** (i / SCALES_PER_OCTAVE).
        "OCTAVE": 2.0,
        "SCALES_PER_OCTAVE": 3,
        # The neck makes P6 from the body's last stage (True) or from P5.
        "USE_C5": True,
        # 3x3 convolutions of each of the two towers.
        "NUM_CONVS": 4,
        # Divides the box loss.
        "BBOX_REG_WEIGHT": 4.0,
        # Where the box loss turns from square to linear.
        "BBOX_REG_BETA": 0.11,
        # Best-scoring boxes of a feature map that enter non-maximum suppression.
        "PRE_NMS_TOP_N": 1000,
        # Anchors with at least FG overlap (IoU) with an object are positive, with less than BG negative.
        "FG_IOU_THRESHOLD": 0.5,
        "BG_IOU_THRESHOLD": 0.4,
        # Focal loss: weight of positives, and exponent of the down-weighting of easy examples.
        "LOSS_ALPHA": 0.25,
        "LOSS_GAMMA": 2.0,
        # Score of every anchor before training.
        "PRIOR_PROB": 0.01,
        # Detections below this score are dropped; IoU above which one of two of a class is dropped.
        "INFERENCE_TH": 0.05,
        "NMS_TH": 0.4,
    }


@config_section("MODEL.FCOS")
def fcos_defaults() -> dict[str, Any]:
    """FCOS (Tian et al. 2019, arXiv 1904.01355)."""
    return {
        # Classes, the background (0) included.
        "NUM_CLASSES": 81,
        # 3x3 convolutions of each of the two towers.
        "NUM_CONVS": 4,
        # Points within this many strides of an object's centre are positive.
        "CENTER_SAMPLING_RADIUS": 1.5,
        # Best-scoring boxes of a feature map that enter non-maximum suppression.
        "PRE_NMS_TOP_N": 1000,
        # Detections below this score are dropped; IoU above which one of two of a class is dropped.
        "INFERENCE_TH": 0.05,
        "NMS_TH": 0.6,
    }


@config_section("TEST")
def test_defaults() -> dict[str, Any]:
    """Testing."""
    return {
        # [[data set, task, metric, mean, standard deviation], ...] that a run must reproduce, fractions of 1;
        # tasks: "box", "segm", "keypoint", "box_proposal".
        "EXPECTED_RESULTS": [],
        # Standard deviations that a result may lie from its mean.
        "EXPECTED_RESULTS_SIGMA_TOL": 4,
        # Who scores detections: "pycocotools", "hotcoco" (the same numbers, many times faster), or "auto":
        # hotcoco where it is installed.
        "EVALUATOR": "auto",
        # Images in a batch, all processes together.
        "IMS_PER_BATCH": 8,
        # Detections per image of one-stage detectors.
        "DETECTIONS_PER_IMG": 100,
        # Test-time augmentation of two-stage detectors: boxes of more views of an image, merged.
        "BBOX_AUG": {
            "ENABLED": False,
            # The mirror image.
            "H_FLIP": False,
            # Short sides, pixels.
            "SCALES": (),
            # Longest side of an image of SCALES, pixels.
            "MAX_SIZE": 4000,
            # Flip the images of SCALES, too.
            "SCALE_H_FLIP": False,
        },
    }
