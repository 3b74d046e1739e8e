"""The report of two measured sides as one HTML file: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .ab import Row
from .ab_report import describe_ab
from .ab_sides import Ab
from .ab_texts import TEXTS
from .bench_svg import batch_plot

TEMPLATE = Path(__file__).with_name("ab.html.jinja")
# Title, figure of a side, and what it is multiplied by.
_FIGURES = (("plot_rate", "images_per_second", 1.0), ("plot_seconds", "seconds", 1.0),
            ("plot_memory", "device_bytes", 1e-6))  # fmt: skip
_DASHES = ("", "7 3", "2 3", "8 3 2 3")


def render_ab_html(ab: Ab, language: str) -> str:
    """The whole page: what the Markdown says, and plots; arguments and errors as `ab_report.describe_ab`."""
    title, sections = describe_ab(ab, language)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, sections=sections, language=language, plots=_plots(ab, TEXTS[language])
    )


def _plots(ab: Ab, text: Mapping[str, str]) -> dict[str, list[str]]:
    """By section. With several numbers of codes: over those, a line a side and batch, and over batches."""
    batches, lengths = sorted({row.batch for row in ab.rows}), ab.lengths
    by = {(row.codes, row.batch): row for row in ab.rows}
    figures = []
    if len(lengths) > 1:
        lines = [(text["line_batch"], {"batch": batch}, [by.get((n, batch)) for n in lengths]) for batch in batches]
        figures += _figures(lengths, lines, text["axis_codes"], text)
    name = text["line_codes"] if len(lengths) > 1 else "{side}"
    lines = [(name, {"codes": n}, [by.get((n, batch)) for batch in batches]) for n in lengths]
    figures += _figures(batches, lines, text["axis"], text)
    costs = {side: [getattr(row, side.lower()).thousand for row in ab.costs] for side in ("A", "B")}
    title = text["plot_cost"].format(currency=ab.prices.currency)
    return {
        "figures": figures, "costs": [batch_plot(title, [row.batch for row in ab.costs], costs, axis=text["axis"])]
    }  # fmt: skip


def _figures(
    places: Sequence[int], lines: Sequence[tuple[str, Mapping[str, int], Sequence[Row | None]]], axis: str,
    text: Mapping[str, str],
) -> list[str]:  # fmt: skip
    """A plot a figure; what was measured on neither side has none.

    Args:
        places: along the axis.
        lines: what both sides' lines are called, and a row a place or None where there is none.
        axis: its name.
        text: of the language.
    """
    plots = []
    for title, figure, scale in _FIGURES:
        series: dict[str, list[float | None]] = {}
        inks, dashes = {}, {}
        for i, (name, which, rows) in enumerate(lines):
            for ink, side in enumerate("AB"):
                called = name.format(side=side, **which)
                values = [None if row is None else getattr(getattr(row, side.lower()), figure) for row in rows]
                series[called] = [scale * value if value else None for value in values]
                inks[called], dashes[called] = ink, _DASHES[i % len(_DASHES)]
        if any(value for values in series.values() for value in values):
            plots.append(batch_plot(text[title], places, series, axis=axis, inks=inks, dashes=dashes))
    return plots
