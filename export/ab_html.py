"""The report of two measured bundles as one HTML file: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from .ab import Prices, Row, Side
from .ab_report import describe_ab
from .ab_texts import TEXTS
from .bench_svg import batch_plot

TEMPLATE = Path(__file__).with_name("ab.html.jinja")


def render_ab_html(
    a: Mapping[str, Any], b: Mapping[str, Any], rows: list[Row], prices: Prices, language: str,
    files: tuple[str, str] | None = None,
) -> str:  # fmt: skip
    """The whole page: what the Markdown says, and plots; arguments and errors as `ab_report.describe_ab`."""
    title, sections = describe_ab(a, b, rows, prices, language, files)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, sections=sections, language=language, plots=_plots(rows, prices, TEXTS[language])
    )


def _plots(rows: list[Row], prices: Prices, text: Mapping[str, str]) -> dict[str, list[str]]:
    """By section. What was measured on neither side has none."""

    def plot(title: str, name: str, scale: float = 1.0) -> list[str]:
        def values(sides: list[Side]) -> list[float | None]:
            return [scale * getattr(side, name) or None for side in sides]

        series = {"A": values([row.a for row in rows]), "B": values([row.b for row in rows])}
        if not any(value for side in series.values() for value in side):
            return []
        batches = [row.batch for row in rows]
        return [batch_plot(text[title].format(currency=prices.currency), batches, series, axis=text["axis"])]

    return {
        "figures": [
            *plot("plot_rate", "images_per_second"), *plot("plot_seconds", "seconds"),
            *plot("plot_memory", "device_bytes", 1e-6),
        ],
        "costs": plot("plot_cost", "thousand"),
    }  # fmt: skip
