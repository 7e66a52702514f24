"""Config keys of the FBNet family: MODEL.FBNET."""

from __future__ import annotations

from typing import Any

from backbones.config import IMAGENET_MEAN, IMAGENET_STD
from registry import config_section, family_defaults


@config_section(
    "MODEL.FBNET",
    json_keys=("ARCH_DEF",),
    beside_config={"ARCH_DIRS": (), "ARCH": (".yaml", ".yml")},
)
def fbnet_defaults() -> dict[str, Any]:
    """Keys of every architecture, and of the heads that are made of one."""
    return {
        # Name of the architecture of CONV_BODY "FBNet" and of the FBNet heads, or path of its YAML file; with
        # CONV_BODY "FBNet-<architecture>-<neck>" it is that one.
        "ARCH": "default",
        # The architecture itself, as JSON text or as a mapping; a name that is known must mean the same.
        "ARCH_DEF": "",
        # Folders of further architectures, <name>.yaml, beside the config or in the working directory.
        "ARCH_DIRS": (),
        # Norm of every block: "bn", "af" (frozen batch norm), "gn", or any name in NORMS.
        "BN_TYPE": "bn",
        # "relu" or "relu6".
        "ACTIVATION": "relu",
        # Factor of all widths, which are then rounded to multiples of WIDTH_DIVISOR.
        "SCALE_FACTOR": 1.0,
        "WIDTH_DIVISOR": 1,
        # Leave out the norm and the activation behind the (last) depthwise convolution of a block.
        "DW_CONV_SKIP_BN": True,
        "DW_CONV_SKIP_RELU": True,
        # Heads: factor of the width of the convolution that ends it (negative: of the width before it; 0: no
        # such convolution), the blocks of each stage that are used ([]: all), and the stride of the first
        # (0: that of the architecture).
        "DET_HEAD_LAST_SCALE": 1.0,
        "DET_HEAD_BLOCKS": [],
        "DET_HEAD_STRIDE": 0,
        "KPTS_HEAD_LAST_SCALE": 0.0,
        "KPTS_HEAD_BLOCKS": [],
        "KPTS_HEAD_STRIDE": 0,
        "MASK_HEAD_LAST_SCALE": 0.0,
        "MASK_HEAD_BLOCKS": [],
        "MASK_HEAD_STRIDE": 0,
        # Blocks of the RPN head, counted from its end (0: all), and their norm ("": BN_TYPE).
        "RPN_HEAD_BLOCKS": 0,
        "RPN_BN_TYPE": "",
    }


# Where ImageNet weights exist, a body is the network that they were trained with, on normalised RGB.
_TRAINED: dict[str, Any] = {
    "INPUT.TO_BGR255": False,
    "INPUT.PIXEL_MEAN": IMAGENET_MEAN,
    "INPUT.PIXEL_STD": IMAGENET_STD,
    "MODEL.FROZEN_BN.EPSILON": 1e-5,
    "MODEL.FBNET.DW_CONV_SKIP_BN": False,
    "MODEL.FBNET.DW_CONV_SKIP_RELU": False,
}
family_defaults("FBNet-mobilenet_v2*", {**_TRAINED, "MODEL.FBNET.ACTIVATION": "relu6"})
family_defaults("FBNet-fbnet_c*", _TRAINED)
