"""detectron2's keys, one by one: its default, and what they are called here or what happens here anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Renamed:
    """A key with an equivalent: detectron2's default, the keys here, and the value's conversion."""

    default: Any
    targets: tuple[str, ...]
    convert: Callable[[Any], Any] = _same


@dataclass(frozen=True)
class Fixed:
    """A key without an equivalent: detectron2's default, the values that ask for what happens here, and what
    that is.
    """

    default: Any
    accepted: tuple[Any, ...]
    here: str


def _renamed(section: str, target: str, names: dict[str, tuple[Any, str]]) -> dict[str, Renamed]:
    return {
        f"{section}.{name}": Renamed(default, (f"{target}.{new or name}",))
        for name, (default, new) in names.items()
    }


def _with_background(classes: int) -> int:
    return classes + 1


def _kept_alike(section: str, defaults: dict[str, Any]) -> dict[str, Renamed]:
    return _renamed(section, section, {name: (default, "") for name, default in defaults.items()})


_POOLER = {"POOLER_RESOLUTION": 14, "POOLER_SAMPLING_RATIO": 0}

RENAMED: dict[str, Renamed] = {
    "OUTPUT_DIR": Renamed("./output", ("OUTPUT_DIR",)),
    **_kept_alike("MODEL", {"DEVICE": "cuda", "MASK_ON": False, "KEYPOINT_ON": False}),
    "MODEL.BACKBONE.FREEZE_AT": Renamed(2, ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT",)),
    **_kept_alike(
        "MODEL.RESNETS",
        {
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": 64,
            "STRIDE_IN_1X1": True,
            "RES5_DILATION": 1,
            "RES2_OUT_CHANNELS": 256,
            "STEM_OUT_CHANNELS": 64,
        },
    ),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": Renamed([False] * 4, ("MODEL.RESNETS.STAGE_WITH_DCN",)),
    "MODEL.RESNETS.DEFORM_MODULATED": Renamed(False, ("MODEL.RESNETS.WITH_MODULATED_DCN",)),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": Renamed(1, ("MODEL.RESNETS.DEFORMABLE_GROUPS",)),
    "MODEL.FPN.NORM": Renamed("", ("MODEL.FPN.NORM",)),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": Renamed(0, ("MODEL.RPN.MIN_SIZE",)),
    **_kept_alike("MODEL.RPN", {"BATCH_SIZE_PER_IMAGE": 256, "POSITIVE_FRACTION": 0.5, "NMS_THRESH": 0.7}),
    "MODEL.RPN.BOUNDARY_THRESH": Renamed(-1, ("MODEL.RPN.STRADDLE_THRESH",)),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": Renamed(12000, ("MODEL.RPN.PRE_NMS_TOP_N_TRAIN",)),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": Renamed(6000, ("MODEL.RPN.PRE_NMS_TOP_N_TEST",)),
    # Per feature map, and again of all of them together.
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": Renamed(
        2000, ("MODEL.RPN.POST_NMS_TOP_N_TRAIN", "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN")
    ),
    "MODEL.RPN.POST_NMS_TOPK_TEST": Renamed(
        1000, ("MODEL.RPN.POST_NMS_TOP_N_TEST", "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST")
    ),
    "MODEL.ROI_HEADS.NUM_CLASSES": Renamed(80, ("MODEL.ROI_BOX_HEAD.NUM_CLASSES",), _with_background),
    **_kept_alike("MODEL.ROI_HEADS", {"BATCH_SIZE_PER_IMAGE": 512, "POSITIVE_FRACTION": 0.25}),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Renamed(0.05, ("MODEL.ROI_HEADS.SCORE_THRESH",)),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": Renamed(0.5, ("MODEL.ROI_HEADS.NMS",)),
    **_kept_alike("MODEL.ROI_BOX_HEAD", _POOLER),
    "MODEL.ROI_BOX_HEAD.FC_DIM": Renamed(1024, ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",)),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": Renamed(256, ("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM",)),
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": Renamed(False, ("MODEL.CLS_AGNOSTIC_BBOX_REG",)),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": Renamed(0.0, ("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",)),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": Renamed(
        (10.0, 10.0, 5.0, 5.0), ("MODEL.ROI_HEADS.BBOX_REG_WEIGHTS",)
    ),
    **_kept_alike("MODEL.ROI_MASK_HEAD", _POOLER),
    **_kept_alike("MODEL.ROI_KEYPOINT_HEAD", _POOLER),
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": Renamed((512,) * 8, ("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS",)),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": Renamed(17, ("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES",)),
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": Renamed(1, ("DATASETS.MIN_KEYPOINTS",)),
    "MODEL.RETINANET.NUM_CLASSES": Renamed(80, ("MODEL.RETINANET.NUM_CLASSES",), _with_background),
    **_renamed(
        "MODEL.RETINANET",
        "MODEL.RETINANET",
        {
            "NUM_CONVS": (4, ""),
            "PRIOR_PROB": (0.01, ""),
            "SCORE_THRESH_TEST": (0.05, "INFERENCE_TH"),
            "TOPK_CANDIDATES_TEST": (1000, "PRE_NMS_TOP_N"),
            "NMS_THRESH_TEST": (0.5, "NMS_TH"),
            "FOCAL_LOSS_GAMMA": (2.0, "LOSS_GAMMA"),
            "FOCAL_LOSS_ALPHA": (0.25, "LOSS_ALPHA"),
            "SMOOTH_L1_LOSS_BETA": (0.1, "BBOX_REG_BETA"),
        },
    ),
    **_kept_alike("INPUT", {"MAX_SIZE_TRAIN": 1333, "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333}),
    **_kept_alike("DATALOADER", {"NUM_WORKERS": 4, "ASPECT_RATIO_GROUPING": True}),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": Renamed(True, ("DATASETS.KEEP_EMPTY",), lambda value: not value),
    **_kept_alike(
        "SOLVER",
        {
            "MAX_ITER": 40000,
            "BASE_LR": 0.001,
            "MOMENTUM": 0.9,
            "NESTEROV": False,
            "WEIGHT_DECAY": 0.0001,
            "WEIGHT_DECAY_NORM": 0.0,
            "BIAS_LR_FACTOR": 1.0,
            "GAMMA": 0.1,
            "STEPS": (30000,),
            "WARMUP_FACTOR": 0.001,
            "WARMUP_ITERS": 1000,
            "WARMUP_METHOD": "linear",
            "CHECKPOINT_PERIOD": 5000,
            "IMS_PER_BATCH": 16,
        },
    ),
    **_kept_alike("SOLVER.CLIP_GRADIENTS", {"ENABLED": False, "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0}),
    "SOLVER.AMP.ENABLED": Renamed(False, ("DTYPE",), lambda on: "float16" if on else "float32"),
    "TEST.EVAL_PERIOD": Renamed(0, ("SOLVER.TEST_PERIOD",)),
    "TEST.DETECTIONS_PER_IMAGE": Renamed(
        100, ("TEST.DETECTIONS_PER_IMG", "MODEL.ROI_HEADS.DETECTIONS_PER_IMG")
    ),
}

_SMOOTH_L1 = Fixed("smooth_l1", ("smooth_l1",), "smooth L1")
_POOLER_TYPE = Fixed("ROIAlignV2", ("ROIAlign",), "ROIAlign, without the shift by half a pixel")
_WEIGHT = Fixed(1.0, (1.0,), "losses are added as they are")

FIXED: dict[str, Fixed] = {
    "VERSION": Fixed(2, (2,), "the keys of version 2 are known"),
    "SEED": Fixed(-1, (-1,), "SEED is 0; every run has a fixed seed"),
    "MODEL.LOAD_PROPOSALS": Fixed(False, (False,), "proposals are computed"),
    "MODEL.FPN.FUSE_TYPE": Fixed("sum", ("sum",), "features are added"),
    "MODEL.PROPOSAL_GENERATOR.NAME": Fixed("RPN", ("RPN",), "an RPN"),
    "MODEL.ANCHOR_GENERATOR.NAME": Fixed(
        "DefaultAnchorGenerator", ("DefaultAnchorGenerator",), "upright anchors"
    ),
    "MODEL.ANCHOR_GENERATOR.OFFSET": Fixed(0.0, (0.0,), "anchors lie around the first corner of their cell"),
    "MODEL.RPN.HEAD_NAME": Fixed("StandardRPNHead", ("StandardRPNHead",), "the head with one convolution"),
    "MODEL.RPN.CONV_DIMS": Fixed([-1], ([-1],), "one convolution, as wide as the features"),
    "MODEL.RPN.IOU_LABELS": Fixed([0, -1, 1], ([0, -1, 1],), "background, ignored, foreground"),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _SMOOTH_L1,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": _WEIGHT,
    "MODEL.RPN.BBOX_REG_WEIGHTS": Fixed((1.0,) * 4, ([1.0] * 4,), "targets are not scaled"),
    "MODEL.RPN.SMOOTH_L1_BETA": Fixed(0.0, (1 / 9,), "the loss turns linear at 1/9"),
    "MODEL.RPN.LOSS_WEIGHT": _WEIGHT,
    "MODEL.ROI_HEADS.IOU_LABELS": Fixed([0, 1], ([0, 1],), "background, foreground"),
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": Fixed(True, (True,), "objects are added to the proposals"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _SMOOTH_L1,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": _WEIGHT,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLER_TYPE,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": Fixed(False, (False,), "heads train on proposals"),
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": Fixed(False, (False,), "a mask for each class"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _POOLER_TYPE,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": Fixed(
        "KRCNNConvDeconvUpsampleHead", ("KRCNNConvDeconvUpsampleHead",), "convolutions, then upsampling"
    ),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": _POOLER_TYPE,
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": _WEIGHT,
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": Fixed(
        True, (True,), "the mean over visible keypoints"
    ),
    "MODEL.RETINANET.IOU_LABELS": Fixed([0, -1, 1], ([0, -1, 1],), "background, ignored, foreground"),
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": Fixed(
        (1.0,) * 4, ([10.0, 10.0, 5.0, 5.0],), "targets are scaled by 10, 10, 5, 5; loading converts weights"
    ),
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _SMOOTH_L1,
    "MODEL.RETINANET.NORM": Fixed("", ("",), "towers without norm"),
    "INPUT.CROP.ENABLED": Fixed(False, (False,), "images are not cropped"),
    "INPUT.MASK_FORMAT": Fixed("polygon", ("polygon", "bitmask"), "both formats are read"),
    "DATALOADER.SAMPLER_TRAIN": Fixed("TrainingSampler", ("TrainingSampler",), "every image equally often"),
    "SOLVER.REFERENCE_WORLD_SIZE": Fixed(0, (0,), "nothing is scaled by the number of GPUs"),
    "TEST.KEYPOINT_OKS_SIGMAS": Fixed([], ([],), "keypoint_sigmas of the annotation file, else COCO's"),
    "TEST.PRECISE_BN.ENABLED": Fixed(False, (False,), "statistics stay as trained"),
}
