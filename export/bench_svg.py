"""Two kinds of plots of figures as SVG text: lines over batch sizes, and bars of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from .svg import INKS, svg

_WIDTH, _HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 44, 34
_BAR, _NAMES = 20, 250
_LONGEST = 40
_NAMES_A_LINE, _NAME_HEIGHT = 4, 14


def batch_plot(
    title: str, batches: Sequence[int], series: Mapping[str, Sequence[float | None]], floor: str = "",
    axis: str = "batch", inks: Mapping[str, int] | None = None, dashes: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Values by batch on a logarithmic scale; the batches stand side by side in the order given.

    Args:
        title: above the plot, with the unit.
        batches: images at once.
        series: a value a batch by name; None where there is none.
        floor: the name of the series that is drawn dashed.
        axis: the word below the batches: they may be numbers of another thing.
        inks: the place in INKS of a series; None gives each the next one.
        dashes: SVG's stroke-dasharray of a series; one that is left out is drawn through.

    Returns:
        One <svg> element.
    """
    positive = [value for values in series.values() for value in values if value is not None and value > 0]
    low = math.floor(math.log10(min(positive, default=0.1)))
    high = max(math.ceil(math.log10(max(positive, default=1.0))), low + 1)
    down = _NAME_HEIGHT * ((len(series) - 1) // _NAMES_A_LINE)  # for the names of the series
    height, top_edge = _HEIGHT + down, _TOP + down
    right, bottom = _WIDTH - _RIGHT, height - _BOTTOM
    dashes = {floor: "5 4"} | dict(dashes or {})

    def x(index: int) -> float:
        return _LEFT + (right - _LEFT) * (index + 0.5) / max(len(batches), 1)

    def y(value: float) -> float:
        return bottom - (bottom - top_edge) * (math.log10(value) - low) / (high - low)

    parts = [f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for i, batch in enumerate(batches):
        parts.append(f'<text class="tick" x="{x(i):.1f}" y="{bottom + 15}" text-anchor="middle">{batch}</text>')
    parts.append(f'<text class="tick" x="{right}" y="{height - 3}" text-anchor="end">{escape(axis)}</text>')
    for i, (name, values) in enumerate(series.items()):
        ink = INKS[(i if inks is None else inks[name]) % len(INKS)]
        shown = [(x(j), y(v), batches[j], v) for j, v in enumerate(values) if v is not None and v > 0]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top, _, _ in shown)
        broken = f' stroke-dasharray="{dashes[name]}"' if dashes.get(name) else ""
        parts.append(f'<polyline fill="none" stroke="{ink}" stroke-width="1.6"{broken} points="{path}"/>')
        parts += [
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{ink}"><title>{escape(name)}, {escape(axis)} {batch}: '
            f"{v:.4g}</title></circle>"
            for left, top, batch, v in shown
        ]
        at, line = _LEFT + 120 * (i % _NAMES_A_LINE), 33 + _NAME_HEIGHT * (i // _NAMES_A_LINE)
        if dashes.get(name):
            parts.append(
                f'<line x1="{at - 16}" y1="{line - 4}" x2="{at - 2}" y2="{line - 4}" stroke="{ink}" stroke-width="1.6" '
                f'stroke-dasharray="{dashes[name]}"/>'
            )
        parts.append(f'<text class="tick" x="{at}" y="{line}" style="fill:{ink}">{escape(name)}</text>')
    return svg(_WIDTH, height, title, parts)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str) -> str:
    """Horizontal bars, one below the other; the longest is the largest value.

    Args:
        title: above them.
        values: (name, value >= 0); a long name is cut, and told in full when pointed at.
        unit: behind each value.

    Returns:
        One <svg> element.
    """
    most = max((value for _, value in values), default=0.0) or 1.0
    span = _WIDTH - _NAMES - 90
    parts = [f'<text class="title" x="0" y="16">{escape(title)}</text>']
    for i, (name, value) in enumerate(values):
        top = 28 + _BAR * i
        short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
        width = max(span * value / most, 0.5)
        parts.append(
            f'<text class="tick" x="{_NAMES - 6}" y="{top + 13}" text-anchor="end">{escape(short)}'
            f"<title>{escape(name)}</title></text>"
            f'<rect x="{_NAMES}" y="{top + 2}" width="{width:.1f}" height="{_BAR - 5}" fill="{INKS[0]}"/>'
            f'<text class="tick" x="{_NAMES + width + 5:.1f}" y="{top + 13}">{value:.1f} {escape(unit)}</text>'
        )
    return svg(_WIDTH, 32 + _BAR * len(values), title, parts)
