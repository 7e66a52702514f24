"""Masks that are made one at a time are those that torchvision and pycocotools make all at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from convbody.detection.evaluation.inference import coco_records, output_of_records
from convbody.detection.masks import BoxMasks, EncodedMasks, Part, PastedMasks, chosen, encode, masks_of
from convbody.detection.visualize import draw_detections


def detections(count: int, size: tuple[int, int], seed: int = 0) -> dict:
    """Boxes inside of an image of ``size``, some of them empty or at its border, and masks in them."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=random).sort(dim=1).values.flatten(1)
    height, width = size
    boxes = (1.4 * corners - 0.2).clamp(0, 1) * torch.tensor([width, height, width, height])
    return {
        "boxes": boxes,
        "labels": torch.randint(1, 3, (count,), generator=random),
        "scores": torch.rand(count, generator=random),
        "masks": BoxMasks(torch.rand(count, 1, 28, 28, generator=random), boxes, size),
    }


@pytest.mark.parametrize("size", [(64, 96), (300, 200), (1, 7)])
def test_boxes_are_filled_as_torchvision_fills_them(size):
    masks = detections(12, size)["masks"]
    wanted = paste_masks_in_image(masks.probabilities, masks.boxes, size)
    assert torch.equal(masks.pasted(), wanted)
    for index in range(len(masks)):
        assert torch.equal(masks.part(index).pasted(size), wanted[index, 0])


def test_no_mask_is_an_empty_tensor():
    masks = BoxMasks(torch.zeros(0, 1, 28, 28), torch.zeros(0, 4), (30, 20))
    assert masks.pasted().shape == (0, 1, 30, 20)


@settings(max_examples=60, deadline=None)
@given(
    arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))),
    *[st.integers(0, 3)] * 4,
)
def test_run_lengths_are_pycocotools(inside, above, left, below, right):
    height, width = inside.shape
    part = Part(above, left, torch.from_numpy(inside))
    size = (above + height + below, left + width + right)
    whole = np.asfortranarray(part.pasted(size).numpy().astype(np.uint8))
    wanted = coco_mask.encode(whole)
    assert encode(part, size) == {"size": list(size), "counts": wanted["counts"].decode()}
    assert encode(part.above(0.5), size) == encode(part, size), "of the rectangle around the mask, too"


def test_all_three_kinds_of_masks_give_the_same_records_and_pictures():
    size = (480, 400)
    found = detections(5, size)
    pasted = {**found, "masks": found["masks"].pasted()}
    records = coco_records(found, 7, {1: 1, 2: 2})
    assert coco_records(pasted, 7, {1: 1, 2: 2}) == records
    encoded = output_of_records(records, {1: 1, 2: 2})
    assert isinstance(encoded["masks"], EncodedMasks) and isinstance(masks_of(pasted), PastedMasks)
    drawings = [
        np.asarray(draw_detections(torch.zeros(3, *size), output, ["a", "b"], score_threshold=0.3))
        for output in (found, pasted, {**found, "masks": encoded["masks"]})
    ]
    np.testing.assert_array_equal(drawings[0], drawings[1])
    np.testing.assert_array_equal(drawings[0], drawings[2])


def test_chosen_detections_keep_their_masks():
    found = detections(5, (40, 50))
    some = chosen(found, torch.tensor([3, 1]))
    assert torch.equal(some["scores"], found["scores"][[3, 1]])
    assert torch.equal(some["masks"].pasted(), found["masks"].pasted()[[3, 1]])
    assert "masks" not in chosen({"boxes": found["boxes"]}, torch.tensor([0]))
