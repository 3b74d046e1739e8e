"""The report of two measured bundles for the person who decides: its parts, and those as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aim_edge.runtime.bench_energy import INSTALL

from .ab import Prices, Row, best, is_measured
from .ab_texts import LANGUAGES, TEXTS

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One part of the report; backticks in lines are Markdown's.

    Attributes:
        key: "what", "figures", "costs" or "assumed".
        heading: above it.
        items: a list, which comes first.
        heads: of the table, which comes next; () for none.
        rows: of the table.
        lines: paragraphs, which come last.
    """

    key: str
    heading: str
    items: Sequence[str] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()


def describe_ab(
    a: Report, b: Report, rows: list[Row], prices: Prices, language: str, files: tuple[str, str] | None = None
) -> tuple[str, list[Section]]:
    """What every format says.

    Args:
        a: the report of `aim-edge bench` for A; b: for B.
        rows: of `compare_costs`.
        prices: that they were made with.
        language: one of LANGUAGES.
        files: where both reports lie, to be named; None leaves that out.

    Returns:
        Title and sections.

    Raises:
        ValueError: another language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    text = TEXTS[language]
    title = text["title"].format(a=a["bundle"]["name"], b=b["bundle"]["name"])
    heads = text["columns"].split("|")
    energy = any(side.joules is not None for row in rows for side in (row.a, row.b))
    heads += text["energy_columns"].split("|") if energy else []
    memory = any(side.device_bytes for row in rows for side in (row.a, row.b))
    figures = Section(
        "figures", text["figures"], heads=heads, rows=[_figures(row, energy) for row in rows],
        lines=[*([] if memory else [text["no_memory"]]), *_energy(a, b, rows, text)],
    )  # fmt: skip
    costs = Section(
        "costs", f"{text['costs']} ({prices.currency})", heads=text["cost_columns"].split("|"),
        rows=[_costs(row, prices, text) for row in rows], lines=_verdict(rows, prices, text),
    )  # fmt: skip
    assumed = Section("assumed", text["assumed"], items=_assumed(rows, prices, text), lines=[text["left_out"]])
    return title, [_what(a, b, rows, text, files), figures, costs, assumed]


def render_ab(
    a: Report, b: Report, rows: list[Row], prices: Prices, language: str, files: tuple[str, str] | None = None
) -> str:
    """Markdown; arguments and errors as `describe_ab`."""
    title, sections = describe_ab(a, b, rows, prices, language, files)
    blocks = [f"# {title}"]
    for section in sections:
        blocks.append(f"## {section.heading}")
        if section.items:
            blocks.append("\n".join(f"- {item}" for item in section.items))
        if section.heads:
            table = (section.heads, ["---:"] * len(section.heads), *section.rows)
            blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
        blocks += section.lines
    return "\n\n".join(blocks) + "\n"


def _what(a: Report, b: Report, rows: list[Row], text: Mapping[str, str], files: tuple[str, str] | None) -> Section:
    runs = {"a_runs": a["settings"]["repeats"], "b_runs": b["settings"]["repeats"]}
    gpu = a["machine"]["gpu"] or a["machine"]["cpu"]
    items = [
        text["side"].format(side=side, description=one["backend"]["description"], **one["bundle"])
        + ("" if files is None else text["file"].format(file=files["AB".index(side)]))
        for side, one in (("A", a), ("B", b))
    ]
    lines = [text["same"].format(gpu=gpu, part=text[rows[0].part], **runs)]
    drawn = [(one["bundle"]["dims"]["num_tokens"], one["bundle"]["dims"]["vocab_size"]) for one in (a, b)]
    if drawn[0] != drawn[1]:
        named = zip(("a_codes", "a_vocabulary", "b_codes", "b_vocabulary"), (*drawn[0], *drawn[1]), strict=True)
        lines.append(text["differ"].format(**dict(named)))
    compared = [row.batch for row in rows]
    others = [
        text["not_run" if one.get("not_run") else "other"].format(
            side=side, batch=one["batch"], reason=one.get("not_run")
        )
        for side, report in (("A", a), ("B", b))
        for one in report["batches"]
        if one["batch"] not in compared
    ]
    if others:
        lines.append(text["batches"].format(compared=", ".join(map(str, compared)), others="; ".join(others)))
    return Section("what", text["what"], items=items, lines=lines)


def _figures(row: Row, energy: bool) -> list[str]:
    sides = (row.a, row.b)
    cells = [str(row.batch), *(f"{side.seconds:.4g}" for side in sides)]
    cells += [*(f"{side.images_per_second:.4g}" for side in sides), f"{row.speedup:.2f}x"]
    cells += [f"{side.device_bytes / 1e6:.0f}" if side.device_bytes else "-" for side in sides]
    return cells + (["-" if side.joules is None else f"{side.joules:.4g}" for side in sides] if energy else [])


def _energy(a: Report, b: Report, rows: list[Row], text: Mapping[str, str]) -> list[str]:
    """Where the joules come from, and for which side they are missing and why."""
    sides = {"A": (a, [row.a for row in rows]), "B": (b, [row.b for row in rows])}
    sources: list[str] = []
    absent: dict[str, list[str]] = {}
    for side, (report, measured) in sides.items():
        told = report.get("energy")
        if any(one.joules is not None for one in measured) and told is not None:
            sources.append(told["source"])
        if any(one.joules is None for one in measured):
            old = text["energy_old"].format(install=INSTALL)
            reason = old if told is None else told["reason"] or text["energy_short"]
            absent.setdefault(reason, []).append(side)
    lines = [text["energy_measured"].format(source="; ".join(dict.fromkeys(sources)))] if sources else []
    return lines + [
        text["energy_absent"].format(sides=", ".join(names), reason=reason) for reason, names in absent.items()
    ]


def _costs(row: Row, prices: Prices, text: Mapping[str, str]) -> list[str]:
    sides = (row.a, row.b)
    cells = [str(row.batch), *(f"{side.thousand:.4g}" for side in sides)]
    cells += ["-" if side.gpus is None else str(side.gpus) for side in sides]
    cells += ["-" if side.yearly is None else f"{side.yearly:,.0f}" for side in sides]
    if prices.switch_cost is None:
        return [*cells, "-"]
    months = row.months_to_earn(prices.switch_cost)
    return [*cells, text["never"] if months is None else text["months"].format(months=months)]


def _verdict(rows: list[Row], prices: Prices, text: Mapping[str, str]) -> list[str]:
    in_a, in_b = best(rows, "a"), best(rows, "b")
    a, b = in_a.a.thousand, in_b.b.thousand
    cheapest = {"a": a, "b": b, "a_batch": in_a.batch, "b_batch": in_b.batch, "currency": prices.currency}
    verdict = "verdict_same" if f"{a:.3g}" == f"{b:.3g}" else "verdict_b" if b < a else "verdict_a"
    return [text["cheapest"].format(**cheapest), text[verdict].format(percent=100 * abs(b / a - 1))]


def _assumed(rows: list[Row], prices: Prices, text: Mapping[str, str]) -> list[str]:
    names = ["gpu_hour"]
    if prices.kwh is None:
        names.append("no_power")
    elif is_measured(rows):
        names += ["power_measured", *(["watts_unused"] if prices.watts is not None else [])]
    else:
        names.append("power_given")
    names.append("utilisation")
    names += [name for name, given in (("load", prices.load), ("switch", prices.switch_cost)) if given is not None]
    return [text[name].format(**vars(prices)) for name in names]
