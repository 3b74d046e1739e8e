"""The plot of `roofline.py`: milliseconds a step over batch, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from aim_edge.export.svg import INKS, svg

_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 84, 66, 48
_INK, _GRID = "#24292f", "#d8dee4"

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Series:
    """What is drawn of one model: (batch, milliseconds a step) pairs, by batch.

    Attributes:
        ours: dots on a line; at least one.
        floor: a thin line.
        published: hollow dots.
    """

    name: str
    ours: Points
    floor: Points = ()
    published: Points = ()


def batch_plot(title: str, series: Sequence[Series], batches: Sequence[int], ours: str, published: str) -> str:
    """Draws it.

    Args:
        title: above the plot.
        series: one a model, one at least and no more than there are colours.
        batches: those that the axis names; it goes from 1 to the largest of these and of the series'.
        ours, published: what the legend calls them; the latter is left out where nothing of it is drawn.

    Returns:
        One <svg> element on white, with all its style in it.

    Raises:
        ValueError: too few or too many series.
    """
    if not 1 <= len(series) <= len(INKS):
        raise ValueError(f"{len(series)} models to draw; allowed: 1 to {len(INKS)}")
    points = [point for one in series for of in (one.ours, one.floor, one.published) for point in of]
    last = max(2, *batches, *(batch for batch, _ in points))
    low, high = (math.log10(end(ms for _, ms in points)) for end in (min, max))
    low, high = low - 0.08, high + 0.08
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def at(batch: int, ms: float) -> tuple[float, float]:
        part = (math.log10(ms) - low) / (high - low)
        return _LEFT + 12 + (right - _LEFT - 24) * math.log(batch) / math.log(last), bottom - (bottom - _TOP) * part

    parts = [f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>', _text(_LEFT, 24, title, size=15)]
    for ms in (m * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)):
        if low <= math.log10(ms) <= high:
            y = at(1, ms)[1]
            parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_GRID}"/>')
            parts.append(_text(_LEFT - 8, y + 4, f"{ms:g}", anchor="end"))
    for batch in batches:
        x = at(batch, 1.0)[0]
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="{_GRID}"/>')
        parts.append(_text(x, bottom + 18, str(batch), anchor="middle"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, "batch (images at once)", anchor="middle"))
    parts.append(_text(16, (_TOP + bottom) / 2, "ms a step", anchor="middle", turned=True))
    parts += [_line([(_LEFT, 44), (_LEFT + 26, 44)], _INK, 1), _text(_LEFT + 32, 48, "memory floor")]
    parts += [_line([(216, 44), (242, 44)], _INK, 2.2), _dot(229, 44, _INK, ours), _text(248, 48, ours)]
    if any(one.published for one in series):
        parts += [_dot(394, 44, _INK, published, hollow=True), _text(404, 48, published)]
    ends = []
    for one, ink in zip(series, INKS, strict=False):
        parts.append(_line([at(*point) for point in one.floor], ink, 1))
        parts.append(_line([at(*point) for point in one.ours], ink, 2.2))
        for what, dots in (("published", one.published), ("measured", one.ours)):
            parts += [_dot(*at(b, ms), ink, f"{one.name}, batch {b}, {what}: {ms:.4g} ms", what == "published")
                      for b, ms in dots]  # fmt: skip
        ends.append((at(*(one.floor or one.ours)[-1])[1], one.name, ink))
    above = math.inf
    for y, name, ink in sorted(ends, reverse=True):  # from below; names keep clear of each other
        above = min(y, above - 16)
        parts.append(_text(right + 8, above + 4, name, ink=ink, size=13))
    return svg(_WIDTH, _HEIGHT, title, parts) + "\n"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", ink: str = _INK, size: int = 12, turned: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" font-family="sans-serif" font-size="{size}" '
        f'text-anchor="{anchor}"{turn}>{escape(words)}</text>'
    )


def _dot(x: float, y: float, ink: str, words: str, hollow: bool = False) -> str:
    fill = "#ffffff" if hollow else ink
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{ink}" stroke-width="1.6">'
        f"<title>{escape(words)}</title></circle>"
    )


def _line(points: Iterable[tuple[float, float]], ink: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{ink}" stroke-width="{width}" points="{path}"/>'
