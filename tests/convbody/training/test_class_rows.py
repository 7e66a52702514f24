"""What belongs to a class goes to the class of the same name, in every layout of outputs."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convbody.training.class_rows import ByName, ClassRows, class_rows, kept_by_name, layer_rows

NAMES = st.lists(st.sampled_from(["red", "green", "blue", "grey", None]), min_size=1, max_size=6, unique=True)
ROWS = st.builds(
    ClassRows,
    axis=st.integers(0, 1),
    width=st.integers(1, 4),
    groups=st.integers(1, 3),
    background=st.booleans(),
)


def coded(names, rows, others=2):
    """A tensor (entries, others), or its transpose, whose every entry says what it is of."""
    labels = (["background"] if rows.background else []) + list(names)
    entries = [(group, label, place) for group in range(rows.groups) for label in labels
               for place in range(rows.width)]  # fmt: skip
    codes = torch.tensor([hash(entry) % 100_003 for entry in entries], dtype=torch.float64)
    tensor = codes[:, None] + torch.arange(others) / 8
    return tensor if rows.axis == 0 else tensor.T.contiguous()


@given(NAMES, NAMES, ROWS)
def test_entries_are_those_of_the_name_and_new_ones_stay(theirs, ours, rows):
    fresh = -coded(ours, rows)
    result = kept_by_name(coded(theirs, rows), fresh, rows, theirs, ours)
    wanted = coded(ours, rows)
    for position, label in enumerate((["background"] if rows.background else []) + list(ours)):
        common = label == "background" or (label in theirs and label is not None)
        kept, target = rows.by_class(result)[:, position], rows.by_class(wanted)[:, position]
        assert torch.equal(kept, target if common else -target)
    assert torch.equal(fresh, -wanted), "what the model has is not written into"


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.score = nn.Linear(3, classes)
        self.class_rows = layer_rows("score", ClassRows())


def test_modules_say_which_of_their_tensors_belong_to_classes():
    assert class_rows(nn.ModuleDict({"a": Head(2)})).keys() == {"a.score.weight", "a.score.bias"}
    assert class_rows(Head(2)).keys() == {"score.weight", "score.bias"}


@pytest.mark.parametrize("notes", [{}, {"classes": ("red",)}, {"keypoints": ("red", "blue")}])
def test_weights_that_do_not_tell_their_classes_are_taken_as_they_are(notes):
    adapt = ByName(class_rows(Head(2)), {"classes": ("red", "blue")})
    tensor = torch.ones(2, 3)
    assert adapt("score.weight", tensor, torch.zeros(2, 3), notes, "convbody") is tensor


def test_a_tensor_that_differs_in_more_than_classes_is_left_for_the_report():
    adapt = ByName(class_rows(Head(2)), {"classes": ("red", "blue")})
    for tensor in (torch.ones(2, 4), torch.ones(2), torch.ones(())):
        assert adapt("score.weight", tensor, torch.zeros(2, 3), {"classes": ("red", "tan")}, "x") is tensor


def test_names_are_assumed_only_where_the_number_of_classes_is_another():
    adapt = ByName(class_rows(Head(2)), {"classes": ("red", "blue")}, lambda of, count, lineage: ("blue",))
    result = adapt("score.bias", torch.ones(1), torch.zeros(2), {}, "caffe2")
    assert result.tolist() == [0, 1]
    assert adapt("score.bias", torch.ones(2), torch.zeros(2), {}, "caffe2").tolist() == [1, 1]


def test_both_lists_are_logged_where_they_differ(caplog):
    adapt = ByName(class_rows(Head(2)), {"classes": ("red", "blue")})
    with caplog.at_level(logging.INFO):
        adapt("score.bias", torch.ones(2), torch.zeros(2), {"classes": ("red", "blue")}, "convbody")
        adapt.report("a.pth")
        assert not caplog.records
        adapt("score.bias", torch.ones(2), torch.zeros(2), {"classes": ("blue", "tan")}, "convbody")
        adapt.report("a.pth")
    assert "a.pth has the classes blue, tan, and this run red, blue: weights of blue are kept" in caplog.text
