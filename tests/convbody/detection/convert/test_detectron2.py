"""Configs in detectron2's form, written for these tests, become configs that load and build."""

import pytest
import torch
import yaml

from backbones.weights.contract import contradictions
from backbones.weights.known import known_contract
from convbody.detection import build_detector
from convbody.detection.convert import convert_detectron2
from convbody.detection.convert.settings import READ
from convbody.detection.convert.table import FIXED, RENAMED
from registry import ConfigError, get_cfg, load_cfg
from registry.tree import value_of

FPN = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "POST_NMS_TOPK_TRAIN": 700},
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NUM_CONV": 4},
    },
    "DATASETS": {"TRAIN": "('coco_2017_train',)", "TEST": "('coco_2017_val',)"},
    "VERSION": 2,
}
RETINANET = """
MODEL:
  META_ARCHITECTURE: RetinaNet
  BACKBONE: {NAME: build_retinanet_resnet_fpn_backbone}
  RESNETS: {OUT_FEATURES: [res3, res4, res5]}
  FPN: {IN_FEATURES: [res3, res4, res5]}
  ANCHOR_GENERATOR:
    SIZES: !!python/object/apply:eval ["[[s, s*2**(1.0/3), s*2**(2.0/3)] for s in [24, 48, 96, 192, 384]]"]
  RETINANET: {SMOOTH_L1_LOSS_BETA: 0.0, NUM_CLASSES: 6}
"""


@pytest.fixture
def converted(tmp_path):
    """``converted(text or tree, **changes)``: (the config that the conversion loads as, what was listed)."""

    def convert(source, changes=None):
        (tmp_path / "base.yaml").write_text(source if isinstance(source, str) else yaml.safe_dump(source))
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"_BASE_": "base.yaml", **(changes or {})}))
        conversion = convert_detectron2(tmp_path / "run.yaml")
        (tmp_path / "ours.yaml").write_text(conversion.to_yaml())
        return load_cfg(tmp_path / "ours.yaml"), conversion.without_equivalent

    return convert


def keys(lines):
    return {line.split(" = ")[0] for line in lines}


