"""What rounding explains, and what it does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbody.compare.names import Pairing
from convbody.compare.record import Place, Record, Seen
from convbody.compare.verdict import FACTOR, Status, compare
from registry import ConvbodyError

PAIRING = Pairing({"w": "w"}, {"w": "w"}, (), ())


def record(value, rounding, phase="gradients", before=None, batch=(1.0,)):
    made = Record("a side", "projection", {"images": torch.tensor(batch)})
    if before is not None:
        made.places[Place("weights", "w")] = Seen(torch.tensor(before), 0.0)
    made.places[Place(phase, "w")] = Seen(torch.tensor(value), rounding)
    return made


def last_row(first, second):
    return compare(first, second, PAIRING).rows[-1]


@pytest.mark.parametrize(
    ("value", "rounding", "status"),
    [
        ([1.0, 2.0], 0.0, Status.EXACT),
        ([1.0, 2.0 + 2e-7], 1e-7, Status.ROUNDING),
        ([1.0, 2.0 + 2e-7], 0.0, Status.PARTS),  # more than the last place, and nobody rounds here
        ([1.0, 2.1], 1e-7, Status.PARTS),
        ([1.0, 2.1], 0.5, Status.NOISE),
        ([1.0, 2.1], float("inf"), Status.NOISE),  # float64 took another course: no evidence
        ([1.0, 20.0], 0.5, Status.PARTS),  # yet more than noise explains
        ([1.0], 1e-7, Status.SHAPE),
        ([1.0, float("nan")], 1e-7, Status.NOT_FINITE),
    ],
)
def test_a_difference_is_held_against_rounding(value, rounding, status):
    assert last_row(record([1.0, 2.0], rounding), record(value, rounding)).status is status


def test_a_gradient_that_is_zero_in_exact_arithmetic_is_noise():
    """The bias before a batch norm: both sides have nothing but rounding, and relative errors are near 1."""
    row = last_row(record([3e-9, -2e-9], 3e-9), record([-1e-9, 4e-9], 3e-9))
    assert row.status is Status.NOISE
    assert last_row(record([3e-9, -2e-9], 3e-9), record([1e-3, 0.0], 3e-9)).parts


def test_a_side_without_a_reference_rounds_as_the_other():
    measured, unmeasured = record([1.0, 2.0], 1e-4), record([1.0, 2.0 + 5e-4], None)
    assert last_row(measured, unmeasured).status is Status.ROUNDING
    assert last_row(unmeasured, measured).status is Status.ROUNDING
    assert last_row(record([1.0, 2.0], 1e-6), unmeasured).parts


def test_float64_shows_what_float32_rounding_hides():
    """A mistake of 2e-4 under rounding of 1e-3, where both sides have a reference in float64."""

    def side(value, exact, pure=True):
        made = record([1.0], 0.0, "weights")
        residual = torch.tensor([exact], dtype=torch.float64) - torch.tensor([value])
        made.places[Place("gradients", "w")] = Seen(torch.tensor([value]), 1e-3, residual.float())
        made.pure = pure
        return made

    row = last_row(side(1.001, 1.0), side(0.9993, 1.0003))
    assert row.parts and row.exact == pytest.approx(3e-4, rel=1e-2)
    assert not last_row(side(1.001, 1.0), side(0.999, 1.0)).parts
    assert not last_row(side(1.001, 1.0), side(0.9993, 1.0003, pure=False)).parts
    other_weights = side(0.9993, 1.0003)
    other_weights.places[Place("weights", "w")] = Seen(torch.tensor([1.0 + 6e-8]), 0.0)
    assert not last_row(side(1.001, 1.0), other_weights).parts


def test_steps_are_relative_to_the_change():
    first = record([1.001, 1.0], 0.0, "step 1", before=[1.0, 1.0])
    second = record([1.002, 1.0], 0.0, "step 1", before=[1.0, 1.0])
    assert last_row(first, second).error == pytest.approx(1.0, rel=1e-3)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8),
    st.floats(-1e-3, 1e-3),
    st.floats(-1e-3, 1e-3),
)
def test_two_roundings_of_one_value_never_part(exact, here, there):
    """The triangle inequality, which the verdict stands on."""
    value = torch.tensor(exact, dtype=torch.float64)
    sides = []
    for error in (here, there):
        rounded = (value * (1 + error)).float()
        rounding = float((rounded.double() - value).square().mean().sqrt())
        sides.append(record(rounded.tolist(), rounding))
    assert not last_row(*sides).parts
    assert FACTOR >= 1


@pytest.mark.parametrize(
    ("batch", "message"), [((1.0, 2.0), r"images is \(1,\) here, \(2,\) there"), ((2.0,), "other values")]
)
def test_other_batches_are_an_error(batch, message):
    with pytest.raises(ConvbodyError, match=message):
        compare(record([1.0], 0.0), record([1.0], 0.0, batch=batch), PAIRING)
