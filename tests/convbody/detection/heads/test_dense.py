import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import box_iou

DETECT = {"retinanet": "MODEL.RETINANET", "fcos": "MODEL.FCOS"}


@pytest.fixture(params=DETECT)
def detect(request, small_detector, batch):
    """Detections of one kind of detector, all scores kept; changes are to its own section."""

    def run(changes=None, **test):
        section = DETECT[request.param]
        keys = {"INFERENCE_TH": 0.0, "NMS_TH": 1.0, **(changes or {})}
        options = {f"{section}.{key}": value for key, value in keys.items()}
        model = small_detector(request.param, {**options, **{f"TEST.{k}": v for k, v in test.items()}}).eval()
        with torch.no_grad():
            if request.param == "fcos":
                model.head.regression_head.bbox_reg.bias.fill_(1.0)  # boxes two strides wide, not of size 0
            return model(batch[0])

    return run


def test_limits_act(detect):
    everything = detect(DETECTIONS_PER_IMG=10000)
    assert all(len(output["boxes"]) > 100 for output in everything)
    for output, whole in zip(detect(DETECTIONS_PER_IMG=7), everything, strict=True):
        assert len(output["scores"]) == 7  # boxes in the padding, cut to nothing, take no place
        torch.testing.assert_close(output["scores"], whole["scores"][:7])
    few = detect({"PRE_NMS_TOP_N": 2}, DETECTIONS_PER_IMG=1000)
    assert all(0 < len(output["boxes"]) <= 5 * 2 for output in few)
    scores = detect(DETECTIONS_PER_IMG=50)[0]["scores"]
    threshold = scores[10].item()
    assert (detect({"INFERENCE_TH": threshold}, DETECTIONS_PER_IMG=50)[0]["scores"] > threshold).all()
    for output in detect({"NMS_TH": 0.3}):
        box = output["boxes"][output["labels"] == 1]
        assert box_iou(box, box).triu(diagonal=1).max() <= 0.31


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_none(detect, limit):
    outputs = detect({"NMS_TH": limit}, DETECTIONS_PER_IMG=limit)
    for output, whole in zip(outputs, detect(DETECTIONS_PER_IMG=100000), strict=True):
        assert torch.equal(output["boxes"], whole["boxes"])


def retinanet_losses(model, logits, deltas, matched, targets, anchors):
    outputs = {"cls_logits": logits, "bbox_regression": deltas}
    return model.head.compute_loss(targets, outputs, anchors, matched)


def test_retinanet_losses_are_the_published_sums(small_detector):
    model = small_detector(
        "retinanet", {"MODEL.RETINANET.LOSS_ALPHA": 0.3, "MODEL.RETINANET.LOSS_GAMMA": 1.5}
    )
    torch.manual_seed(0)
    logits, deltas = torch.randn(2, 4, 3), torch.randn(2, 4, 4)
    anchors = [torch.tensor([[0.0, 0.0, 16.0, 16.0]]).repeat(4, 1)] * 2
    targets = [
        {"boxes": torch.tensor([[2.0, 2.0, 18.0, 18.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    matched = [torch.tensor([-1, 0, -2, 0]), torch.full((4,), -1)]
    losses = retinanet_losses(model, logits, deltas, matched, targets, anchors)

    truth = torch.zeros(2, 4, 3)
    truth[0, 1, 1] = truth[0, 3, 1] = 1
    p = logits.sigmoid()
    right = torch.where(truth == 1, p, 1 - p)
    alpha = torch.where(truth == 1, 0.3, 0.7)
    focal = -alpha * (1 - right) ** 1.5 * right.log()
    focal[0, 2] = 0  # neither foreground nor background
    torch.testing.assert_close(losses["loss_retina_cls"], focal.sum() / (2 + 2))  # positives + images

    target = torch.tensor([1.25, 1.25, 0.0, 0.0])  # 10 * 2 / 16
    expected = F.smooth_l1_loss(deltas[0, [1, 3]], target.expand(2, 4), beta=0.11, reduction="sum") / (
        2 * 4.0
    )
    torch.testing.assert_close(losses["loss_retina_reg"], expected)


def test_retinanet_starts_at_the_prior(small_detector, batch):
    model = small_detector(
        "retinanet", {"MODEL.RETINANET.PRIOR_PROB": 0.2, "MODEL.RETINANET.NUM_CONVS": 2}
    ).eval()
    assert len(model.head.classification_head.conv) == len(model.head.regression_head.conv) == 2
    scores = model.predict([torch.zeros(1, 32, 4, 4)])["cls_logits"].sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.2))


def test_fcos_matches_points_near_the_centre(small_detector, batch):
    images, targets = batch

    def positives(radius):
        model = small_detector(
            "fcos", {"MODEL.FCOS.CENTER_SAMPLING_RADIUS": radius, "MODEL.FCOS.NUM_CONVS": 1}
        )
        seen = []
        model.head.compute_loss = lambda targets, outputs, anchors, matched: (
            seen.extend(matched) or {"classification": 0, "bbox_regression": 0, "bbox_ctrness": 0}
        )
        model(images, targets)
        return [(match >= 0).sum().item() for match in seen]

    near, wide = positives(0.6), positives(1.5)
    assert near[1] == wide[1] == 0
    assert 0 < near[0] < wide[0]


def test_labels_outside_count_from_one(small_detector, batch):
    images, targets = batch
    for kind in DETECT:
        model = small_detector(kind, {f"{DETECT[kind]}.INFERENCE_TH": 0.0})
        bias = model.head.classification_head.cls_logits.bias
        with torch.no_grad():
            bias.view(-1, 3)[:, 2] += 6  # the third class, everywhere
            assert (model.eval()(images)[0]["labels"][:20] == 3).all()
            right = model.train()(images[:1], [{**targets[0], "labels": torch.tensor([3, 3])}])
            wrong = model(images[:1], [{**targets[0], "labels": torch.tensor([1, 1])}])
        name = "loss_retina_cls" if kind == "retinanet" else "loss_cls"
        assert right[name] < wrong[name]
