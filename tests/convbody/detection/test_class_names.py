"""Class names travel with the weights: into a run that starts from them, into testing and predicting."""

import json
import logging
from pathlib import Path

import pytest
import torch

from convbody.detection.coco_names import assumed_names
from convbody.detection.data import Known
from convbody.detection.initial import build_initial_detector
from convbody.detection.trained import class_names, load_trained
from convbody.training.checkpoint import write_checkpoint
from registry import ConfigError

THREE = ("circle", "square", "triangle")
CLASS_KEYS = ("ROI_BOX_HEAD", "RETINANET", "FCOS")


def sized(count):
    return {f"MODEL.{section}.NUM_CLASSES": count + 1 for section in CLASS_KEYS}


@pytest.fixture
def saved(small_detector, tmp_path):
    """``saved(kind, notes)``: the weights of a detector of circles, squares and triangles, and their file."""

    def save(kind, notes, changes=()):
        model = small_detector(kind, dict(changes))
        path = tmp_path / "checkpoints" / "best.pth"
        write_checkpoint({"model": model.state_dict(), "iteration": 1, **notes}, path)
        return model.state_dict(), str(path)

    return save


def outputs(state, count):
    """Per label from 1, what the weights say of it, for each tensor that belongs to classes."""
    found = {}
    for name, tensor in state.items():
        if "cls_score" in name or "mask_fcn_logits" in name:
            found[name] = tensor[1:]
        elif "roi_heads.box_predictor.bbox_pred" in name and len(tensor) == 4 * (count + 1):
            found[name] = tensor.unflatten(0, (-1, 4))[1:]
        elif "classification_head.cls_logits" in name:
            found[name] = tensor.unflatten(0, (-1, count)).transpose(0, 1)
    return found


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("faster-fpn", {}),
        ("faster-fpn", {"MODEL.CLS_AGNOSTIC_BBOX_REG": True}),
        ("mask-fpn", {}),
        ("mask-c4", {}),
        ("retinanet", {}),
        ("fcos", {}),
    ],
)
@pytest.mark.parametrize("ours", [("triangle", "circle", "square"), ("triangle", "star"), ("star", *THREE)])
def test_a_run_starts_with_the_weights_of_the_classes_of_the_same_names(
    saved, small_cfg, kind, changes, ours, caplog
):
    state, file = saved(kind, {"classes": list(THREE)}, changes)
    cfg = small_cfg(kind, {**changes, **sized(len(ours)), "MODEL.WEIGHT": file, "SEED": 5})
    with caplog.at_level(logging.INFO):
        begun = build_initial_detector(cfg, Known(ours, [], "the data")).state_dict()
    assert f"has the classes circle, square, triangle, and this run {', '.join(ours)}" in caplog.text
    theirs, mine = outputs(state, 3), outputs(begun, len(ours))
    assert mine.keys() == theirs.keys() and mine
    for name, tensor in mine.items():
        assert len(tensor) == len(ours)
        for label, name_of in enumerate(ours):
            if name_of in THREE:
                assert torch.equal(tensor[label], theirs[name][THREE.index(name_of)]), (name, name_of)
            elif name.endswith("weight"):
                assert not any(torch.equal(tensor[label], each) for each in theirs[name]), (name, name_of)
    for name, tensor in begun.items():
        if name not in mine and "num_batches" not in name:
            assert torch.equal(tensor, state[name]), f"{name} is of no class"


def test_keypoints_of_the_same_names_keep_their_weights(saved, small_cfg):
    notes = {"classes": list(THREE), "keypoints": ["nose", "left", "right"]}
    state, file = saved("keypoint-fpn", notes)
    changes = {"MODEL.WEIGHT": file, "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": 2}
    known = Known(THREE, ["right", "tail"], "the data")
    begun = build_initial_detector(small_cfg("keypoint-fpn", changes), known).state_dict()
    name = "roi_heads.keypoint_predictor.kps_score_lowres"
    assert torch.equal(begun[f"{name}.weight"][:, 0], state[f"{name}.weight"][:, 2])
    assert begun[f"{name}.bias"].shape == (2,)
    assert not torch.equal(begun[f"{name}.weight"][:, 1], state[f"{name}.weight"][:, 1])


def test_weights_without_names_are_taken_whole_or_not_at_all(saved, small_cfg):
    state, file = saved("faster-fpn", {})
    name = "roi_heads.box_predictor.cls_score.weight"
    same = build_initial_detector(
        small_cfg("faster-fpn", {"MODEL.WEIGHT": file}), Known(("a", "b", "c"), [], "the data")
    )
    assert torch.equal(same.state_dict()[name], state[name])
    fewer = small_cfg("faster-fpn", {"MODEL.WEIGHT": file, **sized(2)})
    begun = build_initial_detector(fewer, Known(("a", "b"), [], "the data")).state_dict()[name]
    assert len(begun) == 3 and not torch.equal(begun[1:], state[name][1:3])


@pytest.mark.parametrize(("count", "of"), [(80, "classes"), (90, "classes"), (17, "keypoints")])
def test_published_files_of_as_many_classes_are_of_coco(count, of):
    names = assumed_names(of, count, "caffe2")
    assert len(names) == count and names[0] in ("person", "nose")
    assert assumed_names(of, count, "convbody") is None and assumed_names(of, 3, "caffe2") is None
    if count == 90:
        assert names[11] is None and names[89] == "toothbrush"


def test_a_detector_knows_its_classes_without_any_data_set(saved, small_cfg):
    classes = ["red", None, "blue"]
    _, file = saved("faster-fpn", {"classes": classes, "keypoints": []})
    cfg = small_cfg("faster-fpn", {"OUTPUT_DIR": str(Path(file).parents[1])})
    trained = load_trained(cfg)
    assert class_names(cfg, trained) == ["red", "unused", "blue"]
    assert trained.known.classes == tuple(classes) and trained.known.owner == file
    assert class_names(cfg, load_trained(cfg, file)) == ["red", "unused", "blue"]


def test_without_names_they_are_those_of_the_training_set(saved, small_cfg, tmp_path):
    _, file = saved("faster-fpn", {})
    cfg = small_cfg("faster-fpn")
    trained = load_trained(cfg, file)
    assert trained.known is None and class_names(cfg, trained) == []
    for name, first in (("train", "ant"), ("test", "bee")):
        content = {"images": [], "categories": [{"id": 2, "name": "fly"}, {"id": 1, "name": first}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        entry = {"image_dir": str(tmp_path), "ann_file": str(tmp_path / f"{name}.json")}
        cfg.DATASETS.CATALOG[name] = entry
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("test",)
    assert class_names(cfg, trained) == ["ant", "fly"]


def test_names_of_another_number_than_the_weights_are_refused(saved, small_cfg):
    _, file = saved("faster-fpn", {"classes": ["red"]})
    with pytest.raises(ConfigError, match="names 1 classes and has weights of 3"):
        load_trained(small_cfg("faster-fpn"), file)
