"""Non-maximum suppression: torchvision's indices, in torchvision's order, whatever the boxes and scores."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torchvision import ops

from backbones.ops import batched_nms, nms, suppression
from backbones.ops.library import absent

compiled = pytest.mark.skipif(bool(absent("cpu")), reason=f"the extension is absent: {absent('cpu')}")


@st.composite
def detections(draw):
    """Boxes and scores, among them equal ones, boxes without extent, NaN and infinity."""
    count = draw(st.sampled_from([0, 1, 2, 9, 40, 300, 999, 1001, 1500]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    boxes = torch.rand(count, 4, generator=generator, dtype=dtype) * draw(st.sampled_from([20, 100, 1000]))
    boxes[:, 2:] += boxes[:, :2] * draw(st.sampled_from([1, 0]))
    scores = torch.rand(count, generator=generator, dtype=dtype)
    if draw(st.booleans()):
        boxes = boxes.round()
    if draw(st.booleans()):
        scores = (scores * 5).round()
    if count > 2 and draw(st.booleans()):
        boxes[1, 2], boxes[0, 0], scores[-1], scores[0] = torch.nan, torch.inf, torch.nan, -torch.inf
    return boxes, scores


THRESHOLDS = st.sampled_from([0.5, 0.7, 1 / 3, 0.0, 1.0, 0.1, -1.0, float("nan")])


@settings(max_examples=60, deadline=None)
@given(detections(), THRESHOLDS)
def test_it_keeps_what_torchvision_keeps(found, threshold):
    assert nms(*found, threshold).tolist() == ops.nms(*found, threshold).tolist()


@settings(max_examples=60, deadline=None)
@given(detections(), THRESHOLDS, st.sampled_from([1, 5, 80]), st.sampled_from([torch.int64, torch.int32]))
def test_in_groups_too(found, threshold, groups, dtype):
    idxs = torch.arange(len(found[0]), dtype=dtype).mul(7) % groups - groups // 2
    kept = batched_nms(*found, idxs, threshold)
    assert kept.tolist() == ops.batched_nms(*found, idxs, threshold).tolist()


@pytest.mark.parametrize("compiled", [True, False])
def test_of_no_boxes_none_are_kept_whatever_the_rest_is(compiled, monkeypatch):
    monkeypatch.setattr(suppression, "_COMPILED", compiled and suppression._COMPILED)
    for boxes in (
        torch.empty(0, 4),
        torch.empty(0, dtype=torch.int64),
        torch.empty(0, 4, dtype=torch.bfloat16),
    ):
        for rest in (None, torch.empty(0), torch.ones(3)):
            kept = batched_nms(boxes, rest, rest, None)
            wanted = ops.batched_nms(boxes, rest, rest, None)
            assert (kept.shape, kept.dtype, kept.device) == (wanted.shape, wanted.dtype, wanted.device)
    assert nms(torch.empty(0, 4), torch.empty(0), 0.5).tolist() == []


@pytest.mark.parametrize("name", ["nms", "batched_nms"])
def test_the_signatures_are_torchvisions(name):
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (suppression, ops))
    assert list(ours.parameters) == list(theirs.parameters)


def test_thresholds_that_float32_rounds_up_and_down():
    # Boxes of width 1 to 9 beside one of 10: overlaps of a tenth to nine tenths, none exact in float32.
    boxes = torch.zeros(10, 4)
    boxes[:, 2], boxes[:, 3] = torch.arange(10, 0, -1), 10
    scores = torch.arange(10, 0, -1).float()
    for tenths in range(1, 10):
        for threshold in (tenths / 10, float(torch.tensor(tenths / 10))):
            assert nms(boxes, scores, threshold).tolist() == ops.nms(boxes, scores, threshold).tolist()


@compiled
def test_the_number_of_threads_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(4000, 4, generator=generator) * 100
    boxes[:, 2:] += boxes[:, :2]
    scores, groups = torch.rand(4000, generator=generator), torch.arange(4000) % 7
    before = torch.get_num_threads()
    kept = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        kept.append(batched_nms(boxes, scores, groups, 0.5).tolist())
    torch.set_num_threads(before)
    assert kept[0] == kept[1] == kept[2]


@compiled
def test_what_the_compiler_is_told():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    for groups in (None, torch.tensor([0, 1, 1])):
        opcheck(torch.ops.convbody.nms_keep.default, (boxes, groups, 0.5))


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(3, 4), torch.zeros(3).double()),
        (torch.zeros(3, 5), torch.zeros(3)),
        (torch.zeros(3, 4), torch.zeros(2)),
        (torch.zeros(3, 4).int(), torch.zeros(3).int()),
    ],
)
def test_what_torchvision_refuses_is_refused(arguments):
    for function in (nms, ops.nms):
        with pytest.raises(RuntimeError):
            function(*arguments, 0.5)


@compiled
def test_the_operator_refuses_what_does_not_fit():
    operator = torch.ops.convbody.nms_keep
    with pytest.raises(RuntimeError, match=r"must have shape \(N, 4\), not \(3, 5\)"):
        operator(torch.zeros(3, 5), None, 0.5)
    with pytest.raises(RuntimeError, match="of type Half but must be float64 or float32"):
        operator(torch.zeros(3, 4).half(), None, 0.5)
    for groups in (torch.zeros(2).long(), torch.zeros(3)):
        with pytest.raises(RuntimeError, match="must be int64 and have one for each box"):
            operator(torch.zeros(3, 4), groups, 0.5)


def test_without_the_extension_torchvisions_operator_serves(monkeypatch):
    monkeypatch.setattr(suppression, "_COMPILED", False)
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    scores = torch.tensor([0.3, 0.9, 0.5])
    assert nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert batched_nms(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [1, 2, 0]
