"""Two kinds of plots as SVG text: lines over steps, and a heat map of layers and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

INKS = ("#1f5fa8", "#b4540a", "#2f7d4f")
_BAD = "#c5221f"
_WIDTH, _HEIGHT = 560, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 30
_FROM, _TO = (226, 236, 247), (14, 49, 99)  # of the heat map: least and most


def line_plot(
    title: str, series: Mapping[str, Sequence[tuple[int, float]]], limit: float | None = None, *, share: bool = False
) -> str:
    """Values by step, on a logarithmic scale.

    Args:
        title: above the plot.
        series: (step, value) pairs by name; what is not finite is a cross at the top, and zero lies at the bottom.
        limit: a gate, drawn dashed.
        share: the values are shares: the scale goes from 0 to 1 instead.

    Returns:
        One <svg> element.
    """
    points = [point for values in series.values() for point in values]
    positive = [v for _, v in points if math.isfinite(v) and v > 0] + ([limit] if limit else [])
    low = math.floor(math.log10(min(positive, default=1e-3)))
    high = max(math.ceil(math.log10(max(positive, default=1.0))), low + 1)
    last = max((step for step, _ in points), default=0)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(step: int) -> float:
        return _LEFT + (right - _LEFT) * step / max(last, 1)

    def y(value: float) -> float:
        if not math.isfinite(value):
            return _TOP
        at = value if share else (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        return bottom - (bottom - _TOP) * min(max(at, 0.0), 1.0)

    parts = [f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']
    every = max(1, -(-(high - low) // 6))
    powers = [(10.0**power, f"1e{power}") for power in range(low, high + 1, every)]
    for value, label in [(part / 4, f"{part / 4:.0%}") for part in range(5)] if share else powers:
        at = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    for step in sorted({round(last * part / 4) for part in range(5)}):
        parts.append(f'<text class="tick" x="{x(step):.1f}" y="{bottom + 15}" text-anchor="middle">{step}</text>')
    parts.append(f'<text class="tick" x="{right}" y="{_HEIGHT - 3}" text-anchor="end">step</text>')
    if limit:
        parts.append(f'<line class="gate" x1="{_LEFT}" y1="{y(limit):.1f}" x2="{right}" y2="{y(limit):.1f}"/>')
    for i, (name, values) in enumerate(series.items()):
        ink = INKS[i % len(INKS)]
        path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in values if math.isfinite(v))
        parts.append(f'<polyline fill="none" stroke="{ink}" stroke-width="1.6" points="{path}"/>')
        parts += [
            f'<text x="{x(s):.1f}" y="{_TOP + 8}" fill="{_BAD}" text-anchor="middle">&#215;</text>'
            for s, v in values if not math.isfinite(v)
        ]  # fmt: skip
        if len(series) > 1:
            parts.append(
                f'<text class="tick" x="{right - 48 * i}" y="16" text-anchor="end" style="fill:{ink}">'
                f"{escape(name)}</text>"
            )
    if limit:  # over the lines
        parts.append(f'<text class="gate" x="{right}" y="{y(limit) - 4:.1f}" text-anchor="end">gate {limit:g}</text>')
    return svg(_WIDTH, _HEIGHT, title, parts)


def heat_map(title: str, cells: Mapping[tuple[int, int], tuple[float, bool]]) -> str:
    """A measure by layer (upwards) and step, its colour by its logarithm between 1e-14 and 1.

    Args:
        title: above the map.
        cells: (layer, step) -> (value, whether it leaves the gates); what is not finite is red all over.

    Returns:
        One <svg> element; each cell says its value when pointed at.
    """
    layers, steps = sorted({layer for layer, _ in cells}), sorted({step for _, step in cells})
    side_y = 18 if len(layers) <= 12 else 9
    side_x = (_WIDTH - _LEFT - _RIGHT) / max(len(steps), 1)
    height = _TOP + side_y * len(layers) + _BOTTOM
    parts = [f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>']
    for (layer, step), (value, bad) in cells.items():
        left, top = _LEFT + side_x * steps.index(step), _TOP + side_y * (len(layers) - 1 - layers.index(layer))
        edge = f' stroke="{_BAD}" stroke-width="2"' if bad else ""
        inset = 1.5 if bad else 0.5
        parts.append(
            f'<rect x="{left + inset:.1f}" y="{top + inset:.1f}" width="{max(side_x - 2 * inset, 0.5):.1f}" '
            f'height="{side_y - 2 * inset}" fill="{_shade(value)}"{edge}><title>layer {layer}, step {step}: {value:.3g}'
            "</title></rect>"
        )
    for i, layer in enumerate(layers):
        if i % (1 if side_y > 9 else 4) == 0:
            at = _TOP + side_y * (len(layers) - 0.5 - i) + 4
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{at:.1f}" text-anchor="end">layer {layer}</text>')
    shown = max(1, -(-len(steps) // 12))
    for i, step in enumerate(steps):
        if i % shown == 0:
            at = _LEFT + side_x * (i + 0.5)
            y = height - _BOTTOM + 14
            parts.append(f'<text class="tick" x="{at:.1f}" y="{y}" text-anchor="middle">{step}</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{height - 3}" text-anchor="end">step</text>')
    return svg(_WIDTH, height, title, parts)


def _shade(value: float) -> str:
    if not math.isfinite(value):
        return _BAD
    part = min(max((math.log10(max(value, 1e-14)) + 14) / 14, 0.0), 1.0)
    mixed = np.rint(np.array(_FROM) + part * (np.array(_TO) - np.array(_FROM))).astype(int)
    return "#{:02x}{:02x}{:02x}".format(*mixed.tolist())


def svg(width: int, height: float, title: str, parts: list[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" role="img" '
        f'aria-label="{escape(title)}">\n{inside}\n</svg>'
    )
