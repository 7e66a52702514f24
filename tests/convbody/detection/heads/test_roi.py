import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

from benchmarks.measure import saved_for_backward
from convbody.detection.heads.roi import box_losses

ALL = {
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
    "MODEL.ROI_HEADS.NMS": 1.0,
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 10000,
}


@pytest.fixture
def detect(small_detector, batch):
    def run(changes=None, kind="faster-fpn"):
        torch.manual_seed(0)
        with torch.no_grad():
            return small_detector(kind, {**ALL, **(changes or {})}).eval()(batch[0])

    return run


WITH_PROPOSALS = ["faster-fpn", "faster-c4", "mask-fpn", "mask-c4", "keypoint-fpn", "keypoint-c4", "rpn-fpn"]
NO_PROPOSAL = {"MODEL.RPN.MIN_SIZE": 1000}
AUGMENTED = {"TEST.BBOX_AUG.ENABLED": True, "TEST.BBOX_AUG.H_FLIP": True, "TEST.BBOX_AUG.SCALES": (48,)}


@pytest.mark.parametrize("kind", [*WITH_PROPOSALS, "everything-fpn"])
@pytest.mark.parametrize("changes", [{}, {"MODEL.CLS_AGNOSTIC_BBOX_REG": True}, AUGMENTED])
def test_no_proposals_are_no_detections(small_detector, batch, kind, changes):
    if kind == "rpn-fpn" and changes == AUGMENTED:
        pytest.skip("the first stage alone has no augmentation")
    model = small_detector(kind, {**NO_PROPOSAL, **changes}).eval()
    with torch.no_grad():
        outputs = model(batch[0])
    shapes = {"boxes": (0, 4), "labels": (0,), "scores": (0,)}
    for (_, height, width), output in zip((image.shape for image in batch[0]), outputs, strict=True):
        if kind.startswith(("mask", "everything")):
            shapes["masks"] = (0, 1, height, width)
        if kind.startswith(("keypoint", "everything")):
            shapes |= {"keypoints": (0, 3, 3), "keypoints_scores": (0, 3)}
        assert {name: tuple(value.shape) for name, value in output.items()} == shapes


@pytest.mark.parametrize("kind", ["everything-fpn", "mask-c4"])
def test_an_image_without_proposals_beside_one_with_some(small_detector, batch, kind, monkeypatch):
    model = small_detector(kind, {"MODEL.ROI_HEADS.SCORE_THRESH": 0.0}).eval()
    propose = model.rpn.propose

    def of_the_second_alone(*arguments):
        boxes, scores = propose(*arguments)
        return [boxes[0][:0], *boxes[1:]], [scores[0][:0], *scores[1:]]

    with torch.no_grad():
        usual = model(batch[0])
        monkeypatch.setattr(model.rpn, "propose", of_the_second_alone)
        none, some = model(batch[0])
    assert all(len(value) == 0 for value in none.values())
    assert len(some["boxes"]) > 0 and torch.allclose(some["scores"], usual[1]["scores"], atol=1e-5)


