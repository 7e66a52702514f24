from __future__ import annotations

import dataclasses
import json
import logging
import pickle

import pytest
import torch
from oracle_detector import EVERYTHING, OracleDetector, evaluate_as_rank, open_shapes, shapes_config
from pycocotools.coco import COCO
from ranks import run_ranks

from convbody.detection import build_detector
from convbody.detection.data import Known, build_test_dataset, open_test_sets
from convbody.detection.evaluation import EvaluationResult, evaluate, evaluate_all, flat_metrics
from convbody.detection.evaluation import run as run_module
from convbody.detection.report.samples import samples
from registry import ConfigError, ConvbodyError


def run(shapes, *opts, **oracle):
    cfg = shapes_config(shapes, *opts)
    dataset = open_shapes(shapes, cfg)
    model = OracleDetector(dataset, **oracle)
    return evaluate(model, dataset, cfg, "shapes"), model


def test_the_whole_truth_scores_one_for_boxes_masks_and_keypoints(shapes):
    result, _ = run(shapes, *EVERYTHING)
    for task in ("bbox", "segm", "keypoints"):
        assert result.metrics[f"{task}/AP"] == pytest.approx(1.0)
        assert result.metrics[f"{task}/AP50"] == pytest.approx(1.0)
    assert [row["class"] for row in result.per_class] == ["circle", "square", "triangle"]
    assert sum(row["ground_truth"] for row in result.per_class) == len(result.predictions)
    assert result.per_class[0]["segm/AP"] == pytest.approx(1.0)
    assert result.images == 7
    assert list(result.image_f1) == ["1", "2", "3", "4", "5", "6", "7"]
    assert set(result.image_f1.values()) == {1.0}


def test_an_unseen_image_costs_recall_and_its_own_f1(shapes):
    result, _ = run(shapes, blind_to=(2, 5))
    assert 0.3 < result.metrics["bbox/AP"] < 0.99
    assert [image for image, f1 in result.image_f1.items() if f1 == 0.0] == ["3", "6"]
    assert result.operating_point.precision == 1.0
    assert result.operating_point.recall < 1.0


def test_finding_nothing_is_zero_everywhere(shapes):
    result, _ = run(shapes, *EVERYTHING, blind_to=tuple(range(7)))
    assert result.predictions == []
    assert set(result.metrics.values()) == {0.0}
    assert "bbox       AP 0.000" in result.table()


def test_the_mask_threshold_says_which_pixels_are_the_objects(shapes):
    result, _ = run(shapes, *EVERYTHING, "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD", 1.0)
    assert result.metrics["bbox/AP"] == pytest.approx(1.0) and result.metrics["segm/AP"] == 0.0


def test_diverged_weights_are_named_instead_of_scored(shapes):
    cfg = shapes_config(shapes)
    dataset = open_shapes(shapes, cfg)
    model = OracleDetector(dataset)
    torch.nn.init.constant_(model.weight, torch.inf)
    with pytest.raises(
        ConvbodyError, match=r"the weights have diverged: weight holds NaN or infinity"
    ) as caught:
        evaluate(model, dataset, cfg)
    assert "\n" not in str(caught.value) and model.batches == []


def test_weights_that_have_grown_too_large_are_named_when_nothing_is_found(shapes):
    cfg = shapes_config(shapes, "MODEL.BACKBONE.CONV_BODY", "R-18-C4", "INPUT.MIN_SIZE_TEST", 64)
    dataset = open_shapes(shapes, cfg)
    model = build_detector(cfg).train()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.fill_(1e30)
    with pytest.raises(
        ConvbodyError, match="nothing was found .*float32, hold.*though all weights are finite"
    ) as caught:
        evaluate(model, dataset, cfg)
    assert "\n" not in str(caught.value) and model.training


def test_proposals_are_scored_with_rpn_only(shapes):
    result, _ = run(shapes, "MODEL.RPN_ONLY", True)
    assert result.metrics["proposals/AR@100"] == pytest.approx(1.0)
    assert result.metrics["proposals/AR@1000"] == pytest.approx(1.0)
    assert all(name.startswith("proposals/") for name in result.metrics)
    assert result.per_class[0].keys() == {"class", "ground_truth"}


def test_retinanet_with_rpn_only_as_published_is_scored_on_its_boxes(shapes):
    result, _ = run(shapes, "MODEL.RPN_ONLY", True, "MODEL.RETINANET_ON", True)
    assert result.metrics["bbox/AP"] == pytest.approx(1.0)


def test_batches_hold_the_configured_number_of_images(shapes):
    assert run(shapes, "TEST.IMS_PER_BATCH", 3)[1].batches == [3, 3, 1]


