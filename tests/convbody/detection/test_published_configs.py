"""Every YAML file published with maskrcnn-benchmark loads, builds, detects and trains, with its own keys.

``published/configs.json`` holds what the 66 files set: groups of keys that many share, and for each file its
groups and the keys of its own. ``published/defaults.txt`` holds the published default of every key.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.weights.catalog import URLS
from backbones.weights.contract import contradictions
from backbones.weights.known import known_contract
from convbody.data.errors import DataError
from convbody.detection import build_detector
from convbody.detection.data.catalog import find_dataset
from convbody.training.schedule import build_optimizer
from registry import get_cfg, load_cfg
from registry.merge import dotted_keys
from registry.tree import value_of

PUBLISHED = Path(__file__).parent / "published"
ROOT = Path(__file__).resolve().parents[3]
Flat = dict[str, Any]


def _published() -> dict[str, Flat]:
    """What each file sets: name -> dotted key -> value."""
    stored = json.loads((PUBLISHED / "configs.json").read_text())
    parts, configs = stored["parts"], stored["configs"]
    flat: dict[str, Flat] = {}
    for name, (groups, own) in configs.items():
        flat[name] = {key: value for group in groups for key, value in parts[group].items()} | own
    return flat


FACTS = _published()


def as_yaml(facts: Mapping[str, Any]) -> str:
    """The YAML text of flat facts, sequences written as published: ``(4, 8, 16)``, text to a YAML reader."""
    tree: dict[str, Any] = {}
    for key, value in facts.items():
        *path, leaf = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = str(tuple(value)) if isinstance(value, list) else value
    return json.dumps(tree)  # JSON is YAML


@pytest.fixture
def load(tmp_path):
    def from_file(name, opts=()):
        path = tmp_path / "published.yaml"
        path.write_text(as_yaml(FACTS[name]))
        return load_cfg(path, opts)

    return from_file


def test_there_are_as_many_as_published():
    assert len(FACTS) == 66


@pytest.mark.parametrize("name", FACTS)
def test_it_loads_with_every_value(load, name):
    cfg = load(name)
    for key, value in FACTS[name].items():
        found = value_of(cfg, key)
        assert (list(found) if isinstance(found, tuple) else found) == value, key


@pytest.mark.parametrize("name", FACTS)
def test_its_data_sets_are_known_by_name_and_missed_by_path(load, name, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVBODY_DATASETS", str(tmp_path))
    cfg = load(name)
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        with pytest.raises(DataError, match=rf"data set '{dataset}': no annotation file at {tmp_path}"):
            find_dataset(cfg, dataset)


@pytest.mark.parametrize("name", [name for name in FACTS if FACTS[name].get("MODEL.WEIGHT")])
def test_its_weights_are_in_the_catalogue_and_agree_with_it(load, name):
    cfg = load(name)
    scheme, _, listed = cfg.MODEL.WEIGHT.partition("://")
    assert scheme == "catalog" and listed in URLS
    contract = known_contract(cfg.MODEL.WEIGHT, {})
    assert contract is not None and contradictions(contract, cfg) == {}


# Little to compute, and something to compute in every head: the network itself is the published one.
CHEAP = {
    "MODEL.WEIGHT": "",
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MAX_SIZE_TEST": 96,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 5,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 5,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 3,
    "MODEL.RETINANET.INFERENCE_TH": 0.0,
    "TEST.DETECTIONS_PER_IMG": 3,
    "TEST.BBOX_AUG.SCALES": (48, 80),
}
FAST = (
    "e2e_mask_rcnn_R_50_C4_1x",
    "e2e_keypoint_rcnn_R_50_FPN_1x",
    "retinanet/retinanet_R-50-FPN_P5_1x",
    "e2e_faster_rcnn_fbnet",
    "e2e_mask_rcnn_fbnet_xirb16d_dsmask",
)


def one_of_each_network() -> list[Any]:
    """A file for every network that the files describe; the others differ in what is outside of it."""
    found: dict[str, str] = {}
    for name in (*FAST, *FACTS):
        network = {
            key: value
            for key, value in FACTS[name].items()
            if key.startswith(("MODEL.", "TEST.BBOX_AUG.")) and key not in CHEAP and "TOP_N" not in key
        }
        found.setdefault(json.dumps(network, sort_keys=True), name)
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in found.values()]


def target() -> dict[str, torch.Tensor]:
    """Two objects in an image of 64 x 96, for every head."""
    boxes = torch.tensor([[8.0, 8.0, 40.0, 56.0], [30.0, 4.0, 90.0, 60.0]])
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    points = torch.cat([centre, torch.full((2, 1), 2.0)], dim=1)[:, None].repeat(1, 17, 1)
    return {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": points}


@pytest.mark.parametrize("name", one_of_each_network())
def test_it_builds_detects_and_trains(load, name):
    cfg = load(name, [part for pair in CHEAP.items() for part in pair])
    torch.manual_seed(0)
    model = build_detector(cfg)
    images = [torch.rand(3, 64, 96)]

    with torch.no_grad():
        (found,) = model.eval()(images)
    assert len(found["boxes"]) > 0
    assert ("masks" in found) == cfg.MODEL.MASK_ON
    assert ("keypoints" in found) == cfg.MODEL.KEYPOINT_ON

    optimizer = build_optimizer(cfg, model)
    before = {key: value.clone() for key, value in model.named_parameters() if value.requires_grad}
    loss = torch.stack(list(model.train()(images, [target()]).values())).sum()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    after = dict(model.named_parameters())
    assert all(after[key].grad is not None and after[key].isfinite().all() for key in before)
    assert sum(not torch.equal(after[key], value) for key, value in before.items()) > len(before) / 2


# Our file -> the published one that it says it corresponds to (configs/README.md), schedules apart.
COUNTERPARTS = {
    "coco/faster_rcnn_R_50_C4_1x": "e2e_faster_rcnn_R_50_C4_1x",
    "coco/mask_rcnn_R_50_C4_1x": "e2e_mask_rcnn_R_50_C4_1x",
    "coco/faster_rcnn_R_50_FPN_1x": "e2e_faster_rcnn_R_50_FPN_1x",
    "coco/mask_rcnn_R_50_FPN_1x": "e2e_mask_rcnn_R_50_FPN_1x",
    "coco/mask_rcnn_R_101_FPN_1x": "e2e_mask_rcnn_R_101_FPN_1x",
    "coco/mask_rcnn_X_101_32x8d_FPN_1x": "e2e_mask_rcnn_X_101_32x8d_FPN_1x",
    "coco/keypoint_rcnn_R_50_FPN_1x": "e2e_keypoint_rcnn_R_50_FPN_1x",
    "coco/rpn_R_50_C4_1x": "rpn_R_50_C4_1x",
    "coco/mask_rcnn_R_50_FPN_1x_dcn_v1": "dcn/e2e_mask_rcnn_dconv_R_50_FPN_1x",
    "coco/mask_rcnn_R_50_FPN_1x_dcn_v2": "dcn/e2e_mask_rcnn_mdconv_R_50_FPN_1x",
    "coco/mask_rcnn_R_50_FPN_1x_gn": "gn_baselines/e2e_mask_rcnn_R_50_FPN_1x_gn",
    "coco/mask_rcnn_R_50_FPN_1x_gn_4conv1fc": "gn_baselines/e2e_mask_rcnn_R_50_FPN_Xconv1fc_1x_gn",
    "coco/mask_rcnn_R_50_FPN_3x_gn_scratch": "gn_baselines/scratch_e2e_mask_rcnn_R_50_FPN_3x_gn",
    "coco/mask_rcnn_R_50_FPN_1x_bbox_aug": "test_time_aug/e2e_mask_rcnn_R_50_FPN_1x",
    "coco/mask_rcnn_R_50_FPN_quick": "quick_schedules/e2e_mask_rcnn_R_50_FPN_quick",
    "caffe2/faster_rcnn_R_50_C4": "caffe2/e2e_faster_rcnn_R_50_C4_1x_caffe2",
    "caffe2/mask_rcnn_R_50_FPN": "caffe2/e2e_mask_rcnn_R_50_FPN_1x_caffe2",
    "caffe2/keypoint_rcnn_R_50_FPN": "caffe2/e2e_keypoint_rcnn_R_50_FPN_1x_caffe2",
    "caffe2/mask_rcnn_X_152_32x8d_FPN": "caffe2/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x_caffe2",
    "cityscapes/mask_rcnn_R_50_FPN": "cityscapes/e2e_mask_rcnn_R_50_FPN_1x_cocostyle",
    "voc/faster_rcnn_R_50_C4": "pascal_voc/e2e_faster_rcnn_R_50_C4_1x_4_gpu_voc",
    "voc/mask_rcnn_R_50_FPN": "pascal_voc/e2e_mask_rcnn_R_50_FPN_1x_cocostyle",
    "fbnet/faster_rcnn_fbnet": "e2e_faster_rcnn_fbnet",
    "fbnet/faster_rcnn_fbnet_600": "e2e_faster_rcnn_fbnet_600",
    "fbnet/faster_rcnn_chamv1a_600": "e2e_faster_rcnn_fbnet_chamv1a_600",
    "fbnet/mask_rcnn_fbnet": "e2e_mask_rcnn_fbnet",
    "fbnet/mask_rcnn_fbnet_600": "e2e_mask_rcnn_fbnet_600",
    "fbnet/mask_rcnn_xirb16d_dsmask": "e2e_mask_rcnn_fbnet_xirb16d_dsmask",
    "fbnet/mask_rcnn_xirb16d_dsmask_600": "e2e_mask_rcnn_fbnet_xirb16d_dsmask_600",
}
# What ours leave to the backbone, which knows its own strides.
LEFT_OUT = ("POOLER_SCALES", "ANCHOR_STRIDE")


@pytest.mark.parametrize(("ours", "published"), COUNTERPARTS.items())
def test_our_counterpart_describes_the_same_detector(load, ours, published):
    cfg, other = load_cfg(ROOT / "configs" / f"{ours}.yaml"), load(published)
    keys = [key for key in dotted_keys(cfg) if key.startswith(("MODEL.", "INPUT.", "TEST."))]
    compared = [key for key in keys if not key.endswith(LEFT_OUT)]
    assert {key: value_of(cfg, key) for key in compared} == {key: value_of(other, key) for key in compared}


def published_defaults() -> dict[str, Flat]:
    sections: dict[str, Flat] = {}
    for line in (PUBLISHED / "defaults.txt").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line[1:-1], {})
        elif not line.startswith("#"):
            key, _, literal = line.partition(": ")
            section[key] = ast.literal_eval(literal)
    return sections


DEFAULTS = published_defaults()


@pytest.mark.parametrize("section", DEFAULTS)
def test_every_published_key_has_its_published_default_and_type(section):
    cfg = get_cfg()
    node = value_of(cfg, section) if section else cfg
    for key, value in DEFAULTS[section].items():
        assert node[key] == value, key
        # An int stands where any number is meant: 2 is the published default of a factor.
        assert type(node[key]) is type(value) or isinstance(node[key], float), key
