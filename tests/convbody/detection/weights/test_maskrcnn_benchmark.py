"""Whole detectors under the names of maskrcnn-benchmark."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from backbones.weights import load_weights
from backbones.weights.write import convert
from convbody.detection import build_detector

GOLDEN = json.loads((Path(__file__).parent / "golden" / "maskrcnn_benchmark.json").read_text())
CONFIGS = [name for name in GOLDEN if name != "note"]
X101 = ("mask_rcnn_X_101_32x8d_FPN_1x", "MODEL.MASK_ON", False)


def ours(config):
    return X101 if "X_101" in config else (config,)


def published(config):
    """Name -> shape; anchors, which our detectors compute from the config, apart."""
    pairs = (line.split() for line in GOLDEN[config])
    shapes = {name: [int(side) for side in shape.split("x")] for name, shape in pairs}
    anchors = {name for name in shapes if "cell_anchors" in name}
    assert anchors
    return {name: shape for name, shape in shapes.items() if name not in anchors}, anchors


@pytest.mark.parametrize("config", CONFIGS)
def test_our_detectors_become_the_published_names_and_shapes(detectors, config):
    state = {
        name: torch.empty(shape, device="meta") for name, shape in detectors.shapes(*ours(config)).items()
    }
    converted = convert(state, "maskrcnn-benchmark").state
    assert {name: list(tensor.shape) for name, tensor in converted.items()} == published(config)[0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "checkpoint"])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_published_names_load_whole(detectors, tmp_path, config, wrapped):
    shapes, anchors = published(config)
    # A file of the full shapes that stores a number per tensor.
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    state |= {name: torch.zeros(3, 4) for name in anchors}
    if wrapped:
        state = {f"module.{name}": tensor for name, tensor in state.items()}
        state = {"model": state, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "iteration": 7}
    torch.save(state, tmp_path / "model_final.pth")
    with torch.device("meta"):
        model = build_detector(detectors.config(*ours(config)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter.*")
        report = load_weights(model, tmp_path / "model_final.pth")
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    assert report.lineage == "maskrcnn-benchmark"


C4_NORM = "roi_heads.box_head.head.layer4.1.bn2.bias"
PAIRS = {
    "mask_fpn": {
        "backbone.body.layer2.3.conv2.weight": "backbone.body.layer2.3.conv2.weight",
        "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
        "rpn.head.bbox_pred.bias": "rpn.head.bbox_pred.bias",
        "roi_heads.box.feature_extractor.fc7.weight": "roi_heads.box_head.fc7.weight",
        "roi_heads.box.predictor.cls_score.bias": "roi_heads.box_predictor.cls_score.bias",
        "roi_heads.mask.feature_extractor.mask_fcn1.weight": "roi_heads.mask_head.0.0.weight",
        "roi_heads.mask.feature_extractor.mask_fcn3.bias": "roi_heads.mask_head.2.0.bias",
        "roi_heads.mask.predictor.conv5_mask.weight": "roi_heads.mask_predictor.conv5_mask.weight",
    },
    "mask_gn": {
        "roi_heads.box.feature_extractor.xconvs.3.weight": "roi_heads.box_head.xconvs.3.weight",
        "roi_heads.mask.feature_extractor.mask_fcn2.0.weight": "roi_heads.mask_head.1.0.weight",
        "roi_heads.mask.feature_extractor.mask_fcn2.1.bias": "roi_heads.mask_head.1.1.bias",
    },
    "mask_c4": {
        f"roi_heads.{head}.feature_extractor.head.layer4.1.bn2.bias": C4_NORM for head in ("box", "mask")
    },
    "keypoint": {
        "roi_heads.keypoint.feature_extractor.conv_fcn1.weight": "roi_heads.keypoint_head.0.weight",
        "roi_heads.keypoint.feature_extractor.conv_fcn3.bias": "roi_heads.keypoint_head.4.bias",
        "roi_heads.keypoint.predictor.kps_score_lowres.weight": (
            "roi_heads.keypoint_predictor.kps_score_lowres.weight"
        ),
    },
    "retinanet": {
        "rpn.head.cls_tower.0.weight": "head.classification_head.conv.0.0.weight",
        "rpn.head.cls_tower.6.bias": "head.classification_head.conv.3.0.bias",
        "rpn.head.bbox_tower.2.weight": "head.regression_head.conv.1.0.weight",
        "rpn.head.cls_logits.weight": "head.classification_head.cls_logits.weight",
        "rpn.head.bbox_pred.weight": "head.regression_head.bbox_reg.weight",
    },
}


@pytest.mark.parametrize("case", PAIRS)
def test_each_published_tensor_goes_where_it_belongs(detectors, tmp_path, case):
    """Pairs by hand: a rule that exchanges two tensors of one shape in both directions would show here."""
    model = detectors.build(case)
    theirs = convert(model.state_dict(), "maskrcnn-benchmark").state
    torch.save(theirs, tmp_path / "model.pth")
    target = detectors.build(case)
    detectors.fill(target.state_dict(), seed=1)
    report = load_weights(target, tmp_path / "model.pth")
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), (), ())
    for their_name, name in PAIRS[case].items():
        assert torch.equal(target.state_dict()[name], theirs[their_name]), name
        assert torch.equal(model.state_dict()[name], theirs[their_name]), name


def test_a_mask_head_of_its_own_is_not_taken_for_a_copy(detectors):
    """Trained, it differs from the box head's stage in its convolutions; its frozen norms stay the same."""
    theirs = convert(detectors.build("mask_c4").state_dict(), "maskrcnn-benchmark").state
    own = "roi_heads.mask.feature_extractor.head."
    name = f"{own}layer4.0.conv1.weight"
    theirs[name] = theirs[name] + 1
    back = convert(theirs, "convbody").state
    assert torch.equal(back["roi_heads.mask_head.head.layer4.0.conv1.weight"], theirs[name])
    held = [name for name in back if name.startswith("roi_heads.mask_head.head.")]
    assert len(held) == len([name for name in theirs if name.startswith(own)])
    again = convert(back, "maskrcnn-benchmark").state
    assert again.keys() == theirs.keys() and all(torch.equal(again[name], theirs[name]) for name in theirs)
