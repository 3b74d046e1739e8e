"""The report of two measured bundles as Markdown, for the person who decides: in English and in Japanese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .ab import Prices, Row, best

LANGUAGES = ("en", "ja")

_EN = {
    "title": "A/B: {a} against {b}",
    "what": "What was compared",
    "same": "GPU: {gpu}. {part}. Both as `aim-edge bench` measured them, medians of {a_runs} (A) and {b_runs} (B).",
    "generate": "Timed: class ids to pixels",
    "tokens": "Timed: codes only, without the image decoder",
    "side": "- {side}: {name}, {lowering}, {precision}, {description}",
    "figures": "Figures by batch",
    "columns": "batch|A, s|B, s|A, images/s|B, images/s|B over A|A, MB|B, MB",
    "costs": "Costs",
    "cost_columns": "batch|A, a thousand|B, a thousand|A, GPUs|B, GPUs|A, a year|B, a year|earned back",
    "never": "never",
    "months": "{months:.1f} months",
    "cheapest": "Cheapest images: A {a:.4g} {currency} a thousand at batch {a_batch}, B {b:.4g} at batch {b_batch}.",
    "verdict_b": "By cost B wins: a thousand images cost {percent:.0f}% less.",
    "verdict_a": "By cost A wins: with B a thousand images cost {percent:.0f}% more.",
    "verdict_same": "By cost neither wins.",
    "assumed": "Assumptions",
    "gpu_hour": "a GPU costs {gpu_hour:g} {currency} an hour, all year",
    "power": "and draws {watts:g} W, at {kwh:g} {currency} a kWh",
    "no_power": "power is in that price",
    "utilisation": "{utilisation:.0%} of the measured throughput is reached in service",
    "load": "the load is {load:g} images a second, whole GPUs",
    "switch": "the change from A to B costs {switch_cost:g} {currency} once",
    "left_out": "Not in here: energy was not measured, and image quality is what `aim-edge quality` says. A latency is "
    "that of a whole batch.",
}
_JA = {
    "title": "A/B比較: {a} と {b}",
    "what": "比較対象",
    "same": "GPU: {gpu}。{part}。いずれも `aim-edge bench` の実測値(中央値、A: {a_runs}回、B: {b_runs}回)。",
    "generate": "計測範囲: クラスIDから画素まで",
    "tokens": "計測範囲: 符号の生成のみ(画像デコーダを除く)",
    "side": "- {side}: {name}、{lowering}、{precision}、{description}",
    "figures": "バッチ別の実測値",
    "columns": "バッチ|A 秒|B 秒|A 枚/秒|B 枚/秒|B÷A|A MB|B MB",
    "costs": "費用",
    "cost_columns": "バッチ|A 千枚あたり|B 千枚あたり|A GPU数|B GPU数|A 年額|B 年額|回収期間",
    "never": "回収不可",
    "months": "{months:.1f}か月",
    "cheapest": "最安: A はバッチ{a_batch}で千枚 {a:.4g} {currency}、B はバッチ{b_batch}で {b:.4g} {currency}。",
    "verdict_b": "費用では B が有利: 千枚あたり {percent:.0f}% 安い。",
    "verdict_a": "費用では A が有利: B は千枚あたり {percent:.0f}% 高い。",
    "verdict_same": "費用に差はない。",
    "assumed": "前提",
    "gpu_hour": "GPU 1台は1時間 {gpu_hour:g} {currency}、通年稼働",
    "power": "消費電力 {watts:g} W、1 kWh あたり {kwh:g} {currency}",
    "no_power": "電力はその単価に含む",
    "utilisation": "実運用では実測スループットの {utilisation:.0%} に達する",
    "load": "負荷は毎秒 {load:g} 枚、GPU は整数台",
    "switch": "A から B への移行費用は一度だけ {switch_cost:g} {currency}",
    "left_out": "対象外: 電力量は未計測。画質は `aim-edge quality` で判定する。待ち時間はバッチ全体のもの。",
}
_TEXTS = {"en": _EN, "ja": _JA}


def render_ab(a: Mapping[str, Any], b: Mapping[str, Any], rows: Sequence[Row], prices: Prices, language: str) -> str:
    """Markdown.

    Args:
        a: the report of `aim-edge bench` for A; b: for B.
        rows: of `compare_costs`.
        prices: that they were made with.
        language: one of LANGUAGES.

    Raises:
        ValueError: another language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}")
    text, values = _TEXTS[language], vars(prices)
    names = {"a": a["bundle"]["name"], "b": b["bundle"]["name"]}
    runs = {"a_runs": a["settings"]["repeats"], "b_runs": b["settings"]["repeats"]}
    gpu = a["machine"]["gpu"] or a["machine"]["cpu"]
    lines = [f"# {text['title'].format(**names)}", "", f"## {text['what']}", ""]
    lines += [text["same"].format(gpu=gpu, part=text[rows[0].part], **runs), ""]
    lines += [
        text["side"].format(side=side, description=one["backend"]["description"], **one["bundle"])
        for side, one in (("A", a), ("B", b))
    ]
    lines += ["", f"## {text['figures']}", "", *_table(text["columns"], [_figures(row) for row in rows])]
    lines += ["", f"## {text['costs']} ({prices.currency})", ""]
    lines += [*_table(text["cost_columns"], [_costs(row, prices, text) for row in rows]), ""]
    lines += [*_verdict(rows, prices, text), "", f"## {text['assumed']}", ""]
    assumed = ["gpu_hour", "no_power" if prices.watts is None else "power", "utilisation"]
    assumed += [name for name, given in (("load", prices.load), ("switch", prices.switch_cost)) if given is not None]
    lines += [f"- {text[name].format(**values)}" for name in assumed]
    return "\n".join([*lines, "", text["left_out"], ""])


def _table(columns: str, rows: Sequence[Sequence[str]]) -> list[str]:
    heads = columns.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---:"] * len(heads), *rows)]


def _figures(row: Row) -> list[str]:
    a, b = row.a, row.b
    memory = [f"{side.device_bytes / 1e6:.0f}" if side.device_bytes else "-" for side in (a, b)]
    rates = [f"{side.images_per_second:.4g}" for side in (a, b)]
    return [str(row.batch), f"{a.seconds:.4g}", f"{b.seconds:.4g}", *rates, f"{row.speedup:.2f}x", *memory]


def _costs(row: Row, prices: Prices, text: Mapping[str, str]) -> list[str]:
    sides = (row.a, row.b)
    cells = [str(row.batch), *(f"{side.thousand:.4g}" for side in sides)]
    cells += ["-" if side.gpus is None else str(side.gpus) for side in sides]
    cells += ["-" if side.yearly is None else f"{side.yearly:,.0f}" for side in sides]
    if prices.switch_cost is None:
        return [*cells, "-"]
    months = row.months_to_earn(prices.switch_cost)
    return [*cells, text["never"] if months is None else text["months"].format(months=months)]


def _verdict(rows: Sequence[Row], prices: Prices, text: Mapping[str, str]) -> list[str]:
    in_a, in_b = best(list(rows), "a"), best(list(rows), "b")
    a, b = in_a.a.thousand, in_b.b.thousand
    cheapest = {"a": a, "b": b, "a_batch": in_a.batch, "b_batch": in_b.batch, "currency": prices.currency}
    verdict = "verdict_same" if f"{a:.3g}" == f"{b:.3g}" else "verdict_b" if b < a else "verdict_a"
    return [text["cheapest"].format(**cheapest), "", text[verdict].format(percent=100 * abs(b / a - 1))]