CASES = {
    "faster-c4": ({}, {}),
    "mask-c4": ({}, {"MODEL": {"MASK_ON": True}}),
    "faster-dc5": (
        {},
        {
            "MODEL": {
                "RESNETS": {"OUT_FEATURES": ["res5"], "RES5_DILATION": 2},
                "RPN": {"IN_FEATURES": ["res5"]},
                "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["res5"]},
                "ROI_BOX_HEAD": {"NUM_FC": 2, "POOLER_RESOLUTION": 7},
            }
        },
    ),
    "faster-fpn": (FPN, {}),
    "mask-fpn": (FPN, {"MODEL": {"MASK_ON": True}}),
    "keypoint-fpn": (FPN, {"MODEL": {"KEYPOINT_ON": True, "ROI_HEADS": {"NUM_CLASSES": 1}}}),
    "mask-gn": (
        FPN,
        {
            "MODEL": {
                "MASK_ON": True,
                "RESNETS": {"NORM": "GN", "STRIDE_IN_1X1": False},
                "FPN": {"NORM": "GN"},
                "ROI_BOX_HEAD": {"NUM_CONV": 4, "NUM_FC": 1, "NORM": "GN"},
                "ROI_MASK_HEAD": {"NORM": "GN"},
            }
        },
    ),
    "rpn-fpn": (FPN, {"MODEL": {"META_ARCHITECTURE": "ProposalNetwork"}}),
    "retinanet": (RETINANET, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_family_loads_and_builds(converted, name):
    cfg, listed = converted(*CASES[name])
    # Only what differs by default and cannot be set is left.
    assert all("(a default)" in line for line in listed), listed
    with torch.device("meta"):
        model = build_detector(cfg)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert any(".conv1.weight" in key for key in shapes)
    expected = {"faster-c4": "R-50-C4", "mask-c4": "R-50-C4", "faster-dc5": "R-50-C5"}
    fallback = "R-50-FPN-RETINANET" if name == "retinanet" else "R-50-FPN"
    assert expected.get(name, fallback) == cfg.MODEL.BACKBONE.CONV_BODY
    assert name.startswith("mask") == cfg.MODEL.MASK_ON
    assert ("roi_heads.mask_predictor.mask_fcn_logits.weight" in shapes) == name.startswith("mask")
    assert (name == "rpn-fpn") == cfg.MODEL.RPN_ONLY


def test_keys_keep_their_meaning_under_their_names_here(converted):
    cfg, _ = converted(
        FPN,
        {
            "MODEL": {
                "RESNETS": {"DEPTH": 101, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 8, "STRIDE_IN_1X1": False},
                "ROI_HEADS": {"NUM_CLASSES": 7, "SCORE_THRESH_TEST": 0.1},
                "BACKBONE": {"FREEZE_AT": 0},
                "RPN": {"IOU_THRESHOLDS": [0.2, 0.6]},
            },
            "INPUT": {
                "MIN_SIZE_TRAIN": [640, 800],
                "MIN_SIZE_TRAIN_SAMPLING": "range",
                "RANDOM_FLIP": "vertical",
            },
            "SOLVER": {"LR_SCHEDULER_NAME": "WarmupCosineLR", "AMP": {"ENABLED": True}},
            "TEST": {"DETECTIONS_PER_IMAGE": 30, "EXPECTED_RESULTS": [["bbox", "AP", 38.5, 0.2]]},
        },
    )
    assert (cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT) == ("R-101-FPN", 0)
    assert (cfg.MODEL.RESNETS.NUM_GROUPS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (32, 8)
    assert cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES == 8  # the background is counted here
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH == 0.1
    assert cfg.MODEL.ROI_HEADS.DETECTIONS_PER_IMG == 30
    assert (cfg.MODEL.RPN.BG_IOU_THRESHOLD, cfg.MODEL.RPN.FG_IOU_THRESHOLD) == (0.2, 0.6)
    assert cfg.MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN == cfg.MODEL.RPN.POST_NMS_TOP_N_TRAIN == 700
    assert cfg.MODEL.RPN.ANCHOR_SIZES == (16, 32, 64, 128, 256)
    assert cfg.INPUT.MIN_SIZE_RANGE_TRAIN == (640, 800)
    assert (cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN, cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN) == (0.0, 0.5)
    assert (cfg.SOLVER.SCHEDULE, cfg.DTYPE) == ("cosine", "float16")
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    (entry,) = cfg.TEST.EXPECTED_RESULTS
    assert entry[:3] == ["coco_2017_val", "box", "AP"]
    assert entry[3:] == pytest.approx([0.385, 0.002]) and cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL == 1


def test_defaults_that_differ_are_written_out(converted):
    cfg, _ = converted(FPN)
    assert (cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_NORM) == (1.0, 0.0)
    assert cfg.SOLVER.WEIGHT_DECAY == cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.0001
    assert (cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR) == (1000, 0.001)
    assert cfg.MODEL.FROZEN_BN.EPSILON == 1e-5
    assert cfg.MODEL.RPN.STRADDLE_THRESH == -1
    assert cfg.MODEL.RPN.FPN_POST_NMS_PER_BATCH is False
    assert cfg.INPUT.PIXEL_MEAN == [103.53, 116.28, 123.675] and cfg.INPUT.TO_BGR255


def test_rgb_colours_become_fractions_of_one(converted):
    cfg, _ = converted(
        FPN,
        {"INPUT": {"FORMAT": "RGB"}, "MODEL": {"PIXEL_MEAN": [127.5, 102, 51], "PIXEL_STD": [51, 51, 25.5]}},
    )
    assert cfg.INPUT.TO_BGR255 is False
    assert pytest.approx([0.5, 0.4, 0.2]) == cfg.INPUT.PIXEL_MEAN
    assert pytest.approx([0.2, 0.2, 0.1]) == cfg.INPUT.PIXEL_STD


def test_retinanets_octaves_are_recognised_from_the_expression_its_files_use(converted):
    cfg, listed = converted(RETINANET)
    node = cfg.MODEL.RETINANET
    assert node.ANCHOR_SIZES == (24, 48, 96, 192, 384) and node.SCALES_PER_OCTAVE == 3
    assert (node.NUM_CLASSES, node.BBOX_REG_BETA, node.BBOX_REG_WEIGHT, node.NMS_TH) == (7, 0.0, 1.0, 0.5)
    assert "MODEL.RETINANET.BBOX_REG_WEIGHTS" in keys(listed)
    assert not any(key.startswith("MODEL.RPN") for key in keys(listed))


def test_anchors_and_the_box_loss_are_detectron2s(converted):
    cfg, listed = converted(FPN, {"MODEL": {"ROI_BOX_HEAD": {"SMOOTH_L1_BETA": 0.25}}})
    assert (cfg.MODEL.ANCHOR_CONVENTION, cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA) == ("detectron2", 0.25)
    assert not {"MODEL.ANCHOR_GENERATOR.OFFSET", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"} & keys(listed)
    _, listed = converted(FPN, {"MODEL": {"ANCHOR_GENERATOR": {"OFFSET": 0.5}}})
    assert "MODEL.ANCHOR_GENERATOR.OFFSET" in keys(listed)


def test_what_has_no_equivalent_is_listed_and_nothing_is_dropped(converted):
    changes = {
        "MODEL": {
            "WEIGHTS": "s3://somewhere/model.pkl",
            "RPN": {"SMOOTH_L1_BETA": 0.5, "HEAD_NAME": "Mine"},
            "ANCHOR_GENERATOR": {"SIZES": [[16, 32]]},
            "SEM_SEG_HEAD": {"NUM_CLASSES": 3},
        },
        "INPUT": {"CROP": {"ENABLED": True, "TYPE": "absolute"}},
        "VIS_PERIOD": 20,
        "SOLVER": {"CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "norm"}},
    }
    cfg, listed = converted(FPN, changes)
    given = {
        *("MODEL.WEIGHTS", "MODEL.RPN.SMOOTH_L1_BETA", "MODEL.RPN.HEAD_NAME", "MODEL.ANCHOR_GENERATOR.SIZES"),
        *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "INPUT.CROP.ENABLED", "INPUT.CROP.TYPE", "VIS_PERIOD"),
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    }
    assert keys(line for line in listed if "(a default)" not in line) == given
    assert "MODEL.RPN.SMOOTH_L1_BETA = 0.5: the loss turns linear at 1/9" in listed
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED


@pytest.mark.parametrize(
    ("address", "epsilon"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", 1e-5),
        ("catalog://ImageNetPretrained/MSRA/R-50", 0.0),
        ("https://example.com/r50.pkl", 1e-5),
    ],
)
def test_addresses_of_weights_stay_and_the_config_agrees_with_them(converted, address, epsilon):
    cfg, listed = converted(FPN, {"MODEL": {"WEIGHTS": address}})
    assert address == cfg.MODEL.WEIGHT and "MODEL.WEIGHTS" not in keys(listed)
    assert epsilon == cfg.MODEL.FROZEN_BN.EPSILON
    contract = known_contract(address, {})
    assert contract is None or contradictions(contract, cfg) == {}


def test_a_name_that_the_catalogue_lacks_is_listed(converted):
    _, listed = converted(FPN, {"MODEL": {"WEIGHTS": "catalog://ImageNetPretrained/FAIR/X-101-64x4d"}})
    assert "MODEL.WEIGHTS" in keys(listed)


def test_data_sets_get_their_names_here_and_unknown_ones_are_listed(converted):
    names = {"TRAIN": ["voc_2007_trainval"], "TEST": ["mine_val"]}
    cfg, listed = converted(FPN, {"DATASETS": names})
    assert cfg.DATASETS.TRAIN == ("voc_2007_train_cocostyle", "voc_2007_val_cocostyle")
    assert cfg.DATASETS.TEST == ("mine_val",)
    assert "DATASETS.TEST = ['mine_val']: say in DATASETS.CATALOG where to find mine_val" in listed
    assert "DATASETS.TRAIN" not in keys(listed)


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        (FPN, {"MODEL": {"META_ARCHITECTURE": "PanopticFPN"}}, "META_ARCHITECTURE = 'PanopticFPN'"),
        (FPN, {"MODEL": {"BACKBONE": {"NAME": "build_mine"}}}, "BACKBONE.NAME = 'build_mine'"),
        (FPN, {"MODEL": {"ROI_HEADS": {"NAME": "CascadeROIHeads"}}}, "'CascadeROIHeads' has no equivalent"),
        (FPN, {"MODEL": {"ROI_BOX_HEAD": {"NUM_FC": 3}}}, "NUM_FC = 3 has no equivalent"),
        (FPN, {"MODEL": {"RPN": {"IOU_THRESHOLDS": 0.5}}}, "a form that detectron2 does not take"),
        ("MODEL: [1", {}, "base.yaml:1"),
        ("- 1", {}, "must hold a mapping"),
        ("_BASE_: run.yaml", {}, "circle"),
        ("_BASE_: nowhere.yaml", {}, "nowhere.yaml cannot be read"),
        ('A: !!python/object/apply:eval ["open(1)"]', {}, "more than lists of numbers"),
        ('A: !!python/object/apply:eval ["2**9**9"]', {}, "more than lists of numbers"),
        ('A: !!python/object/apply:os.system ["true"]', {}, "base.yaml:1 cannot be read"),
    ],
)
def test_what_cannot_be_converted_is_one_line(converted, source, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        converted(source, changes)
    assert "\n" not in str(caught.value)


def test_the_tables_do_not_overlap_and_name_keys_that_exist():
    assert not (READ.keys() & RENAMED.keys() or READ.keys() & FIXED.keys() or RENAMED.keys() & FIXED.keys())
    cfg = get_cfg()
    for rule in RENAMED.values():
        for target in rule.targets:
            value_of(cfg, target)