@pytest.mark.parametrize("kind", WITH_PROPOSALS)
def test_training_without_proposals_gives_every_parameter_a_finite_gradient(small_detector, batch, kind):
    images, targets = batch
    for index in ([0, 1], [1]):  # with objects, which are proposals in training, and with nothing at all
        model = small_detector(kind, NO_PROPOSAL)
        losses = model([images[i] for i in index], [targets[i] for i in index])
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_every_proposal_and_class_is_a_detection_when_nothing_is_dropped(detect):
    assert [len(output["boxes"]) for output in detect({"MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 20})] == [60, 60]


def test_the_best_are_kept_up_to_the_limit(detect):
    everything, limited = detect(), detect({"MODEL.ROI_HEADS.DETECTIONS_PER_IMG": 5})
    for whole, best in zip(everything, limited, strict=True):
        assert len(best["scores"]) == 5
        torch.testing.assert_close(best["scores"], whole["scores"][:5])


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_none(detect, limit):
    outputs = detect({"MODEL.ROI_HEADS.DETECTIONS_PER_IMG": limit, "MODEL.ROI_HEADS.NMS": limit})
    for output, whole in zip(outputs, detect(), strict=True):
        assert torch.equal(output["boxes"], whole["boxes"])


def test_scores_below_the_threshold_are_dropped(detect):
    scores = detect()[0]["scores"]
    threshold = scores.median().item()
    kept = detect({"MODEL.ROI_HEADS.SCORE_THRESH": threshold})[0]["scores"]
    assert len(kept) == (scores > threshold).sum()
    assert (kept > threshold).all()


def test_detections_of_a_class_overlap_no_more_than_allowed(detect):
    for output in detect({"MODEL.ROI_HEADS.NMS": 0.4}):
        for label in (1, 2, 3):
            box = output["boxes"][output["labels"] == label]
            # Boxes were compared before they were mapped back to the image's size.
            assert box_iou(box, box).triu(diagonal=1).max() <= 0.41


def test_one_box_serves_all_classes_when_class_agnostic(small_detector, detect):
    model = small_detector("faster-fpn", {"MODEL.CLS_AGNOSTIC_BBOX_REG": True})
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 8
    assert small_detector("faster-fpn").roi_heads.box_predictor.bbox_pred.out_features == 16
    (output, _) = detect({"MODEL.CLS_AGNOSTIC_BBOX_REG": True})
    of_class = [output["boxes"][output["labels"] == label] for label in (1, 2, 3)]
    as_sets = [{tuple(box) for box in boxes.round().tolist()} for boxes in of_class]
    assert as_sets[0] == as_sets[1] == as_sets[2]


def test_class_agnostic_heads_train(small_detector, batch):
    model = small_detector("faster-fpn", {"MODEL.CLS_AGNOSTIC_BBOX_REG": True})
    model(*batch)["loss_box_reg"].backward()
    grad = model.roi_heads.box_predictor.bbox_pred.weight.grad
    assert grad[4:].any() and not grad[:4].any()


def test_regression_weights_scale_the_targets(small_detector, batch):
    def loss(weights):
        model = small_detector("faster-fpn", {"MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": weights})
        torch.manual_seed(0)
        return model(*batch)["loss_box_reg"]

    assert loss((10.0, 10.0, 5.0, 5.0)) > 1.5 * loss((1.0, 1.0, 1.0, 1.0))


def test_losses_are_means_over_all_proposals_of_the_batch():
    torch.manual_seed(0)
    logits, deltas = torch.randn(5, 3), torch.randn(5, 12)
    labels = [torch.tensor([0, 2]), torch.tensor([1, 0, 0])]
    regression = [torch.randn(2, 4), torch.randn(3, 4)]
    losses = box_losses(logits, deltas, labels, regression)
    torch.testing.assert_close(losses["loss_classifier"], F.cross_entropy(logits, torch.cat(labels)))
    error = torch.cat([deltas[1, 8:12] - regression[0][1], deltas[2, 4:8] - regression[1][0]]).abs()
    smooth = torch.where(error < 1, 0.5 * error**2, error - 0.5).sum() / 5
    torch.testing.assert_close(losses["loss_box_reg"], smooth)
    smoother = torch.where(error < 0.1, 5 * error**2, error - 0.05).sum() / 5
    torch.testing.assert_close(box_losses(logits, deltas, labels, regression, 0.1)["loss_box_reg"], smoother)


def test_the_config_says_where_the_box_loss_turns(small_detector, batch):
    def loss(beta):
        model = small_detector("faster-fpn", {"MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": beta})
        torch.manual_seed(0)
        return model(*batch)["loss_box_reg"]

    assert loss(0.1) > loss(1.0)


def test_no_proposal_at_all_is_no_loss():
    logits, deltas = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 12, requires_grad=True)
    losses = box_losses(logits, deltas, [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, 4)])
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()


def test_the_number_of_proposals_in_the_loss_is_as_configured(small_detector, batch):
    images, targets = batch
    changes = {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 12, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25}
    heads = small_detector("faster-fpn", changes).roi_heads
    boxes = targets[0]["boxes"]
    near = boxes.repeat(20, 1) + torch.rand(40, 4)
    far = torch.rand(40, 4) + torch.tensor([0.0, 0.0, 5.0, 5.0])
    proposals, _, labels, _ = heads.select_training_samples([torch.cat([near, far])], targets[:1])
    assert len(proposals[0]) == 12 and (labels[0] > 0).sum() == 3


@pytest.mark.parametrize("kind", ["mask-fpn", "mask-c4", "keypoint-fpn", "keypoint-c4"])
def test_region_heads_learn_from_positives_alone(small_detector, batch, kind):
    images, targets = batch
    model = small_detector(kind)
    loss = next(name for name in ("loss_mask", "loss_keypoint") if name.split("_")[1] in kind)
    assert model(images, targets)[loss] > 0.1
    assert model(images[1:], targets[1:])[loss] == 0


def test_box_heads_are_chosen_by_name(small_detector, batch):
    changes = {
        "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPNXconv1fcFeatureExtractor",
        "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS": 3,
        "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM": 20,
        "MODEL.ROI_BOX_HEAD.USE_GN": True,
        "MODEL.ROI_BOX_HEAD.DILATION": 2,
    }
    model = small_detector("faster-fpn", changes)
    convs = [layer for layer in model.roi_heads.box_head.xconvs if hasattr(layer, "dilation")]
    assert [(conv.out_channels, conv.dilation) for conv in convs] == [(20, (2, 2))] * 3
    assert "roi_heads.box_head.xconvs.1.weight" in model.state_dict()  # a group norm
    assert model(*batch)["loss_classifier"] > 0


def test_fully_connected_layers_are_as_wide_as_configured(small_detector, batch):
    changes = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 24, "MODEL.ROI_BOX_HEAD.USE_GN": True}
    model = small_detector("faster-fpn", changes)
    shapes = {name: tuple(value.shape) for name, value in model.roi_heads.state_dict().items()}
    assert shapes["box_head.fc6.0.weight"] == (24, 32 * 7 * 7) and shapes["box_head.fc6.1.weight"] == (24,)
    assert shapes["box_head.fc7.0.weight"] == (24, 24) and "box_head.fc7.0.bias" not in shapes
    assert shapes["box_predictor.cls_score.weight"] == (4, 24)
    assert model(*batch)["loss_classifier"] > 0


