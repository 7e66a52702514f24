import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from convbody.detection.heads.rpn import straddling


@pytest.fixture
def propose(small_detector):
    """Proposals for two random images, and the network that made them."""

    def run(kind="rpn-fpn", changes=None, train=False):
        rpn = small_detector(kind, changes).rpn.train(train)
        torch.manual_seed(3)
        images = ImageList(torch.zeros(2, 3, 64, 64), [(64, 64), (60, 50)])
        strides = rpn.anchor_generator.strides
        features = [torch.randn(2, 32 if len(strides) > 1 else 64, -(-64 // s), -(-64 // s)) for s in strides]
        with torch.no_grad():
            return rpn.propose(rpn(images, features), images.image_sizes)

    return run


def test_proposals_lie_in_their_image_best_first(propose):
    boxes, scores = propose()
    for box, score, (height, width) in zip(boxes, scores, [(64, 64), (60, 50)], strict=True):
        assert len(box) == len(score) > 0
        assert (box >= 0).all() and (box[:, 0::2] <= width).all() and (box[:, 1::2] <= height).all()
        assert (score.diff() <= 0).all() and ((score > 0) & (score < 1)).all()


def test_top_n_counts_per_feature_map_then_over_all(propose):
    free = {"MODEL.RPN.POST_NMS_TOP_N_TEST": 10000, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 10000}
    everything = [len(box) for box in propose(changes=free)[0]]
    assert min(everything) > 100
    five_maps = propose(changes={**free, "MODEL.RPN.POST_NMS_TOP_N_TEST": 7})[0]
    assert all(3 * 7 < len(box) <= 5 * 7 for box in five_maps)
    total = propose(changes={**free, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 12})
    assert [len(box) for box in total[0]] == [12, 12]
    best = propose(changes=free)[1]
    torch.testing.assert_close(total[1][0], best[0][:12])
    before = propose(changes={**free, "MODEL.RPN.PRE_NMS_TOP_N_TEST": 3})[0]
    assert all(len(box) <= 5 * 3 for box in before)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_none(propose, limit):
    free = {"MODEL.RPN.POST_NMS_TOP_N_TEST": 10000, "MODEL.RPN.NMS_THRESH": 1.0}
    none = {"MODEL.RPN.POST_NMS_TOP_N_TEST": limit, "MODEL.RPN.NMS_THRESH": limit}
    for box, whole in zip(propose("rpn-c4", none)[0], propose("rpn-c4", free)[0], strict=True):
        assert torch.equal(box, whole)


def test_training_has_numbers_of_its_own_and_may_count_over_the_batch(propose):
    changes = {"MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 9, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 4}
    assert sum(len(box) for box in propose(changes=changes, train=True)[0]) == 9
    each = propose(changes={**changes, "MODEL.RPN.FPN_POST_NMS_PER_BATCH": False}, train=True)[0]
    assert [len(box) for box in each] == [9, 9]
    assert [len(box) for box in propose(changes=changes)[0]] == [4, 4]


def test_one_feature_map_has_no_total(propose):
    changes = {"MODEL.RPN.POST_NMS_TOP_N_TEST": 30, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 4}
    assert [len(box) for box in propose("rpn-c4", changes)[0]] == [30, 30]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_proposals_of_one_map_overlap_no_more_than_allowed(propose, threshold):
    for box in propose("rpn-c4", {"MODEL.RPN.NMS_THRESH": threshold})[0]:
        assert box_iou(box, box).triu(diagonal=1).max() <= threshold


def test_small_proposals_are_dropped(propose):
    free = {"MODEL.RPN.POST_NMS_TOP_N_TEST": 10000}
    assert any((box[:, 2:] - box[:, :2]).min() < 12 for box in propose(changes=free)[0])
    for box in propose(changes={**free, "MODEL.RPN.MIN_SIZE": 12})[0]:
        assert len(box) and (box[:, 2:] - box[:, :2]).min() >= 12


@given(st.lists(st.tuples(*[st.integers(-40, 140)] * 4), min_size=1, max_size=8), st.integers(0, 50))
def test_straddling_is_leaving_the_image_by_more_than_the_margin(rows, margin):
    anchors = torch.tensor(rows, dtype=torch.float32)
    inside = torch.tensor([-margin, -margin, 90 + margin, 60 + margin])
    expected = [
        x1 < inside[0] or y1 < inside[1] or x2 > inside[2] or y2 > inside[3] for x1, y1, x2, y2 in rows
    ]
    assert straddling(anchors, (60, 90), margin).tolist() == [bool(each) for each in expected]


def test_anchors_that_leave_the_image_are_not_trained_on(small_detector, batch):
    images, targets = batch
    model = small_detector("rpn-c4", {"MODEL.RPN.ANCHOR_SIZES": (100,), "MODEL.RPN.STRADDLE_THRESH": 0})
    losses = model(images, targets)
    assert sum(losses.values()).item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)
    model = small_detector("rpn-c4", {"MODEL.RPN.ANCHOR_SIZES": (100,), "MODEL.RPN.STRADDLE_THRESH": -1})
    assert sum(model(images, targets).values()) > 0.1


def test_the_sample_has_the_configured_size_and_share_of_positives(small_detector, batch, monkeypatch):
    images, targets = batch
    changes = {"MODEL.RPN.BATCH_SIZE_PER_IMAGE": 10, "MODEL.RPN.POSITIVE_FRACTION": 0.2}
    rpn = small_detector("rpn-fpn", {**changes, "MODEL.RPN.FG_IOU_THRESHOLD": 0.3}).rpn
    rpn.proposal_matcher.low_threshold = 0.3
    anchors = rpn.anchor_generator(
        ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]),
        [torch.zeros(1, 1, 64 // s, 96 // s) for s in rpn.anchor_generator.strides],
    )
    labels, _ = rpn.assign_targets_to_anchors(anchors, targets[:1])
    positive, negative = rpn.fg_bg_sampler(labels)
    assert (positive[0].sum(), negative[0].sum()) == (2, 8)