@pytest.mark.parametrize(("name", "dtype"), [("float32", None), ("bfloat16", torch.bfloat16)])
def test_precision_follows_the_config(shapes, name, dtype):
    assert set(run(shapes, "DTYPE", name)[1].autocast) == {dtype}


def test_evaluation_leaves_the_model_and_the_random_state_as_they_were(shapes):
    cfg = shapes_config(shapes)
    dataset = open_shapes(shapes, cfg)
    model = OracleDetector(dataset).train()
    before = torch.random.get_rng_state()
    evaluate(model, dataset, cfg)
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_image_that_breaks_is_named(shapes, tmp_path):
    import shutil

    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    cfg = shapes_config(copy)
    dataset = open_shapes(copy, cfg)
    model = OracleDetector(dataset)
    (copy / "images" / "000004.png").write_bytes(b"no picture")
    with pytest.raises(ConvbodyError, match="000004.png"):
        evaluate(model, dataset, cfg)
    cfg.DATASETS.ON_ERROR = "skip"
    result = evaluate(model, dataset, cfg)
    assert result.images == 6 and 4 not in result.image_f1
    assert len(result.skipped) == 1 and "000004.png" in result.skipped[0]
    assert "6 images" in result.table() and "1 more could not be read" in result.table()
    assert result.metrics["bbox/AP"] == 1, "the objects of the image are not asked for"
    for file in (copy / "images").iterdir():
        file.unlink()
    with pytest.raises(ConvbodyError, match="no image of data set 'test' could be read"):
        evaluate(model, dataset, cfg)


def test_cocos_own_table_goes_to_the_log_and_not_to_stdout(shapes, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="convbody"):
        run(shapes)
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in caplog.text
    assert "triangle" in caplog.text
    assert capsys.readouterr().out == ""


def test_files_hold_what_the_result_holds(shapes, tmp_path):
    cfg = shapes_config(shapes, *EVERYTHING)
    dataset = open_shapes(shapes, cfg)
    results = evaluate_all(OracleDetector(dataset, blind_to=(1,)), cfg, {"shapes": dataset}, tmp_path)
    folder = tmp_path / "evaluation" / "shapes"
    assert EvaluationResult.load(folder) == results["shapes"]
    # The detections are a results file that pycocotools reads.
    loaded = COCO(shapes / "annotations.json").loadRes(str(folder / "predictions.json"))
    assert len(loaded.anns) == len(results["shapes"].predictions)
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == results["shapes"].metrics
    with pytest.raises(ConvbodyError, match="no evaluation to read in .*elsewhere"):
        EvaluationResult.load(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    with pytest.raises(ConvbodyError, match="cannot write .*file/shapes: Not a directory"):
        results["shapes"].save(tmp_path / "file" / "shapes")


def test_metrics_of_several_data_sets_carry_their_names(shapes):
    one, _ = run(shapes)
    other = dataclasses.replace(one, dataset="other")
    assert flat_metrics({"shapes": one}) == one.metrics
    both = flat_metrics({"shapes": one, "other": other})
    assert both["shapes/bbox/AP50"] == both["other/bbox/AP50"] == one.metrics["bbox/AP50"]


def test_no_test_set_is_an_error_that_names_the_key(shapes):
    cfg = shapes_config(shapes, "DATASETS.TEST", ())
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST"):
        open_test_sets(cfg)


@pytest.mark.parametrize("world_size", [2, 9])
def test_every_process_gets_the_result_of_a_single_one(shapes, tmp_path, world_size):
    run_ranks(world_size, evaluate_as_rank, shapes, tmp_path)
    outcomes = [pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) for rank in range(world_size)]
    alone, _ = run(shapes, blind_to=(1,))
    for result, _ in outcomes:
        assert dataclasses.replace(result, seconds=0) == dataclasses.replace(alone, seconds=0)
    assert sum(sum(batches) for _, batches in outcomes) == 7  # each image once
    assert max(max(batches, default=0) for _, batches in outcomes) == (2 if world_size == 2 else 1)


def test_labels_that_are_category_ids_score_the_same(shapes, tmp_path):
    annotations = json.loads((shapes / "annotations.json").read_text())
    for item in (*annotations["categories"], *annotations["annotations"]):
        key = "category_id" if "category_id" in item else "id"
        item[key] = 3 * item[key] + 2
    file = tmp_path / "sparse.json"
    file.write_text(json.dumps(annotations))
    cfg = shapes_config(shapes, "DATASETS.LABELS", "category_id")
    cfg.DATASETS.CATALOG["shapes"].ann_file = str(file)
    dataset = build_test_dataset(cfg, "shapes")
    assert len(dataset.class_names) == 11
    result = evaluate(OracleDetector(dataset), dataset, cfg, "shapes")
    assert result.metrics["bbox/AP"] == pytest.approx(1.0)
    assert [row["class"] for row in result.per_class] == ["circle", "square", "triangle"]