def test_mask_heads_are_chosen_by_name(small_detector, batch):
    changes = {
        "MODEL.ROI_MASK_HEAD.PREDICTOR": "MaskRCNNConv1x1Predictor",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": 14,
        "MODEL.ROI_MASK_HEAD.CONV_LAYERS": (12, 20, 8),
        "MODEL.ROI_MASK_HEAD.DILATION": 2,
        "MODEL.ROI_MASK_HEAD.USE_GN": True,
    }
    model = small_detector("mask-fpn", changes)
    shapes = {name: tuple(value.shape) for name, value in model.roi_heads.state_dict().items()}
    assert shapes["mask_predictor.mask_fcn_logits.weight"] == (4, 8, 1, 1)
    assert shapes["mask_head.1.0.weight"] == (20, 12, 3, 3) and shapes["mask_head.1.1.weight"] == (20,)
    assert model.roi_heads.mask_head[0][0].dilation == (2, 2)
    assert model(*batch)["loss_mask"] > 0.1


def test_shared_features_are_the_box_heads(small_detector, batch):
    model = small_detector("mask-c4")
    calls = []
    model.roi_heads.box_head.register_forward_hook(lambda *_: calls.append(1))
    model(*batch)["loss_mask"].backward()
    assert len(calls) == 1  # in training boxes and masks read the same features
    assert model.roi_heads.box_head.head.layer4[0].conv1.weight.grad.any()


@pytest.mark.parametrize("kind", ["mask-fpn", "mask-c4", "keypoint-fpn", "keypoint-c4"])
def test_cut_outs_are_made_again_with_the_same_gradients(small_detector, batch, kind):
    kept, gradients = [], []
    for word in ("cheap", "none"):
        model = small_detector(kind, {"MODEL.RECOMPUTE": word}).train()
        torch.manual_seed(2)
        with saved_for_backward(model) as saved:
            loss = torch.stack(list(model(*batch).values())).sum()
        loss.backward()
        kept.append(saved.distinct)
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert kept[0] < 0.95 * kept[1]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
