"""The arithmetic of docs/scaling.md."""

from dataclasses import replace

import pytest
import scaling

all_reduce, step_seconds = scaling.all_reduce, scaling.step_seconds

GIVEN = scaling.Assumptions(0.2, 0.5, 2, 8, 1e11, 1e10, 0.0, 25e6, 256)


def test_a_ring_sends_nearly_everything_twice():
    assert all_reduce(1e9, 2, GIVEN) == pytest.approx(0.01)
    assert all_reduce(1e9, 8, GIVEN) == pytest.approx(2 * 7 / 8 * 0.01)
    assert all_reduce(1e9, 16, GIVEN) == pytest.approx(2 * 15 / 16 * 0.1)


def test_each_message_takes_its_latency():
    late = replace(GIVEN, latency=1e-3)
    assert all_reduce(0, 64, late) == pytest.approx(2 * 63 * 1e-3)


def test_what_backward_does_not_hide_is_waited_for():
    assert step_seconds(100e6, 1, GIVEN) == 0.2
    hidden = step_seconds(100e6, 16, GIVEN)
    assert hidden == pytest.approx(0.2 + all_reduce(25e6, 16, GIVEN))
    exposed = step_seconds(1e9, 16, GIVEN)
    assert exposed == pytest.approx(0.2 + all_reduce(1e9, 16, GIVEN) - 0.1)
