"""Config keys that every backbone family shares: MODEL.WEIGHT, BACKBONE, FPN, GROUP_NORM and FROZEN_BN."""

from __future__ import annotations

from typing import Any

from registry import Config, config_section, family_defaults

IMAGENET_MEAN = [0.485, 0.456, 0.406]  # RGB, of images in [0, 1]
IMAGENET_STD = [0.229, 0.224, 0.225]


@config_section("MODEL", paths=("WEIGHT",))
def model_defaults() -> dict[str, Any]:
    """Keys of backbones, their necks and their normalisation."""
    return {
        # Weight file (.pth, .pkl or .safetensors) of a backbone or a whole detector, or its https://,
        # catalog://, torchvision://, timm:// or detectron2:// address; "" trains from scratch.
        "WEIGHT": "",
        # When the weights were trained with other colours, strides or epsilon: "error", or "warn" and go on.
        "WEIGHT_CONTRACT": "error",
        # How feature maps lie in memory: "contiguous" (NCHW), "channels_last" (NHWC), or "auto", which is
        # channels_last on a GPU in half precision, on a CPU in float32 for networks of quick convolutions
        # (docs/operators.md), and elsewhere as the images come: contiguous.
        "MEMORY_FORMAT": "auto",
        # Run the backbone as code that torch.compile makes at the first call, for images of any size; needs a
        # C++ compiler (CPU) or Triton (GPU). What the first iteration of training takes is in the log.
        "COMPILE": False,
        # What the backward pass computes again instead of keeping it: "none", or "cheap": in ResNets with
        # frozen norms and in pyramids what 1x1 convolutions give to 3x3 ones, and what RoIAlign cuts out. A
        # third less is kept, for a few percent of time; gradients are the same to the last bit on CPUs.
        "RECOMPUTE": "cheap",
        "BACKBONE": {
            # "<body>-<neck>", a body alone, or a name registered whole.
            "CONV_BODY": "R-50-C4",
            # How many stages are frozen: 1 is the stem, 2 the stem and the first stage; 0 freezes nothing.
            "FREEZE_CONV_BODY_AT": 0,
            # Stages, by the names that stages() gives them, whose activations are computed again in the
            # backward pass instead of kept, e.g. ("layer3", "layer4"); ("all",): every stage; (): none.
            "CHECKPOINT_STAGES": (),
        },
        "FPN": {
            # Group norm (and no bias) after every convolution of the neck; the same as NORM: "GN".
            "USE_GN": False,
            # ReLU after every convolution of the neck.
            "USE_RELU": False,
            # Any name in NORMS: norm after every convolution of the neck; "" is none.
            "NORM": "",
        },
        "GROUP_NORM": {
            # Channels per group; -1: NUM_GROUPS counts.
            "DIM_PER_GP": -1,
            # Groups; -1: DIM_PER_GP counts.
            "NUM_GROUPS": 32,
            # Added to the variance.
            "EPSILON": 1e-5,
        },
        "FROZEN_BN": {
            # Added to the variance. The published models add nothing; torchvision's weights want 1e-5.
            "EPSILON": 0.0,
        },
        "TIMM": {
            # Download timm's own weights of the model.
            "PRETRAINED": False,
            # Any name in NORMS: replaces every batch norm of the model, weights kept; "" leaves them.
            "NORM": "",
            # Further arguments of timm.create_model, e.g. {drop_path_rate: 0.1}.
            "KWARGS": Config(new_allowed=True),
        },
    }


family_defaults(
    "timm/*",
    {
        # timm's weights were trained on normalised RGB.
        "INPUT.TO_BGR255": False,
        "INPUT.PIXEL_MEAN": IMAGENET_MEAN,
        "INPUT.PIXEL_STD": IMAGENET_STD,
    },
)
