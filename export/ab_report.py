"""The report of two measured sides for the person who decides: its parts, and those as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aim_edge.runtime.bench_energy import INSTALL

from .ab import Report, Row, Side, family_of
from .ab_costs import CostRow, best, is_measured
from .ab_sides import Ab
from .ab_texts import LANGUAGES, MODELS, TEXTS

if TYPE_CHECKING:
    from .quality import QualityReport

Text = Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """One part of the report; backticks in lines are Markdown's.

    Attributes:
        key: "what", "verdict", "figures", "costs", "quality" or "assumed".
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


def describe_ab(ab: Ab, language: str) -> tuple[str, list[Section]]:
    """What every format says.

    Args:
        ab: of `compare_sides`.
        language: one of LANGUAGES.

    Returns:
        Title and sections.

    Raises:
        ValueError: another language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    text = TEXTS[language]
    names = {side.lower(): ", ".join(one["bundle"]["name"] for one in reports) for side, reports in ab.sides}
    heads = text["columns"].split("|")
    energy = any(side.joules is not None for row in ab.rows for side in (row.a, row.b))
    heads += text["energy_columns"].split("|") if energy else []
    memory = any(side.device_bytes for row in ab.rows for side in (row.a, row.b))
    figures = Section(
        "figures", text["figures"], heads=heads, rows=[_figures(row, energy) for row in ab.rows],
        lines=[*([] if memory else [text["no_memory"]]), *_energy(ab, text)],
    )  # fmt: skip
    heading = f"{text['costs']} ({ab.prices.currency})"
    costs = Section(
        "costs", heading if len(ab.lengths) == 1 else f"{heading}, {text['at_codes'].format(codes=ab.codes)}",
        heads=text["cost_columns"].split("|"), rows=[_costs(row, ab, text) for row in ab.costs],
        lines=_cheapest(ab, text),
    )  # fmt: skip
    quality = [] if ab.quality is None else [_quality(ab, ab.quality, text)]
    assumed = Section(
        "assumed", text["assumed"], items=_assumed(ab, text), lines=[text["left_out"]] if ab.quality is None else ()
    )
    return text["title"].format(**names), [_what(ab, text), _verdict(ab, text), figures, costs, *quality, assumed]


def render_ab(ab: Ab, language: str) -> str:
    """Markdown; arguments and errors as `describe_ab`."""
    title, sections = describe_ab(ab, language)
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


def _what(ab: Ab, text: Text) -> Section:
    items = []
    for (side, reports), files in zip(ab.sides, ab.files, strict=True):
        for i, one in enumerate(reports):
            told = {"side": side, "codes": _codes(one), "model": MODELS[family_of(one["bundle"])]}
            told |= {key: one["bundle"][key] for key in ("name", "lowering", "precision")}
            line = text["side" if len(reports) == 1 else "side_at"]
            item = line.format(description=one["backend"]["description"], **told)
            items.append(item + (text["file"].format(file=files[i]) if files else ""))
    machine = ab.a[0]["machine"]
    runs = {
        f"{side.lower()}_runs": ", ".join(str(n) for n in sorted({one["settings"]["repeats"] for one in reports}))
        for side, reports in ab.sides
    }
    lines = [text["same"].format(gpu=machine["gpu"] or machine["cpu"], part=text[ab.rows[0].part], **runs)]
    lines += [text["alone"].format(side=side, codes=codes) for side, codes in ab.alone]
    paired = [{_codes(one): one for one in reports} for _, reports in ab.sides]
    rows = []
    for codes in sorted(paired[0].keys() & paired[1].keys()):
        pair = [reports[codes] for reports in paired]
        lines += _not_compared(codes, pair, [row.batch for row in ab.at(codes)], text)
        sizes = [one["bundle"].get(key) for key in ("weight_bytes", "state_bytes_per_image") for one in pair]
        dims, cells = pair[0]["bundle"]["dims"], ["-" if size is None else f"{size / 1e6:.4g}" for size in sizes]
        rows.append([str(codes), f"{dims['image_width']} x {dims['image_height']}", *cells])
    return Section("what", text["what"], items, text["length_columns"].split("|"), rows, lines)


def _not_compared(codes: int, pair: Sequence[Report], compared: Sequence[int], text: Text) -> list[str]:
    others = [
        text["not_run" if one.get("not_run") else "other"].format(
            side=side, batch=one["batch"], reason=one.get("not_run")
        )
        for side, report in zip("AB", pair, strict=True)
        for one in report["batches"]
        if one["batch"] not in compared
    ]
    told = ", ".join(map(str, compared)) or text["none"]
    return [text["batches"].format(codes=codes, compared=told, others="; ".join(others))] if others else []


def _verdict(ab: Ab, text: Text) -> Section:
    """Who is faster where, and where nobody can tell."""
    models = {side.lower(): MODELS[family_of(reports[0]["bundle"])] for side, reports in ab.sides}
    alike = models["a"] == models["b"]
    names = {side: side.upper() if alike else f"{side.upper()} ({model})" for side, model in models.items()}
    rows = []
    for row in ab.rows:
        faster = text["neither"] if row.faster is None else names[row.faster]
        by = f"{max(row.speedup, 1 / row.speedup):.2f}x"
        if row.faster is None and row.speedup != 1:  # what the medians say, which is not enough
            by = f"({'B' if row.speedup > 1 else 'A'} {by})"
        how = text["one_run" if row.apart is None else "apart" if row.apart else "overlap"]
        rows.append([str(row.codes), str(row.batch), faster, by, _seconds(row.a), _seconds(row.b), how])
    lines = []
    for side, name in names.items():
        won = [row for row in ab.rows if row.faster == side]
        lines.append(text["wins" if won else "wins_nowhere"].format(side=name, places=_places(won, text)))
    undecided = [row for row in ab.rows if row.faster is None]
    lines += [text["undecided"].format(places=_places(undecided, text))] if undecided else []
    intervals = [side.interval for row in ab.rows for side in (row.a, row.b)]
    coverage = [interval.coverage for interval in intervals if interval is not None]
    lines += [text["intervals"].format(coverage=min(coverage))] if coverage else []
    lines += [text["no_intervals"]] if None in intervals else []
    return Section("verdict", text["verdict"], heads=text["verdict_columns"].split("|"), rows=rows, lines=lines)


def _seconds(side: Side) -> str:
    interval = "" if side.interval is None else f" ({side.interval.low:.4g} .. {side.interval.high:.4g})"
    return f"{side.seconds:.4g}{interval}"


def _places(rows: Sequence[Row], text: Text) -> str:
    lengths = dict.fromkeys(row.codes for row in rows)
    batches = {codes: ", ".join(str(row.batch) for row in rows if row.codes == codes) for codes in lengths}
    return "; ".join(text["place"].format(codes=codes, batches=told) for codes, told in batches.items())


def _codes(report: Report) -> int:
    return int(report["bundle"]["dims"]["num_tokens"])


def _figures(row: Row, energy: bool) -> list[str]:
    sides = (row.a, row.b)
    cells = [str(row.codes), str(row.batch), *(f"{side.seconds:.4g}" for side in sides)]
    cells += [*(f"{side.images_per_second:.4g}" for side in sides), f"{row.speedup:.2f}x"]
    cells += [f"{side.device_bytes / 1e6:.0f}" if side.device_bytes else "-" for side in sides]
    return cells + (["-" if side.joules is None else f"{side.joules:.4g}" for side in sides] if energy else [])


def _energy(ab: Ab, text: Text) -> list[str]:
    """Where the joules come from, and for which side they are missing and why."""
    sources: list[str] = []
    absent: dict[str, list[str]] = {}
    for side, reports in ab.sides:
        for report in reports:
            told, rows = report.get("energy"), ab.at(_codes(report))
            joules = [getattr(row, side.lower()).joules for row in rows]
            if any(one is not None for one in joules) and told is not None:
                sources.append(told["source"])
            if None in joules:
                old = text["energy_old"].format(install=INSTALL)
                reason = old if told is None else told["reason"] or text["energy_short"]
                absent.setdefault(reason, []).append(side)
    lines = [text["energy_measured"].format(source="; ".join(dict.fromkeys(sources)))] if sources else []
    return lines + [
        text["energy_absent"].format(sides=", ".join(dict.fromkeys(names)), reason=reason)
        for reason, names in absent.items()
    ]


def _costs(row: CostRow, ab: Ab, text: Text) -> list[str]:
    sides = (row.a, row.b)
    cells = [str(row.batch), *(f"{side.thousand:.4g}" for side in sides)]
    cells += ["-" if side.gpus is None else str(side.gpus) for side in sides]
    cells += ["-" if side.yearly is None else f"{side.yearly:,.0f}" for side in sides]
    if ab.prices.switch_cost is None:
        return [*cells, "-"]
    months = row.months_to_earn(ab.prices.switch_cost)
    return [*cells, text["never"] if months is None else text["months"].format(months=months)]


def _cheapest(ab: Ab, text: Text) -> list[str]:
    in_a, in_b = best(ab.costs, "a"), best(ab.costs, "b")
    a, b = in_a.a.thousand, in_b.b.thousand
    cheapest = {"a": a, "b": b, "a_batch": in_a.batch, "b_batch": in_b.batch, "currency": ab.prices.currency}
    verdict = "cost_same" if f"{a:.3g}" == f"{b:.3g}" else "cost_b" if b < a else "cost_a"
    return [text["cheapest"].format(**cheapest), text[verdict].format(percent=100 * abs(b / a - 1))]


def _quality(ab: Ab, found: QualityReport, text: Text) -> Section:
    words = dict(word.split("=") for word in text["words"].split("|"))
    rows = []
    for row in found.rows:
        said = words[row.verdict] if row.verdict else ""
        for i, (key, figure) in enumerate(row.figures.items()):
            ends = "" if figure.low is None or figure.high is None else f"{figure.low:.4g} .. {figure.high:.4g}"
            limit = row.chance if row.chance is not None else row.margin
            last = i == len(row.figures) - 1
            same = f"{limit:.4g}" if last and limit is not None else ""
            rows.append(["" if i else row.name, key, f"{figure.value:.4g}", ends, same, said if last else ""])
    lines = [text["quality_how"].format(n=found.n)]
    lines += [] if found.reference_n is None else [text["quality_reference"].format(n=found.reference_n)]
    lines.append(text[f"quality_{found.verdict}"])
    heading = text["quality"]
    if len(ab.lengths) > 1:
        heading += f", {text['at_codes'].format(codes=ab.codes)}"
    return Section("quality", heading, heads=text["quality_columns"].split("|"), rows=rows, lines=lines)


def _assumed(ab: Ab, text: Text) -> list[str]:
    names, prices = ["gpu_hour"], ab.prices
    if prices.kwh is None:
        names.append("no_power")
    elif is_measured(ab.at(ab.codes)):
        names += ["power_measured", *(["watts_unused"] if prices.watts is not None else [])]
    else:
        names.append("power_given")
    names.append("utilisation")
    names += [name for name, given in (("load", prices.load), ("switch", prices.switch_cost)) if given is not None]
    return [text[name].format(**vars(prices)) for name in [*names, "latency"]]
