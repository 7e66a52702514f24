"""Line charts as inline SVG: no fonts, scripts or files from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#1f5fbf", "#c4501b", "#2c7a4b", "#8a3fa8", "#8c6d1f", "#0f7f8c", "#b5305f", "#5b6470")
_DASHES = ("", "6 4", "2 3", "9 3 2 3")

_HEIGHT = 262
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 22, 12, 46
_MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """One line: ``xs`` ascending, ``ys`` of the same length. ``strong`` draws it thicker than the others.

    With ``labels``, one for each point, all points are drawn, and each tells its own under the pointer.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    strong: bool = False
    labels: Sequence[str] = ()
    #: Points alone, without a line between them; their order is free.
    scattered: bool = False


def style(index: int) -> tuple[str, str]:
    """Colour and dash pattern of line ``index``: told apart in print and without colour vision, too."""
    return COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    y_log: bool = False,
    width: int = 400,
) -> str:
    """An SVG element of the lines over two labelled axes; ``title`` is its text for who cannot see it.

    Without ``y_range`` the axis holds all values and 0. With ``y_log`` it goes by powers of ten over a
    ``y_range`` above 0, and what is outside lies on its ends. Long lines are thinned to means of neighbours.
    ``width`` is in the units in which the chart is 262 high and its text 13.
    """
    lines = [_thinned(line) for line in series]
    x_low, x_high = _range([x for line in lines for x in line.xs])
    y_low, y_high = y_range or _range([0.0, *(y for line in lines for y in line.ys)])
    y_ticks = _decades(y_low, y_high) if y_log else _ticks(y_low, y_high)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        if y_log:
            up = math.log(min(max(y, y_low), y_high) / y_low) / math.log(y_high / y_low)
        else:
            up = (y - y_low) / (y_high - y_low)
        return (
            round(_LEFT + across * (width - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">']
    for tick in y_ticks:
        x, y = place(x_low, tick)
        parts.append(f'<path class="grid" d="M{x} {y}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{x - 7}" y="{y + 4}" text-anchor="end">{_number(tick)}</text>')
    for tick in _ticks(x_low, x_high):
        x, y = place(tick, y_low)
        parts.append(f'<path class="axis" d="M{x} {y}v5"/>')
        parts.append(f'<text x="{x}" y="{y + 19}" text-anchor="middle">{_number(tick)}</text>')
    left, bottom = place(x_low, y_low)
    parts.append(f'<path class="axis" d="M{left} {bottom}H{width - _RIGHT}"/>')
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text class="label" transform="translate(13 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    for index, line in enumerate(lines):
        colour, dash = style(index)
        points = [place(x, y) for x, y in zip(line.xs, line.ys, strict=True)]
        if len(points) == 1 or line.scattered:
            radius = 5 if line.strong else 4
            parts += [f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}"/>' for x, y in points]
            continue
        path = " ".join(f"{x},{y}" for x, y in points)
        thickness = 2.6 if line.strong else 1.7
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="{thickness}"{dashes}/>')
        for (x, y), label in zip(points, line.labels, strict=False):  # a line may have none
            parts.append(
                f'<circle class="hover" cx="{x}" cy="{y}" r="4" fill="{colour}">'
                f"<title>{escape(label)}</title></circle>"
            )
    return "".join([*parts, "</svg>"])


def _thinned(line: Series) -> Series:
    """A line without labels as at most ``_MOST_POINTS`` points, each the mean of as many neighbours."""
    step = math.ceil(len(line.xs) / _MOST_POINTS)
    if step <= 1 or line.labels or line.scattered:
        return line
    chunks = range(0, len(line.xs), step)
    xs = [_mean(line.xs[start : start + step]) for start in chunks]
    ys = [_mean(line.ys[start : start + step]) for start in chunks]
    return Series(line.name, xs, ys, line.strong)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest value, and never of no length."""
    low, high = min(values), max(values)
    return low, high if high > low else low + 1.0


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five of them, from ``low`` to ``high``."""
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``, at most about eight of them."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 7)))]


def _number(value: float) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 0.001):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{round(value, 6):g}"
