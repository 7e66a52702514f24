"""Config keys of the ResNet family: MODEL.RESNETS, and MODEL.CIFAR_RESNETS of the small ones."""

from __future__ import annotations

from typing import Any

from registry import config_section, family_defaults

#: Blocks in each of the three groups of a small ResNet: n of its 6n + 2 layers.
CIFAR_DEPTHS = {f"R-{6 * n + 2}-CIFAR": n for n in (3, 5, 7, 9, 18)}
#: Norms that MODEL.CIFAR_RESNETS.BN_EPSILON is for; GN and FrozenBN have keys of their own.
CIFAR_NORMS_WITH_EPSILON = ("BN", "SyncBN", "ABN", "SyncABN")


@config_section("MODEL.RESNETS")
def resnet_defaults() -> dict[str, Any]:
    """Keys of ResNet and ResNeXt."""
    return {
        # Names in STEM_MODULES and TRANSFORMATION_MODULES: the stem and the residual block.
        "STEM_FUNC": "StemWithFixedBatchNorm",
        "TRANS_FUNC": "BottleneckWithFixedBatchNorm",
        # Groups of the 3x3 convolution and channels of each: 1 and 64 are ResNet, 32 and 8 ResNeXt 32x8d.
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        # Where a stage halves the resolution: in the first 1x1 convolution (MSRA weights) or the 3x3 (torch).
        "STRIDE_IN_1X1": True,
        # Dilation of stage 4; with more than 1 it keeps the resolution of stage 3.
        "RES5_DILATION": 1,
        # Channels of the stem and of stage 1; every later stage doubles.
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        # Channels of every output of a neck that gives a pyramid, whatever the body. C4 and C5 do not read
        # it; with R-50 and deeper they have maskrcnn-benchmark's default, 1024.
        "BACKBONE_OUT_CHANNELS": 256,
        # Which of stages 1 to 4 have deformable 3x3 convolutions.
        "STAGE_WITH_DCN": (False, False, False, False),
        # Modulated ones (v2): every tap also has a factor.
        "WITH_MODULATED_DCN": False,
        # Groups of input channels that are displaced on their own.
        "DEFORMABLE_GROUPS": 1,
    }


@config_section("MODEL.CIFAR_RESNETS")
def cifar_resnet_defaults() -> dict[str, Any]:
    """Keys of R-20-CIFAR, R-32-CIFAR, R-44-CIFAR, R-56-CIFAR and R-110-CIFAR."""
    return {
        # Channels of the images.
        "IN_CHANNELS": 3,
        # Any name in NORMS; "" is none, and convolutions with a bias.
        "NORM": "BN",
        # Added to the variance by BN, SyncBN, ABN and SyncABN; Caffe2's builder has 1e-3.
        "BN_EPSILON": 1e-5,
        # 1 as published, for images of about 32x32; 2 or 4 for larger ones: 4 gives strides 4, 8 and 16.
        "STEM_STRIDE": 1,
    }


family_defaults("R-*", {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 2})
for _pattern in ("R-*-C4", "R-*-C5"):
    family_defaults(_pattern, {"MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 1024})

# Basic blocks do not widen: stage 1 gives 64 channels.
_BASIC = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64, "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 256}
for _pattern in ("R-18", "R-18-*", "R-34", "R-34-*"):
    family_defaults(_pattern, _BASIC)

# Longer patterns have the last word over "R-*".
for _pattern in ("R-*-CIFAR", "R-*-CIFAR-*"):
    family_defaults(
        _pattern,
        {
            "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
            "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": 64,
            "MODEL.FROZEN_BN.EPSILON": 1e-5,
        },
    )
