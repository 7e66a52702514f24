"""Test-time augmentation: several views, merged before anything is dropped."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import RoIHeads as TorchvisionRoIHeads

from convbody.detection.heads.augmented import View, flip_boxes, views_of
from convbody.detection.heads.roi import Candidates
from registry import ConfigError

ON = {"TEST.BBOX_AUG.ENABLED": True}
FLIP = {**ON, "TEST.BBOX_AUG.H_FLIP": True}
SCALES = {**ON, "TEST.BBOX_AUG.SCALES": (48, 100)}
ALL = {**FLIP, **SCALES, "TEST.BBOX_AUG.SCALE_H_FLIP": True}


def detections(model, images):
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize("kind", ["faster-c4", "everything-fpn"])
def test_without_flips_and_scales_it_is_plain_testing(small_detector, batch, kind):
    plain = detections(small_detector(kind), batch[0])
    augmented = detections(small_detector(kind, ON), batch[0])
    assert any(len(each["boxes"]) for each in plain)
    for expected, actual in zip(plain, augmented, strict=True):
        assert expected.keys() == actual.keys()
        for name in expected:
            assert torch.equal(expected[name], actual[name])


def test_plain_testing_is_torchvisions(small_detector, batch):
    """The steps that augmentation takes apart give what torchvision's undivided ones give."""
    model = small_detector("faster-fpn", {"MODEL.ROI_HEADS.SCORE_THRESH": 0.2}).eval()
    with torch.no_grad():
        images, _ = model.transform(batch[0])
        features = model.backbone(images.tensors)
        proposals, _ = model.rpn.propose(model.rpn(images, features), images.image_sizes)
        heads, sizes = model.roi_heads, images.image_sizes
        outputs = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, proposals, sizes)))
        whole = TorchvisionRoIHeads.postprocess_detections(heads, *outputs, proposals, sizes)
        divided = model.detect(images, features)
    assert any(len(each["boxes"]) for each in divided)
    for index, each in enumerate(divided):
        for name, values in zip(("boxes", "scores", "labels"), whole, strict=True):
            assert torch.equal(each[name], values[index])


def test_double_precision_is_kept(small_detector, batch):
    # An untrained detector's scores are nearly equal: without suppression no rounding decides what is kept.
    everything = {
        "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
        "MODEL.ROI_HEADS.NMS": 1.0,
        "MODEL.RPN.NMS_THRESH": 1.0,
    }
    changes = {**ALL, **everything, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": -1}
    single = detections(small_detector("faster-fpn", changes), batch[0])
    double = detections(small_detector("faster-fpn", changes).double(), [x.double() for x in batch[0]])
    for one, two in zip(single, double, strict=True):
        assert {value.dtype for value in two.values()} == {torch.float64, torch.int64}
        torch.testing.assert_close(one["scores"].double(), two["scores"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("changes", "passes"), [(ON, 1), (FLIP, 2), (SCALES, 3), (ALL, 6)])
def test_every_view_is_one_forward_pass(small_detector, batch, changes, passes):
    model = small_detector("faster-fpn", changes)
    seen = []
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    detections(model, batch[0])
    assert len(seen) == passes


@pytest.mark.parametrize("kind", ["rpn-fpn", "retinanet", "fcos"])
def test_one_stage_has_no_views_as_published(small_detector, kind):
    with pytest.raises(ConfigError, match=r"two-stage detectors; set it to False \(TEST\.BBOX_AUG\.ENABLED"):
        small_detector(kind, ON)


def test_views_have_the_published_sizes(small_cfg):
    views = views_of(small_cfg("faster-fpn", {**ALL, "TEST.BBOX_AUG.MAX_SIZE": 200}))
    assert views == [
        View(64, 1333, flip=True),
        *[View(48, 200, flip=False), View(48, 200, flip=True)],
        *[View(100, 200, flip=False), View(100, 200, flip=True)],
    ]


@given(st.lists(st.integers(0, 640), min_size=4, max_size=4), st.integers(640, 1333))
def test_a_flip_undoes_itself(box, width):
    boxes = torch.tensor([box], dtype=torch.float32)
    assert torch.equal(flip_boxes(flip_boxes(boxes, width), width), boxes)


def test_the_mirror_of_an_image_has_the_mirror_of_its_detections(small_detector, batch):
    model = small_detector("faster-fpn", {**FLIP, "MODEL.ROI_HEADS.SCORE_THRESH": 0.2})
    image = batch[0][0]
    (upright,), (mirrored,) = detections(model, [image]), detections(model, [image.flip(-1)])
    assert len(upright["boxes"]) > 0
    torch.testing.assert_close(mirrored["scores"], upright["scores"])
    back = flip_boxes(mirrored["boxes"], image.shape[-1])
    torch.testing.assert_close(back, upright["boxes"], atol=1e-3, rtol=1e-4)


def bright_rectangle(batch, features):
    """A second stage that finds the bright rectangle in each image, whichever way it is turned."""
    found = []
    for image, (height, width) in zip(batch.tensors, batch.image_sizes, strict=True):
        y, x = torch.where(image[0, :height, :width] > image[0].mean())
        box = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()
        found.append(Candidates(box[None, None], torch.full((1, 1), 0.9)))
    return found


@pytest.mark.parametrize("changes", [FLIP, SCALES, ALL])
def test_a_detector_that_sees_the_same_in_every_view_is_unchanged(small_detector, changes, monkeypatch):
    image = torch.zeros(3, 64, 96)
    image[:, 16:48, 8:40] = 1.0
    model = small_detector("faster-fpn", changes)
    monkeypatch.setattr(model, "candidates", bright_rectangle)
    (output,) = detections(model, [image])
    # One box is left of all views: they fall on each other.
    torch.testing.assert_close(output["boxes"], torch.tensor([[8.0, 16.0, 40.0, 48.0]]))
    assert output["scores"].tolist() == pytest.approx([0.9])


def test_the_limit_holds_for_all_views_together(small_detector, batch):
    changes = {**ALL, "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 4, "MODEL.ROI_HEADS.SCORE_THRESH": 0.1}
    for output in detections(small_detector("everything-fpn", changes), batch[0]):
        assert {len(values) for values in output.values()} == {4}
        assert output["scores"].tolist() == sorted(output["scores"].tolist(), reverse=True)


def test_training_is_as_without(small_detector, batch):
    losses = []
    for changes in ({}, ALL):
        model = small_detector("faster-fpn", changes)
        torch.manual_seed(3)
        losses.append(model(*batch))
    assert losses[0] == losses[1]
