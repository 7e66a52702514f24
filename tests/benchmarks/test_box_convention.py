"""The published reading of boxes, as benchmarks/box_convention.py measures it."""

from __future__ import annotations

from pathlib import Path

import box_convention
import pytest
import torch

from convbody.detection import build_detector
from registry import load_cfg


def test_an_overlap_of_exactly_the_threshold_suppresses_within_a_class():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 5.0]])
    scores = torch.tensor([0.9, 0.8, 0.7])
    labels = torch.tensor([1, 1, 2])
    assert box_convention.suppress(boxes, scores, labels, 0.5).tolist() == [0, 2]
    assert box_convention.suppress(boxes, scores, labels, 0.51).tolist() == [0, 1, 2]


def test_first_and_last_pixels_stay_inside_the_image():
    boxes = torch.tensor([[-5.0, -5.0, 0.5, 100.0], [19.5, 3.0, 25.0, 8.0]])
    assert box_convention.clip_to_pixels(boxes, (10, 20)).tolist() == [
        [0.0, 0.0, 1.0, 10.0],
        [19.0, 3.0, 20.0, 8.0],
    ]


def test_moves_are_measured_within_image_and_class():
    box = {"image_id": 1, "category_id": 2, "bbox": [0.0, 0.0, 10.0, 10.0]}
    shifted = {**box, "bbox": [0.0, 1.0, 10.0, 10.0]}
    distances, lost = box_convention.moved([box], [shifted, {**box, "category_id": 3}])
    assert distances.tolist() == [1.0] and lost == 0
    assert box_convention.moved([box], [{**box, "image_id": 2}])[1] == 1


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    root = Path(box_convention.__file__).parents[1]
    return build_detector(load_cfg(root / "configs/synthetic/faster_rcnn.yaml", ["MODEL.WEIGHT", ""])).eval()


def test_cut_outs_end_one_pixel_earlier_within_the_published_reading_only(detector):
    features = detector.backbone(torch.rand(1, 3, 128, 128))
    boxes = torch.tensor([[20.0, 20.0, 61.0, 61.0]])
    shorter = boxes - torch.tensor([0.0, 0.0, 1.0, 1.0])
    pool = detector.roi_heads.box_roi_pool
    with box_convention.published_reading(detector):
        published = pool(features, [boxes], [(128, 128)])
    torch.testing.assert_close(published, pool(features, [shorter], [(128, 128)]))
    assert not torch.allclose(published, pool(features, [boxes], [(128, 128)]))


def test_an_enlarged_result_ends_on_the_pixel_that_the_last_one_becomes(detector):
    result = [{"boxes": torch.tensor([[2.0, 2.0, 9.0, 9.0]])}]
    with box_convention.published_reading(detector):
        scaled = detector.transform.postprocess(result, [(10, 10)], [(20, 20)])
    assert scaled[0]["boxes"].tolist() == [[4.0, 4.0, 17.0, 17.0]]
