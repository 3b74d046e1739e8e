"""`aim-edge ab`: costs by hand-made figures, both languages, and what it refuses."""

from __future__ import annotations

import copy
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_bench import check_page

from aim_edge.cli import main
from aim_edge.export.ab_costs import CostRow, Prices, best, is_measured
from aim_edge.export.ab_html import render_ab_html
from aim_edge.export.ab_report import render_ab
from aim_edge.export.ab_sides import Ab, compare_sides


def report(
    name: str, rates: dict[int, float], part: str = "generate", gpu: str = "GPU X", codes: int = 256,
    spread: float = 0.01,
) -> dict[str, Any]:  # fmt: skip
    """As `aim-edge bench` writes it, what `ab` reads of it; runs lie up to `spread` to both sides of the median."""
    batches = [
        {"batch": batch, "tokens": None, "pixels": None, "generate": None, "memory": {"by_use": {"states": 3_000_000}}}
        | {part: {"median": batch / rate, "images_per_second": rate,
                  "samples": [batch / rate * (1 + spread * i / 2) for i in (-2, -1, 0, 1, 2)]}}
        for batch, rate in rates.items()
    ]  # fmt: skip
    side = int(codes**0.5) * 4
    dims = {"image_channels": 3, "image_height": side, "image_width": side, "num_tokens": codes, "vocab_size": 16384}
    return {
        "format": "aim-edge-bench", "schema_version": 1, "machine": {"gpu": gpu, "cpu": "C"},
        "bundle": {"name": name, "lowering": "plugin", "precision": "float16", "dims": dims},
        "backend": {"description": "Engine 1"}, "settings": {"repeats": 5}, "batches": batches,
    }  # fmt: skip


A, B = report("old", {1: 2.0, 64: 10.0}), report("new", {1: 4.0, 64: 50.0, 256: 60.0})
PRICES = Prices(3.6, load=100, utilisation=0.5, watts=500, kwh=0.8, switch_cost=1000)


def compared(a: dict[str, Any] = A, b: dict[str, Any] = B, **changes: Any) -> Ab:
    return compare_sides([a], [b], Prices(**(vars(PRICES) | changes)), files=(["a.json"], ["b.json"]))


def costs(**changes: Any) -> tuple[CostRow, ...]:
    return compared(**changes).costs


def test_costs() -> None:
    """An hour costs 3.6 + 0.5 * 0.8 = 4; at half of 10 images/s a thousand images take 200 s."""
    found = compared()
    first, row = found.rows
    assert (first.batch, row.codes, row.batch, row.part) == (1, 256, 64, "generate")  # batch 256 is in B alone
    assert row.speedup == pytest.approx(5)
    assert row.a.seconds == pytest.approx(6.4)
    assert row.a.device_bytes == 3_000_000
    one, many = found.costs
    assert (one.batch, many.batch) == (1, 64)
    assert many.a.thousand == pytest.approx(200 * 4 / 3600)
    assert (many.a.gpus, many.b.gpus, one.a.gpus) == (20, 4, 100)
    assert many.a.yearly == pytest.approx(20 * 4 * 8760)
    assert many.months_to_earn(1000) == pytest.approx(12 * 1000 / (16 * 4 * 8760))
    assert best([one, many], "b") is many


def test_a_slower_b_never_earns() -> None:
    swapped = compared(B, A)
    assert all(row.months_to_earn(1000) is None for row in swapped.costs)
    text = render_ab(swapped, "en")
    assert "| never |" in text
    assert "By cost A wins: with B a thousand images cost 400% more." in text


def test_without_a_load_no_gpus_are_counted() -> None:
    found = compare_sides([A], [B], Prices(3.6))
    assert found.costs[0].a.gpus is None and found.costs[0].a.yearly is None
    text = render_ab(found, "en")
    assert "| - | - | - | - | - |" in text
    assert "power is in that price" in text and "load" not in text


def test_tokens_where_one_has_no_pixels() -> None:
    a, b = report("old", {1: 2.0}, "tokens"), report("new", {1: 3.0}, "tokens")
    b["batches"][0]["generate"] = {"median": 1.0, "images_per_second": 1.0, "samples": [1.0]}
    assert [row.part for row in compared(a, b).rows] == ["tokens"]


def with_energy(one: dict[str, Any], joules: float) -> dict[str, Any]:
    one = copy.deepcopy(one) | {"energy": {"source": "a meter", "reason": ""}}
    for batch in one["batches"]:
        batch["generate"]["energy"] = {"watts": 1.0, "joules_per_image": joules, "readings": 9}
    return one


def test_measured_energy_is_paid_by_the_image_and_told() -> None:
    """360 J an image are 0.1 kWh a thousand; 100 images/s for a year are 3153.6e6 of them."""
    a, b = with_energy(A, 360.0), with_energy(B, 36.0)
    found = compared(a, b)
    many = found.costs[1]
    assert is_measured(found.rows) and found.rows[1].a.joules == 360
    assert many.a.thousand == pytest.approx(200 * 3.6 / 3600 + 0.1 * 0.8)
    assert many.a.yearly == pytest.approx(20 * 3.6 * 8760 + 3153.6e6 * 1e-4 * 0.8)
    paid = compare_sides([a], [b], Prices(3.6, kwh=0.8)).costs[1].a.thousand
    assert paid == pytest.approx(200 / 2 * 3.6 / 3600 + 0.1 * 0.8)
    text = render_ab(found, "en")
    for part in ("| 3 | 3 | 360 | 36 |", "energy is paid as measured, at 0.8 USD a kWh", "the 500 W given are not used",
                 "their median (a meter)"):  # fmt: skip
        assert part in text
    assert "not measured" not in text
    without = compare_sides([a], [b], Prices(3.6))
    assert without.costs[1].a.thousand == pytest.approx(100 * 3.6 / 3600)
    assert "power is in that price" in render_ab(without, "en")


