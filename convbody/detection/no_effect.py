"""Published keys that are accepted and change nothing here, and the line that says so when one is set."""

from __future__ import annotations

import logging
from typing import Any

from registry import Config, source_of
from registry.errors import source_phrase
from registry.tree import value_of

logger = logging.getLogger(__name__)

#: Key -> values that ask for what happens anyway, and what happens.
KEYS_WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...], str]] = {
    "PATHS_CATALOG": (("",), "data sets are listed in DATASETS.CATALOG, and weights go by their names"),
    "MODEL.ROI_HEADS.USE_FPN": ((True, False), "the backbone and POOLER_SCALES say what the heads read"),
    "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": ((1024,), "mask heads have no fully connected layer"),
    "MODEL.ROI_KEYPOINT_HEAD.MLP_HEAD_DIM": ((1024,), "keypoint heads have no fully connected layer"),
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": ((False,), "masks always come pasted into the image"),
    "MODEL.RETINANET.STRADDLE_THRESH": ((0, -1), "every anchor takes part in the loss"),
}


def report_keys_without_effect(cfg: Config) -> list[str]:
    """The keys of ``cfg`` that ask for something that does not happen; logs one warning line for each."""
    found = [key for key, (accepted, _) in KEYS_WITHOUT_EFFECT.items() if value_of(cfg, key) not in accepted]
    for key in found:
        where = source_phrase(source_of(cfg, key))
        logger.warning(
            "%s = %r, %s, has no effect: %s", key, value_of(cfg, key), where, KEYS_WITHOUT_EFFECT[key][1]
        )
    return found
