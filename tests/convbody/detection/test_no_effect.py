"""No key of the config is idle: each is read, or in the table of those that have no effect."""

import ast
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from convbody.detection import build_detector
from convbody.detection.no_effect import KEYS_WITHOUT_EFFECT, report_keys_without_effect
from registry import Config, get_cfg, load_cfg
from registry.builtin import CONFIG_MODULES
from registry.merge import dotted_keys

ROOT = Path(__file__).resolve().parents[3]
# Sections whose keys share names with other sections', so that a name in the code does not say whose it is.
SECTIONS = ("RESNETS", "FPN", "RPN", "RETINANET", "FCOS", "ROI_HEADS", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
BUILDING = tuple(f"MODEL.{name}." for name in (*SECTIONS, "ROI_KEYPOINT_HEAD"))
MASK_THRESHOLD = "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD"  # for what becomes of the output
# Parts that the small detectors of the other tests leave out.
VARIANTS = [
    ("mask-fpn", {"MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor"}),
    ("mask-c4", {"MODEL.RESNETS.STAGE_WITH_DCN": (False, True, True, False)}),
]


class Recording(Config):
    """A config that notes the keys that are read from it."""

    def record(self, prefix, seen):
        self.__dict__["_prefix"], self.__dict__["_seen"] = prefix, seen
        for name, value in self.items():
            if isinstance(value, Config):
                self[name] = Recording(value).record(f"{prefix}{name}.", seen)
        return self

    def __getattr__(self, name):
        return self[name] if name in self else super().__getattr__(name)

    def __getitem__(self, name):
        if "_seen" in self.__dict__:
            self.__dict__["_seen"].add(self.__dict__["_prefix"] + name)
        return super().__getitem__(name)


def test_every_key_of_the_detectors_is_read_when_they_are_built(small_cfg, kinds):
    seen = set()
    for kind, changes in [(kind, {}) for kind in kinds] + VARIANTS:
        torch.manual_seed(0)
        build_detector(Recording(small_cfg(kind, changes)).record("", seen))
    keys = {key for key in dotted_keys(get_cfg()) if key.startswith(BUILDING)}
    assert keys - seen == {MASK_THRESHOLD}


def nodes_of_the_code():
    """The syntax of everything that may read a key, outside of where defaults are declared."""
    declared = {ROOT / (module.replace(".", "/") + ".py") for module in CONFIG_MODULES}
    for package in ("registry", "backbones", "convbody"):
        for path in (ROOT / package).rglob("*.py"):
            if path in declared or path.parent.name == "convert" or path.name == "no_effect.py":
                continue
            yield from ast.walk(ast.parse(path.read_text()))


def names_in_the_code():
    """Attributes, and the words of strings such as "MODEL.WEIGHT".

    A word with a gap, as in f"{part}_STRIDE", stands for every word that fits.
    """
    names = set()
    for node in nodes_of_the_code():
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(node.value.split("."))
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "*" for part in node.values]
            names |= {word for word in "".join(parts).split(".") if word.isupper() and "_" in word}
    return names


def test_every_other_key_is_named_in_the_code():
    names = names_in_the_code()
    names |= {name.upper() for name in names}  # "brightness" is read at INPUT.BRIGHTNESS
    gaps = [name for name in names if "*" in name]
    idle = {
        key
        for key in dotted_keys(get_cfg())
        if not key.startswith(BUILDING)
        and (word := key.rpartition(".")[2]) not in names
        and not any(fnmatchcase(word, name) for name in gaps)
    }
    assert idle <= KEYS_WITHOUT_EFFECT.keys()


def test_what_is_said_to_have_no_effect_is_not_read():
    attributes = {node.attr for node in nodes_of_the_code() if isinstance(node, ast.Attribute)}
    assert MASK_THRESHOLD.rpartition(".")[2] in attributes
    words = Counter(key.rpartition(".")[2] for key in dotted_keys(get_cfg()))
    alone = {key.rpartition(".")[2] for key in KEYS_WITHOUT_EFFECT if words[key.rpartition(".")[2]] == 1}
    assert alone and not alone & attributes


def test_the_table_holds_keys_and_accepts_their_defaults():
    assert KEYS_WITHOUT_EFFECT.keys() <= set(dotted_keys(get_cfg()))
    assert report_keys_without_effect(load_cfg(None)) == []


def test_a_catalogue_of_paths_is_reported(caplog):
    value = "maskrcnn_benchmark/config/paths_catalog.py"
    assert report_keys_without_effect(load_cfg(None, ["PATHS_CATALOG", value])) == ["PATHS_CATALOG"]
    assert value in caplog.text and "DATASETS.CATALOG" in caplog.text