def test_energy_of_one_side_leaves_both_to_the_watts_given() -> None:
    a = with_energy(A, 360.0)
    found = compared(a, B)
    assert not is_measured(found.rows) and found.costs[1].a.thousand == costs()[1].a.thousand
    text = render_ab(found, "en")
    for part in ("| 360 | - |", "draws 500 W as given", "Energy of B: not measured: the report is of a",
                 '`pip install "aim-edge[energy]"`'):  # fmt: skip
        assert part in text
    b = copy.deepcopy(B) | {"energy": {"source": "", "reason": "no GPU"}}
    a = copy.deepcopy(A) | {"energy": {"source": "a meter", "reason": ""}}
    text = render_ab(compared(a, b), "en")
    assert "Energy of A: not measured: at some batch the runs were too short" in text
    assert "Energy of B: not measured: no GPU." in text
    assert "Energy of A, B: not measured: no GPU." in render_ab(compared(b, b), "en")


@pytest.mark.parametrize(
    ("language", "says"),
    [("en", "At 256 codes compared: batch 1, 64. Not compared: B's batch 256 (not run: tokens: too large)."),
     ("ja", "符号 256 個で比較したバッチ: 1, 64。比較していないもの: B のバッチ256(実行不可: tokens: too large)。")],
)  # fmt: skip
def test_batches_that_are_not_compared_are_told(language: str, says: str) -> None:
    b = copy.deepcopy(B)
    b["batches"][2] |= {"generate": None, "not_run": "tokens: too large"}
    assert says in render_ab(compared(A, b), language)
    assert render_ab(compared(A, A), language).find("比較していないもの" if language == "ja" else "Not compared") < 0


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_says_what_the_markdown_says(language: str) -> None:
    named = copy.deepcopy(A)
    named["bundle"]["name"] = "<old>"
    page = render_ab_html(compared(named), language)
    check_page(page)
    assert f'lang="{language}"' in page and page.count("<svg") == 4 and "&lt;old&gt;" in page and "<old>" not in page
    shown = html.unescape(re.sub(r"<[^>]+>", " ", page.replace("<code>", "`").replace("</code>", "`")))
    text = render_ab(compared(named), language)
    assert "`a.json`" in text and "`b.json`" in text
    for line in text.splitlines():
        for part in line.strip("|#- ").split(" | "):
            assert part.strip(" -:|") in shown
    bare = copy.deepcopy(A), copy.deepcopy(B)
    for one in bare:
        for batch in one["batches"]:
            batch["memory"] = None
    found = compared(*bare)
    page = render_ab_html(found, language)
    assert page.count("<svg") == 3 and {"en": "Device memory: not measured.", "ja": "未計測"}[language] in page
    assert found.rows[0].a.device_bytes == 0


@pytest.mark.parametrize(
    ("language", "says"),
    [("en", ["# A/B: old against new", "80% less", "50% of the measured throughput", "100 images a second"]),
     ("ja", ["# A/B比較: old と new", "80% 安い", "50%", "毎秒 100 枚"])],
)  # fmt: skip
def test_the_report_tells_figures_verdict_and_assumptions(language: str, says: list[str]) -> None:
    text = render_ab(compared(), language)
    assert [
        part for part in [*says, "| 256 | 64 | 6.4 | 1.28 | 10 | 50 | 5.00x | 3 | 3 |", "GPU X"] if part not in text
    ] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"gpu_hour": 0}, "gpu_hour is 0"), ({"gpu_hour": float("nan")}, "gpu_hour is nan"),
     ({"load": 0}, "load is 0"), ({"utilisation": 1.5}, "utilisation is 1.5"), ({"kwh": None}, "need both"),
     ({"watts": None}, "need both, or energy measured in A and in B, which it was not at batch 1, 64"),
     ({"load": None}, "depends on the load"), ({"switch_cost": -1}, "switch_cost is -1")],
)  # fmt: skip
def test_prices_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(**changes)


def test_every_bad_price_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"gpu_hour.*utilisation"):
        Prices(-1, utilisation=0)


def test_reports_that_do_not_compare() -> None:
    larger = copy.deepcopy(B)
    larger["bundle"]["dims"]["image_height"] = 256
    for other, message in (
        (report("new", {1: 1.0}, gpu="GPU Y"), "GPU: .*GPU X.*GPU Y"),
        (larger, "images of 256 codes: .*64, 64.*256, 64"),
        (report("new", {8: 1.0}), r"A has \[1, 64\] at 256 codes, B has \[8\] at 256 codes"),
    ):
        with pytest.raises(ValueError, match=message):
            compared(A, other)
    with pytest.raises(ValueError, match="language is 'fr'"):
        render_ab(compared(), "fr")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, one in (("a", A), ("b", B)):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    out = tmp_path / "report.md"
    assert main(["ab", *files, "--gpu-hour", "2.5", "--language", "ja", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == out.read_text(encoding="utf-8").strip()
    assert main(["ab", *files, "--gpu-hour", "-1"]) == 2
    assert "gpu_hour is -1" in capsys.readouterr().err
    (tmp_path / "b.json").write_text("{}")
    assert main(["ab", *files, "--gpu-hour", "1"]) == 2
    assert "aim-edge bench --json" in capsys.readouterr().err