@pytest.mark.parametrize("kept", [("triangle", "circle", "square"), ("square",), ("triangle", "square")])
def test_classes_are_those_of_the_same_names_whatever_their_order_and_ids(shapes, tmp_path, kept):
    """A detector of circles, squares and triangles on a file that lists and numbers them otherwise."""
    cfg = shapes_config(shapes)
    model = OracleDetector(open_shapes(shapes, cfg))
    annotations = json.loads((shapes / "annotations.json").read_text())
    names = {item["id"]: item["name"] for item in annotations["categories"]}
    annotations["categories"] = [{"id": 40 - place, "name": name} for place, name in enumerate(kept)]
    ids = {item["name"]: item["id"] for item in annotations["categories"]}
    objects = [item for item in annotations["annotations"] if names[item["category_id"]] in kept]
    annotations["annotations"] = [
        {**item, "category_id": ids[names[item["category_id"]]]} for item in objects
    ]
    file = tmp_path / "other.json"
    file.write_text(json.dumps(annotations))
    cfg.DATASETS.CATALOG["shapes"].ann_file = str(file)
    known = Known(("circle", "square", "triangle"), [], "data set 'train'")
    dataset = open_test_sets(cfg, known)["shapes"]
    assert dataset.class_names == ["circle", "square", "triangle"]
    result = evaluate(model, dataset, cfg, "shapes")
    assert result.metrics["bbox/AP"] == pytest.approx(1.0)
    assert {row["class"] for row in result.per_class} == set(kept)
    assert len(result.predictions) == len(objects), "classes that the file lacks are not asked for"


def test_a_class_that_the_detector_does_not_know_is_refused_with_both_lists(shapes):
    known = Known(("circle", "square"), [], "data set 'train'")
    words = (
        r"'shapes' has the classes circle, square, triangle, and data set 'train' circle, square, without tri"
    )
    with pytest.raises(ConfigError, match=words):
        open_test_sets(shapes_config(shapes), known)


def test_another_kind_of_labels_is_refused(shapes):
    with pytest.raises(ConfigError, match="consecutive or category_id, not 'ids'"):
        build_test_dataset(shapes_config(shapes, "DATASETS.LABELS", "ids"), "shapes")


def test_results_have_the_ids_of_the_file(shapes, tmp_path):
    content = json.loads((shapes / "annotations.json").read_text())
    images = {image["id"]: f"{image['id']:04d}_scene" for image in content["images"]}
    categories = {1: "1", 2: "/m/01yrx", 3: 2**127}
    for image in content["images"]:
        image["id"] = images[image["id"]]
    for category in content["categories"]:
        category["id"] = categories[category["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = images[annotation["image_id"]]
        annotation["category_id"] = categories[annotation["category_id"]]
    file = tmp_path / "ids.json"
    file.write_text(json.dumps(content))
    cfg = shapes_config(shapes)
    cfg.DATASETS.CATALOG["shapes"].ann_file = str(file)
    dataset = build_test_dataset(cfg, "shapes")
    result = evaluate(OracleDetector(dataset, blind_to=(1,)), dataset, cfg, "shapes")
    plain, _ = run(shapes, blind_to=(1,))
    assert result.metrics == plain.metrics
    assert list(result.image_f1) == list(images.values())
    result.save(tmp_path)
    assert EvaluationResult.load(tmp_path) == result
    loaded = COCO(file).loadRes(str(tmp_path / "predictions.json"))
    assert {found["image_id"] for found in loaded.anns.values()} == set(images.values()) - {images[2]}
    assert {found["category_id"] for found in loaded.anns.values()} <= set(categories.values())
    assert len(samples(result, dataset)) == 6


def test_whatever_fails_in_an_evaluation_is_one_line(shapes, monkeypatch):
    def breaks(*args):
        raise IndexError("no\nsuch row")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_detections", breaks)
        with pytest.raises(ConvbodyError, match="^scoring what was found in 'shapes' fails: IndexError: no"):
            run(shapes)
    monkeypatch.setattr(OracleDetector, "forward", breaks)
    with pytest.raises(ConvbodyError, match=r"^detecting objects in images of 'shapes' fails: IndexError"):
        run(shapes)
