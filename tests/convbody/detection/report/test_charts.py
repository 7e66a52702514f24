from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbody.detection.report.charts import Series, line_chart, style
from convbody.detection.report.samples import choose


def drawn(series, **axes):
    return ElementTree.fromstring(line_chart(series, title="a <title>", x_label="x", y_label="y", **axes))


def points(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_values_lie_where_the_axes_say():
    line = points(drawn([Series("a", [0, 50, 100], [0.0, 1.0, 0.5])], y_range=(0, 1)).find("polyline"))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0  # up is less in SVG
    assert y0 - y2 == pytest.approx(y2 - y1, abs=0.2)


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(
    st.lists(st.tuples(st.integers(0, 100_000), numbers), min_size=1, max_size=40, unique_by=lambda p: p[0])
)
def test_every_line_stays_inside_its_picture(values):
    values.sort()
    chart = drawn([Series("a", [x for x, _ in values], [y for _, y in values])])
    _, _, width, height = map(float, chart.get("viewBox").split())
    line = chart.find("polyline")
    if line is None:
        dot = chart.find("circle")
        line_points = [(float(dot.get("cx")), float(dot.get("cy")))]
    else:
        line_points = points(line)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in line_points)


def test_long_lines_are_thinned_to_their_means():
    chart = drawn([Series("a", range(10_000), [index % 2 for index in range(10_000)])], y_range=(0, 1))
    line = points(chart.find("polyline"))
    assert len(line) <= 240
    assert max(y for _, y in line) - min(y for _, y in line) < 3


def test_ticks_are_round_numbers():
    texts = [element.text for element in drawn([Series("a", [0, 3000], [0, 0.0002])]).iter("text")]
    assert {"0", "1000", "2000", "3000", "5e-5", "1e-4", "1.5e-4", "2e-4"} <= set(texts)


def test_lines_differ_in_colour_or_dash():
    assert len({style(index) for index in range(8)}) == 8


def test_a_logarithmic_axis_goes_by_powers_of_ten_and_keeps_what_is_outside_on_its_ends():
    series = [Series("a", [1, 2, 3, 4, 5], [1e-8, 1e-4, 1.0, 0.0, 50.0], labels="abcde")]
    chart = drawn(series, y_range=(1e-8, 1.0), y_log=True)
    ys = [y for _, y in points(chart.find("polyline"))]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert (ys[3], ys[4]) == (ys[0], ys[2])
    assert [title.text for title in chart.iter("title")] == list("abcde")
    assert {"1", "1e-8"} <= {element.text for element in chart.iter("text")}


def test_text_cannot_break_out():
    chart = line_chart([Series("a", [1], [1])], title='"<b>', x_label="<i>", y_label="<u>")
    assert 'aria-label="&quot;&lt;b&gt;"' in chart
    assert not re.search("<[biu]>", chart)


def test_the_best_the_worst_and_others_are_chosen_once_each():
    f1, objects = [0.5, 1.0, 0.0, 1.0, 0.2, 0.6, 0.0], [3, 1, 2, 9, 4, 4, 8]
    chosen = choose(f1, objects)
    assert chosen[:4] == [("Best", 3), ("Best", 1), ("Worst", 6), ("Worst", 2)]
    assert {group for group, _ in chosen[4:]} == {"Random"}
    assert len({position for _, position in chosen}) == 6
    assert choose([0.5], [1]) == [("Best", 0)]
    assert choose([], []) == []


def test_scattered_points_have_no_line_between_them():
    drawn = line_chart(
        [Series("a", [3, 1, 2], [1, 2, 3], scattered=True)], title="t", x_label="x", y_label="y"
    )
    assert drawn.count("<circle ") == 3 and "<polyline" not in drawn
