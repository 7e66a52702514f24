"""A detectron2 config while it is converted, and the keys that are read together with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry import ConfigError

Values = dict[str, Any]

_NECKS = {
    "build_resnet_fpn_backbone": "FPN",
    "build_retinanet_resnet_fpn_backbone": "FPN-RETINANET",
}
_SINGLE = {("res4",): "C4", ("res5",): "C5"}

#: The keys that the modules model and run read, with detectron2's defaults.
READ: Values = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.IN_FEATURES": [],
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_BOX_HEAD.NAME": "",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 0,
    "MODEL.ROI_BOX_HEAD.NORM": "",
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 256,
    "MODEL.ROI_MASK_HEAD.NORM": "",
    "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.RANDOM_FLIP": "horizontal",
    "DATASETS.TRAIN": (),
    "DATASETS.TEST": (),
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value",
    "TEST.EXPECTED_RESULTS": [],
    "TEST.AUG.ENABLED": False,
    "TEST.AUG.MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
    "TEST.AUG.MAX_SIZE": 4000,
    "TEST.AUG.FLIP": True,
}


class Settings:
    """What a detectron2 config sets, over the defaults, and what was found to have no equivalent."""

    def __init__(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.given = given
        self._defaults = defaults
        self.notes: dict[str, str] = {}  # key -> why it has no equivalent

    def __getitem__(self, key: str) -> Any:
        return self.given[key] if key in self.given else self._defaults[key]

    def choose(self, key: str, words: Mapping[str, Any]) -> Any:
        """What the word at ``key`` stands for. Raises ConfigError: without an equivalent nothing is left."""
        if self[key] not in words:
            raise ConfigError(
                f"{key} = {self[key]!r} has no equivalent; there are {', '.join(map(str, words))}"
            )
        return words[self[key]]

    def note(self, key: str, why: str) -> None:
        """Records that the value of ``key`` has no equivalent."""
        self.notes[key] = why

    @property
    def one_stage(self) -> bool:
        return bool(self["MODEL.META_ARCHITECTURE"] == "RetinaNet")

    @property
    def two_stage(self) -> bool:
        return bool(self["MODEL.META_ARCHITECTURE"] == "GeneralizedRCNN")

    @property
    def neck(self) -> str:
        """The neck's name here: C4, C5, FPN or FPN-RETINANET."""
        if self["MODEL.BACKBONE.NAME"] != "build_resnet_backbone":
            return str(self.choose("MODEL.BACKBONE.NAME", _NECKS))
        features = tuple(self["MODEL.RESNETS.OUT_FEATURES"])
        if features not in _SINGLE:
            raise ConfigError(
                f"MODEL.RESNETS.OUT_FEATURES = {list(features)} has no equivalent without a pyramid; "
                "there are [res4] and [res5]"
            )
        return _SINGLE[features]
