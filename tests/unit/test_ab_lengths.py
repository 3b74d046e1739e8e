"""`aim-edge ab` over numbers of codes: pairing, intervals, who is faster where, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from test_ab import report
from test_bench import check_page

from aim_edge.export.ab import median_interval, pair_lengths
from aim_edge.export.ab_costs import Prices
from aim_edge.export.ab_html import render_ab_html
from aim_edge.export.ab_report import render_ab
from aim_edge.export.ab_sides import Ab, compare_sides
from aim_edge.export.quality import Figure, Paired, QualityReport, Row, Settings

PRICES = Prices(3.6)


def of(family: str, codes: int, rates: dict[int, float], **more: Any) -> dict[str, Any]:
    found = report(f"{family}-{codes}", rates, codes=codes, **more)
    found["bundle"] |= {"family": family, "state_bytes_per_image": 1_000_000 * (codes if family == "gpt" else 20)}
    found["bundle"]["weight_bytes"] = 7_000_000 if family == "aim" else None
    return found


# The Transformer wins at 256 codes and batch 1; at batch 64 the intervals overlap; AiM wins at 1024.
AIM = [of("aim", 256, {1: 10.0, 64: 100.0}), of("aim", 1024, {1: 2.5, 64: 25.0}), of("aim", 4096, {1: 0.6})]
GPT = [of("gpt", 1024, {1: 2.0, 64: 10.0, 8: 9.0}), of("gpt", 256, {1: 12.0, 64: 101.0}), of("gpt", 576, {1: 4.0})]


def both(**more: Any) -> Ab:
    return compare_sides(AIM, GPT, PRICES, **more)


def test_bundles_are_paired_by_their_codes() -> None:
    found = pair_lengths([one["bundle"] for one in AIM], [one["bundle"] for one in GPT])
    assert found.pairs == ((256, 0, 1), (1024, 1, 0))
    assert found.alone == (("B", 576), ("A", 4096))
    rows = both().rows
    assert [(row.codes, row.batch) for row in rows] == [(256, 1), (256, 64), (1024, 1), (1024, 64)]
    assert [row.faster for row in rows] == ["b", None, "a", "a"]
    assert [row.apart for row in rows] == [True, False, True, True]
    assert rows[0].speedup == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"),
    [(2, 0, 1, 0.5), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (9, 1, 7, 1 - 20 / 512), (20, 5, 14, 0.9586)],
)
def test_an_interval_of_a_median(n: int, low: int, high: int, coverage: float) -> None:
    """Binomial tables: of 20 runs the 6th and the 15th hold the median with 95.9%."""
    found = median_interval([float((7 * i) % n if math.gcd(7, n) == 1 else i) for i in range(n)])
    assert found is not None and (found.low, found.high) == (low, high)
    assert found.coverage == pytest.approx(coverage, abs=1e-4)
    assert median_interval([1.0]) is None


def test_one_run_has_no_interval() -> None:
    a, b = of("aim", 256, {1: 1.0}), of("gpt", 256, {1: 2.0})
    b["batches"][0]["generate"]["samples"] = [0.5]
    found = compare_sides([a], [b], PRICES)
    assert found.rows[0].apart is None and found.rows[0].faster == "b"
    text = render_ab(found, "en")
    assert "| one run |" in text and "Where a side had one run there is no interval" in text


@pytest.mark.parametrize(
    ("language", "says"),
    [
        ("en", [
            "| 256 | 1 | B (Transformer) | 1.20x | 0.1 (0.099 .. 0.101) | 0.08333 (0.0825 .. 0.08417) | apart |",
            "| 256 | 64 | neither | (B 1.01x) |", "| 1024 | 64 | A (AiM) | 2.50x |",
            "A (AiM) is faster at: 1024 codes (batch 1, 64).", "B (Transformer) is faster at: 256 codes (batch 1).",
            "as the intervals overlap: 256 codes (batch 64).", "at least 94%",
            "Not compared: 576 codes, of which only B has a bundle.",
            "Not compared: 4096 codes, of which only A has a bundle.",
            "At 1024 codes compared: batch 1, 64. Not compared: B's batch 8.",
            "A, 256 codes: aim-256, AiM, plugin, float16, Engine 1", "| 1024 | 128 x 128 | 7 | - | 20 | 1024 |",
            "## Costs (USD), 256 codes",
        ]),
        ("ja", [
            "| 256 | 1 | B (Transformer) | 1.20x |", "| 256 | 64 | 判定不能 | (B 1.01x) |",
            "| 重ならない |", "| 重なる |",
            "A (AiM) が速い条件: 符号 1024 個(バッチ 1, 64)。", "B (Transformer) が速い条件: 符号 256 個(バッチ 1)。",
            "判定できない条件: 符号 256 個(バッチ 64)。", "94% 以上の確率",
            "比較なし: 符号 576 個(バンドルがあるのは B のみ)。", "## 費用 (USD), 符号 256 個", "## どちらが速いか",
        ]),
    ],
)  # fmt: skip
def test_the_report_says_who_wins_where(language: str, says: list[str]) -> None:
    text = render_ab(both(), language)
    assert [part for part in says if part not in text] == []
    page = render_ab_html(both(), language)
    check_page(page)
    assert f'lang="{language}"' in page
    # Three figures over codes and three over batches, and the costs.
    assert page.count("<svg") == 7 and page.count("stroke-dasharray") > 6
    for plot in re.findall(r"<svg.*?</svg>", page, re.DOTALL)[:3]:
        assert plot.count("<polyline") == 2 * 2  # both sides at batch 1 and 64
        assert ">codes<" in plot or ">符号数<" in plot


def test_a_side_that_wins_nowhere_is_told() -> None:
    a, b = of("aim", 256, {1: 1.0}), of("gpt", 256, {1: 2.0})
    text = render_ab(compare_sides([a], [b], PRICES), "en")
    assert "A (AiM) is faster nowhere." in text and "B (Transformer) is faster at: 256 codes (batch 1)." in text
    text = render_ab(compare_sides([a], [a], PRICES), "en")
    assert "A is faster nowhere." in text and "B is faster nowhere." in text and "(AiM)" not in text


def test_costs_are_of_the_pair_that_is_named() -> None:
    found = both(codes=1024)
    assert [row.a.thousand for row in found.costs] == pytest.approx([1000 / 2.5 * 3.6 / 3600, 1000 / 25 * 3.6 / 3600])
    assert "## Costs (USD), 1024 codes" in render_ab(found, "en")
    assert both().codes == 256 and compare_sides(AIM[1:], GPT, PRICES).codes == 1024
    with pytest.raises(ValueError, match="codes is 4096; compared are 256, 1024"):
        both(codes=4096)
    kwh = Prices(3.6, kwh=0.2)
    measured = copy.deepcopy(AIM), copy.deepcopy(GPT)
    for one in (measured[0][0], measured[1][1]):  # energy at 256 codes alone
        one["energy"] = {"source": "a meter", "reason": ""}
        for batch in one["batches"]:
            batch["generate"]["energy"] = {"joules_per_image": 360.0}
    text = render_ab(compare_sides(*measured, kwh), "en")
    assert "energy is paid as measured" in text and "Energy of A, B: not measured" in text
    with pytest.raises(ValueError, match="it was not at batch 1, 64"):
        compare_sides(*measured, kwh, codes=1024)


def test_all_rows_are_of_one_part() -> None:
    """Pixels at 256 codes alone: both lengths are then compared by their tokens."""
    a, b = copy.deepcopy(AIM[:2]), copy.deepcopy(GPT[:2])
    for one in (*a, *b):
        for batch in one["batches"]:
            batch["tokens"] = batch["generate"]
            if one["bundle"]["dims"]["num_tokens"] == 1024:
                batch["generate"] = None
    found = compare_sides(a, b, PRICES)
    assert {row.part for row in found.rows} == {"tokens"} and found.lengths == [256, 1024]


def test_what_does_not_compare_is_refused() -> None:
    vocabulary, size, other = (copy.deepcopy(GPT[1]) for _ in range(3))
    vocabulary["bundle"]["dims"]["vocab_size"] = 1024
    size["bundle"]["dims"]["image_height"] = 256
    other["machine"]["gpu"] = "GPU Y"
    for b, message in (
        ([vocabulary], "vocabulary at 256 codes: 16384 in A and 1024 in B"),
        ([size], r"images of 256 codes: \[3, 64, 64\] in A and \[3, 256, 64\] in B"),
        ([GPT[2]], r"codes: \[256, 1024, 4096\] in A and \[576\] in B; no number of codes is in both"),
        ([GPT[0], GPT[1], GPT[1]], "B has 256 codes twice: gpt-256 and gpt-256"),
        ([GPT[0], AIM[0]], "B has bundles of the families aim and gpt; expected one family a side"),
        ([GPT[0], other], "GPU: 'GPU X' in A and 'GPU X' in B and 'GPU Y' in B"),
        ([of("gpt", 256, {8: 1.0})], r"A has \[1, 64\] at 256 codes, B has \[8\] at 256 codes"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_sides(AIM, b, PRICES)
    elsewhere = copy.deepcopy(GPT[2])  # the vocabulary of a length that is not compared does not matter
    elsewhere["bundle"]["dims"]["vocab_size"] = 7
    assert compare_sides(AIM, [GPT[1], elsewhere], PRICES).alone == (("B", 576), ("A", 1024), ("A", 4096))


@pytest.mark.parametrize(("language", "says"), [("en", "B's images are farther from the reference than A's."),
                                                ("ja", "B の画像は A より参照画像から遠い。")])  # fmt: skip
@pytest.mark.parametrize("verdict", ["same", "better", "worse", "different", "can't tell"])
def test_quality_is_told(language: str, says: str, verdict: Any) -> None:
    row = Row("vq-frechet", {"A-R": Figure(1.5), "difference": Figure(2.5, 1.0, 4.0)}, margin=0.5, verdict=verdict)
    paired = Paired(4, 0, (1.0, 2.0, 3.0), 0.9)
    found = both(quality=QualityReport(verdict, "why", 200, 100, (row,), paired, (), Settings()))
    text = render_ab(found, language)
    assert "|  | difference | 2.5 | 1 .. 4 | 0.5 |" in text and "--quality" not in text
    assert (says in text) == (verdict == "worse")
    check_page(render_ab_html(found, language))
    assert json.loads(json.dumps(found.to_dict()))["quality"]["verdict"] == verdict


def test_command(tmp_path: Path, run: Run) -> None:
    """In A's order: the costs are of the pair that A names first."""
    files = {}
    for name, reports in (("a", AIM), ("b", GPT)):
        for one in reports:
            file = tmp_path / f"{name}{one['bundle']['dims']['num_tokens']}.json"
            file.write_text(json.dumps(one))
            files[file.stem] = str(file)
    a, b = f"{files['a1024']},{files['a256']},{files['a4096']}", f"{files['b256']},{files['b1024']}"
    json_file = tmp_path / "ab.json"
    status, said, told = run("ab", a, b, "--gpu-hour", 3.6, "--json", json_file, "--html", tmp_path / "ab.html")
    assert status == 0, told
    assert "## Costs (USD), 1024 codes" in said and "`b256.json`" in said
    assert "Not compared: 4096 codes, of which only A has a bundle." in said
    found = json.loads(json_file.read_text())
    assert (found["format"], found["codes"], found["alone"]) == ("aim-edge-ab", 1024, [["A", 4096]])
    assert [(row["codes"], row["batch"], row["faster"]) for row in found["rows"]] == [
        (256, 1, "b"), (256, 64, None), (1024, 1, "a"), (1024, 64, "a")
    ]  # fmt: skip
    assert found["sides"]["B"][1] == {"name": "gpt-256", "family": "gpt", "codes": 256, "file": "b256.json"}
    assert "## Costs (USD), 256 codes" in run("ab", a, b, "--gpu-hour", 3.6, "--codes", 256)[1]
    for arguments, message in (
        ((a, b, "--codes", 4096), "--codes is 4096; compared are 256, 1024"),
        ((a + ",", b), "expected a path, or several with commas"),
        (("", b), "A is ''; expected a path"),
        ((a, b, "--no-pixels"), "--pixels: only bundles are measured here"),
        ((a, b, "--reference", tmp_path), "--reference is for --quality N"),
        ((a, b, "--quality", 100), "of bundles only; A is"),
        ((a, b, "--json", files["b256"]), "give another name"),
        ((f"{a},{files['a256']}", b), "A has 256 codes twice"),
    ):
        status, _, told = run("ab", *arguments, "--gpu-hour", 1)
        assert status == 2 and message in told, told
