"""COCO scores of made-up detections whose average precision can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ground_truth import truth_of

from convbody.detection.data.records import Category
from convbody.detection.evaluation.scoring import keypoint_sigmas, score
from registry import ConvbodyError


def truth(annotations, categories=("a",), images=(1, 2), **category_fields):
    """An annotation is (image, category, box[, fields]); categories are records, or names of ids from 1."""
    if isinstance(categories[0], str):
        categories = [Category(i, name, **category_fields) for i, name in enumerate(categories, 1)]
    entries = [
        {"image_id": image, "category_id": category, "bbox": list(box), **dict(*more)}
        for image, category, box, *more in annotations
    ]
    return truth_of(entries, categories, images, 400)


def found(image, category, box, score_, **more):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score_, **more}


SMALL, MEDIUM, LARGE = (10, 10, 20, 20), (50, 50, 60, 60), (150, 150, 200, 200)


def test_perfect_boxes_score_one_in_every_size_range():
    boxes = [(1, 1, SMALL), (1, 1, MEDIUM), (2, 1, LARGE)]
    result = score(truth(boxes), [found(*box, 0.9) for box in boxes], "bbox")
    assert set(result.metrics) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100"}
    assert all(value == pytest.approx(1.0) for name, value in result.metrics.items() if name != "AR@1")
    assert result.metrics["AR@1"] == pytest.approx(2 / 3)  # one of two in image 1, one of one in image 2
    assert result.operating_point.f1 == 1.0
    assert result.image_f1 == {1: 1.0, 2: 1.0}
    assert "Average Precision" in result.summary


def test_missing_half_keeps_the_precision_up_to_half_the_recall():
    boxes = [(1, 1, SMALL), (1, 1, MEDIUM), (2, 1, LARGE), (2, 1, SMALL)]
    result = score(truth(boxes), [found(*box, 0.9) for box in boxes[:2]], "bbox")
    # precision is 1 at the 51 recalls 0.00 ... 0.50 of the 101
    assert result.metrics["AP"] == pytest.approx(51 / 101)
    assert result.curves["0.50"] == [1.0] * 51 + [0.0] * 50
    assert result.image_f1 == {1: 1.0, 2: 0.0}
    assert result.operating_point.recall == 0.5


def test_a_false_detection_above_the_true_ones_halves_the_precision():
    result = score(truth([(1, 1, MEDIUM)]), [found(1, 1, LARGE, 0.9), found(1, 1, MEDIUM, 0.6)], "bbox")
    assert result.metrics["AP50"] == pytest.approx(0.5)
    assert result.operating_point.score == 0.6
    assert result.operating_point.precision == 0.5
    assert result.image_f1 == {1: pytest.approx(2 / 3), 2: 1.0}  # image 2 is rightly empty


def test_boxes_of_the_wrong_class_are_wrong():
    boxes = [(1, 1, MEDIUM), (2, 2, MEDIUM)]
    swapped = [found(1, 2, MEDIUM, 0.9), found(2, 1, MEDIUM, 0.9)]
    result = score(truth(boxes, "ab"), swapped, "bbox")
    assert result.metrics["AP"] == 0.0
    half = score(truth(boxes, "ab"), [found(1, 1, MEDIUM, 0.9), swapped[1]], "bbox")
    assert half.per_class == [
        {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)},
        {"AP": 0.0, "AP50": 0.0},
    ]
    assert half.metrics["AP"] == pytest.approx(0.5)


def test_per_class_rows_follow_the_order_of_the_categories_asked_for():
    boxes = [(1, 1, MEDIUM), (2, 2, MEDIUM)]
    backwards = [Category(2, "b"), Category(1, "a")]
    result = score(truth(boxes, backwards), [found(2, 2, MEDIUM, 0.9)], "bbox")
    assert [row["AP50"] for row in result.per_class] == [pytest.approx(1.0), 0.0]


def test_detections_on_a_crowd_neither_help_nor_hurt():
    crowd = (1, 1, LARGE, {"iscrowd": 1})
    on_crowd = [found(1, 1, (150 + 40 * i, 150, 40, 200), 0.95) for i in range(4)]
    result = score(truth([(1, 1, SMALL), crowd]), [found(1, 1, SMALL, 0.9), *on_crowd], "bbox")
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.image_f1[1] == 1.0
    assert "APl" not in result.metrics  # the crowd is the only large object: nothing to measure


def test_iou_decides_between_ap50_and_ap75():
    shifted = (50, 50, 60, 39)  # 39/60 = 0.65 of MEDIUM
    result = score(truth([(1, 1, MEDIUM)]), [found(1, 1, shifted, 0.9)], "bbox")
    assert result.metrics["AP50"] == pytest.approx(1.0)
    assert result.metrics["AP75"] == 0.0
    assert result.metrics["AP"] == pytest.approx(0.4)  # the thresholds 0.50, 0.55, 0.60 and 0.65


def test_nothing_found_is_zero():
    result = score(truth([(1, 1, MEDIUM)]), [], "bbox")
    assert result.metrics["AP"] == result.metrics["AR@100"] == result.metrics["APm"] == 0.0
    assert result.operating_point.f1 == 0.0
    assert result.image_f1 == {1: 0.0, 2: 1.0}


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints", "proposals"])
@pytest.mark.parametrize("detections", [[], [found(1, 1, MEDIUM, 0.9, keypoints=[1.0, 1.0, 1.0] * 17)]])
def test_no_ground_truth_at_all_is_zero_and_finite(task, detections):
    mask = {"size": [400, 400], "counts": "PPPPP4"}
    detections = [{**d, "segmentation": mask} for d in detections] if task == "segm" else detections
    result = score(truth([]), detections, task)
    assert result.metrics
    assert all(value == 0.0 for value in result.metrics.values())
    assert all(row == {"AP": None, "AP50": None} for row in result.per_class)
    assert all(np.isfinite(curve).all() for curve in result.curves.values())


def test_a_class_without_ground_truth_does_not_enter_the_mean():
    result = score(truth([(1, 1, MEDIUM)], "ab"), [found(1, 1, MEDIUM, 0.9)], "bbox")
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.per_class[1] == {"AP": None, "AP50": None}
    assert result.curves["0.75"] == [1.0] * 101


def test_only_the_images_evaluated_count():
    boxes = [(1, 1, MEDIUM), (2, 1, MEDIUM)]
    result = score(truth(boxes, images=[1]), [found(1, 1, MEDIUM, 0.9)], "bbox")
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.image_f1 == {1: 1.0}


def test_what_is_handed_in_is_left_as_it_was():
    square = [[50, 50, 110, 50, 110, 110, 50, 110]]
    coco = truth([(1, 1, MEDIUM, {"segmentation": square})])
    mask = {"size": [400, 400], "counts": "PPPPP4"}
    detection = found(1, 1, MEDIUM, 0.9, segmentation=mask)
    first = score(coco, [detection], "segm")
    assert score(coco, [detection], "segm") == first
    assert detection == found(1, 1, MEDIUM, 0.9, segmentation=mask)


def test_masks_are_scored_as_masks():
    from pycocotools import mask as coco_mask

    square = [[50, 50, 110, 50, 110, 110, 50, 110]]
    pixels = np.zeros((400, 400), dtype=np.uint8, order="F")
    pixels[50:110, 50:80] = 1  # half of the square: IoU 0.5
    runs = coco_mask.encode(pixels)
    detection = found(
        1, 1, MEDIUM, 0.9, segmentation={"size": runs["size"], "counts": runs["counts"].decode()}
    )
    coco = truth([(1, 1, MEDIUM, {"segmentation": square})])
    assert score(coco, [detection], "bbox").metrics["AP"] == pytest.approx(1.0)
    assert score(coco, [detection], "segm").metrics["AP"] == pytest.approx(0.1)


def test_masks_without_ground_truth_masks_are_an_error():
    with pytest.raises(ConvbodyError, match="image 1 has no segmentation"):
        score(truth([(1, 1, MEDIUM)]), [], "segm")


def test_proposals_are_scored_by_recall_whatever_the_class():
    boxes = [(1, 1, SMALL), (1, 2, MEDIUM), (2, 2, LARGE), (2, 1, SMALL)]
    # three right at any rank below 100, the fourth only as number 101 of its image
    detections = [found(image, 1, box, 0.9) for image, _, box in boxes[:3]]
    detections += [found(2, 1, (300, 5, 50, 50), 0.8)] * 99 + [found(2, 1, SMALL, 0.1)]
    result = score(truth(boxes, "ab"), detections, "proposals")
    assert result.metrics["AR@100"] == pytest.approx(0.75)
    assert result.metrics["AR@1000"] == pytest.approx(1.0)
    assert result.metrics["ARs@100"] == pytest.approx(0.5)
    assert result.per_class == []
    assert result.curves == {}


def person(xs, visibility=2):
    return [value for x in xs for value in (x, 60, visibility)]


def test_keypoints_follow_the_object_keypoint_similarity():
    names = {"keypoints": ("left", "right"), "keypoint_sigmas": (0.1, 0.1)}
    area = 3600.0
    annotation = (1, 1, MEDIUM, {"keypoints": person([60, 90]), "area": area})
    exact = found(1, 1, MEDIUM, 0.9, keypoints=person([60, 90], 1))
    assert score(truth([annotation], **names), [exact], "keypoints").metrics["AP"] == pytest.approx(1.0)
    # one keypoint off by d: OKS = (1 + exp(-d^2 / (2 s^2 k^2))) / 2 with s^2 the area and k = 2 sigma
    distance = (
        2 * area * 0.2**2 * -np.log(0.44)
    ) ** 0.5  # OKS 0.72: right at 0.50, 0.55, 0.60, 0.65 and 0.70
    off = found(1, 1, MEDIUM, 0.9, keypoints=person([60, 90 + distance], 1))
    result = score(truth([annotation], **names), [off], "keypoints")
    assert result.metrics["AP"] == pytest.approx(0.5)
    assert set(result.metrics) == {"AP", "AP50", "AP75", "APm", "AR@20"}


def test_objects_without_keypoints_are_not_missed_keypoints():
    names = {"keypoints": ("left", "right")}
    coco = truth([(1, 1, MEDIUM, {"keypoints": person([60, 90])}), (2, 1, MEDIUM)], **names)
    exact = found(1, 1, MEDIUM, 0.9, keypoints=person([60, 90], 1))
    assert score(coco, [exact], "keypoints").metrics["AP"] == pytest.approx(1.0)


def sigmas_of(names, sigmas=None):
    return keypoint_sigmas([Category(1, "stone"), Category(2, "person", tuple(names), sigmas)])


def test_sigmas_come_from_the_file_then_from_coco_then_their_mean():
    assert sigmas_of("ab", (0.1, 0.2)).tolist() == [0.1, 0.2]
    assert sigmas_of(map(str, range(17)))[[0, 1, 11]] == pytest.approx([0.026, 0.025, 0.107])
    assert sigmas_of("ab") == pytest.approx([0.0669, 0.0669], abs=1e-4)
    with pytest.raises(ConvbodyError, match="2 keypoints and gives 1"):
        sigmas_of("ab", (0.1,))


def test_a_detector_with_other_keypoints_than_the_data_is_named():
    coco = truth([(1, 1, MEDIUM, {"keypoints": person([60, 90])})], keypoints=("left", "right"))
    detection = found(1, 1, MEDIUM, 0.9, keypoints=person([60, 90, 95], 1))
    with pytest.raises(ConvbodyError, match="a detection of image 1 has 3 keypoints .* names 2"):
        score(coco, [detection], "keypoints")
