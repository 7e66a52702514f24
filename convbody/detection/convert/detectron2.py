"""From a detectron2 YAML (ResNet bodies; Faster, Mask and Keypoint R-CNN, RPN, RetinaNet) to one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from convbody.detection.convert import model, run
from convbody.detection.convert.read import read_settings
from convbody.detection.convert.settings import READ, Settings, Values
from convbody.detection.convert.table import FIXED, RENAMED
from registry import Config, ConfigError, get_cfg
from registry.tree import value_of

_DEFAULTS = {
    **READ,
    **{key: rule.default for key, rule in RENAMED.items()},
    **{key: rule.default for key, rule in FIXED.items()},
}

_PARTS = (
    *(model.architecture, model.body, model.anchors, model.weights),
    *(model.box_head, model.mask_head, model.keypoint_head),
    *(run.colours, run.augmentation, run.data, run.schedule, run.testing),
)


@dataclass(frozen=True)
class Conversion:
    """A converted config."""

    values: Values
    """Dotted key -> value, of every key whose value is not the default here."""
    without_equivalent: list[str]
    """One line for each key of detectron2 that could not be carried over, set in the file or a default."""

    def to_yaml(self) -> str:
        """A config file for ``load_cfg``."""
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            *path, leaf = key.split(".")
            node = tree
            for part in path:
                node = node.setdefault(part, {})
            node[leaf] = value
        return yaml.safe_dump(tree, default_flow_style=None, width=110)


def convert_detectron2(path: str | Path) -> Conversion:
    """The config at ``path``, its ``_BASE_`` files included, with this project's keys.

    detectron2's defaults that differ from those here are written out. What has no equivalent is listed: every
    key that a file sets, and the defaults that make a difference to the detector.

    Raises:
        ConfigError: a file that cannot be read, or a detector that has no equivalent as a whole.
    """
    settings = Settings(read_settings(path), _DEFAULTS)
    values: Values = {}
    try:
        for part in _PARTS:
            values.update(part(settings))
        for key, rule in RENAMED.items():
            if key in settings.given or _takes_part(settings, key):
                values.update(dict.fromkeys(rule.targets, rule.convert(settings[key])))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} has a value of a form that detectron2 does not take: {error}") from error
    cfg = get_cfg(values["MODEL.BACKBONE.CONV_BODY"])
    return Conversion(
        {key: _plain(value) for key, value in sorted(values.items()) if _differs(cfg, key, value)},
        _without_equivalent(settings),
    )


def _takes_part(settings: Settings, key: str) -> bool:
    """Whether the default of ``key`` matters to the configured detector."""
    kind = settings["MODEL.META_ARCHITECTURE"]
    idle = {
        "MODEL.RETINANET.": kind != "RetinaNet",
        "MODEL.RPN.": kind == "RetinaNet",
        "MODEL.PROPOSAL_GENERATOR.": kind == "RetinaNet",
        "MODEL.ROI_": kind != "GeneralizedRCNN",
        "MODEL.ROI_MASK_HEAD.": not settings["MODEL.MASK_ON"],
        "MODEL.ROI_KEYPOINT_HEAD.": not settings["MODEL.KEYPOINT_ON"],
        "SOLVER.CLIP_GRADIENTS.": not settings["SOLVER.CLIP_GRADIENTS.ENABLED"],
    }
    return not any(off and key.startswith(prefix) for prefix, off in idle.items())


def _without_equivalent(settings: Settings) -> list[str]:
    notes = dict(settings.notes)
    for key, rule in FIXED.items():
        matters = key in settings.given or _takes_part(settings, key)
        if matters and _plain(settings[key]) not in [_plain(each) for each in rule.accepted]:
            notes[key] = rule.here
    notes |= {key: "no such key here" for key in settings.given if key not in _DEFAULTS}
    return [
        f"{key} = {_plain(settings[key])!r}{'' if key in settings.given else ' (a default)'}: {notes[key]}"
        for key in sorted(notes)
    ]


def _differs(cfg: Config, key: str, value: Any) -> bool:
    return key == "MODEL.BACKBONE.CONV_BODY" or _plain(value_of(cfg, key)) != _plain(value)


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML has them."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
