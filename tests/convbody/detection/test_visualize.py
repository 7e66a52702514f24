"""Drawings are looked at in numbers: which pixels changed, and to which colour."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from convbody.detection.visualize import class_colour, draw_detections, draw_targets

GREY = torch.full((3, 500, 600), 0.5)


def output(boxes, labels=None, scores=None, **more):
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        "labels": torch.tensor(labels or [1] * count, dtype=torch.int64),
        "scores": torch.tensor(scores or [0.9] * count),
        **more,
    }


def changed(drawn, size=(600, 500)):
    assert drawn.size == size
    return (np.abs(np.asarray(drawn).astype(int) - 128) > 2).any(axis=2)


def test_a_box_is_framed_in_the_colour_of_its_class():
    drawn = draw_detections(GREY, output([[100, 200, 300, 400]], [2]), ["a", "b"])
    assert drawn.getpixel((100, 300)) == class_colour(2)
    assert drawn.getpixel((250, 200)) == class_colour(2)
    inside = changed(drawn)[215:390, 110:290]
    assert not inside.any()


def test_low_scores_are_left_out():
    quiet = draw_detections(GREY, output([[100, 200, 300, 400]], scores=[0.4]), ["a", "b"])
    assert not changed(quiet).any()
    assert changed(
        draw_detections(GREY, output([[100, 200, 300, 400]], scores=[0.4]), "ab", score_threshold=0.4)
    ).any()


def test_nothing_to_draw_leaves_the_picture():
    masks = torch.zeros(0, 1, 500, 600)
    drawn = draw_detections(GREY, output([], masks=masks, keypoints=torch.zeros(0, 3, 3)), ["a"])
    assert not changed(drawn).any()
    assert not changed(draw_targets(GREY, {**output([]), "masks": masks[:, 0]}, ["a"])).any()


def test_a_label_names_the_class_and_the_score():
    box = [[100, 200, 300, 400]]
    plates = [
        changed(draw_detections(GREY, output(box, [label], [score]), names))[:197].sum()
        for label, score, names in [(1, 0.9, ["a", "b"]), (1, 0.9, ["aaaaaaa", "b"]), (1, 0.9, ["aaaaaaa"])]
    ]
    short, long, only_class = plates
    assert short < long  # the name is written
    assert 0 < only_class < long  # one class: the score alone
    nine = draw_detections(GREY, output(box, scores=[0.9]), ["a"])
    eight = draw_detections(GREY, output(box, scores=[0.8]), ["a"])
    assert np.asarray(nine).tobytes() != np.asarray(eight).tobytes()


def test_a_label_beyond_the_names_is_a_number_not_an_error():
    assert changed(draw_detections(GREY, output([[100, 200, 300, 400]], [7]), ["a", "b"])).any()


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 30], [570, 470, 600, 500], [-50, -50, 700, 600], [40, 40, 40, 40]]
)
def test_boxes_at_and_over_the_edge_are_drawn(box):
    assert changed(draw_detections(GREY, output([box]), ["a", "b"])).any()


def test_masks_tint_their_pixels_only():
    masks = torch.zeros(1, 1, 500, 600)
    masks[..., 250:350, 150:250] = 0.9
    drawn = draw_detections(GREY, output([[100, 200, 300, 400]], masks=masks), ["a", "b"])
    seen = changed(drawn)
    assert seen[252:348, 152:248].all()
    assert not seen[210:245, 110:290].any()


def test_visible_keypoints_are_dots():
    keypoints = torch.tensor([[[150.0, 300.0, 1.0], [250.0, 300.0, 0.0]]])
    drawn = draw_detections(GREY, output([[100, 200, 300, 400]], keypoints=keypoints), ["a", "b"])
    assert drawn.getpixel((150, 300)) == class_colour(1)
    assert drawn.getpixel((250, 300)) == (128, 128, 128)


def test_small_images_are_enlarged_and_their_boxes_with_them():
    tiny = torch.full((3, 50, 60), 0.5)
    drawn = draw_detections(tiny, output([[10, 20, 30, 40]]), ["a", "b"])
    assert drawn.size == (480, 400)
    assert drawn.getpixel((80, 240)) == class_colour(1)
    assert draw_detections(tiny, output([[10, 20, 30, 40]]), ["a"], smallest_side=1).size == (60, 50)


def test_lines_grow_with_the_image():
    large = draw_detections(torch.full((3, 2000, 2400), 0.5), output([[400, 800, 1200, 1600]]), ["a", "b"])
    row = np.asarray(large)[1200, 350:450]
    assert (row == class_colour(1)).all(axis=1).sum() >= 5


def test_image_forms_are_equal():
    found = output([[100, 200, 300, 400]])
    as_bytes = torch.full((3, 500, 600), 128, dtype=torch.uint8)
    drawn = [
        draw_detections(image, found, ["a"]) for image in (GREY, as_bytes, Image.new("L", (600, 500), 128))
    ]
    assert drawn[0].tobytes() == drawn[1].tobytes() == drawn[2].tobytes()


def test_targets_are_drawn_whole_and_without_scores():
    target = {key: value for key, value in output([[100, 200, 300, 400]]).items() if key != "scores"}
    seen = changed(draw_targets(GREY, target, ["only"]))
    assert seen[300, 100]
    assert not seen[:195].any()  # no plate


def test_colours_of_many_classes_differ():
    colours = [class_colour(label) for label in range(1, 81)]
    assert len(set(colours)) == 80
    first = np.array(colours[:12])
    distances = np.abs(first[:, None] - first[None]).sum(-1) + 1000 * np.eye(12)
    assert distances.min() > 60
