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
from aim_edge.export.ab import Prices, Row, best, compare_costs, is_measured
from aim_edge.export.ab_html import render_ab_html
from aim_edge.export.ab_report import render_ab


def report(name: str, rates: dict[int, float], part: str = "generate", gpu: str = "GPU X") -> dict[str, Any]:
    """As `aim-edge bench` writes it, what `ab` reads of it."""
    batches = [
        {"batch": batch, "tokens": None, "pixels": None, "generate": None, "memory": {"by_use": {"states": 3_000_000}}}
        | {part: {"median": batch / rate, "images_per_second": rate}}
        for batch, rate in rates.items()
    ]
    dims = {"image_channels": 3, "image_height": 64, "image_width": 64, "num_tokens": 256, "vocab_size": 16384}
    return {
        "format": "aim-edge-bench", "schema_version": 1, "machine": {"gpu": gpu, "cpu": "C"},
        "bundle": {"name": name, "lowering": "plugin", "precision": "float16", "dims": dims},
        "backend": {"description": "Engine 1"}, "settings": {"repeats": 5}, "batches": batches,
    }  # fmt: skip


A, B = report("old", {1: 2.0, 64: 10.0}), report("new", {1: 4.0, 64: 50.0, 256: 60.0})
PRICES = Prices(3.6, load=100, utilisation=0.5, watts=500, kwh=0.8, switch_cost=1000)


def rows(**changes: Any) -> list[Row]:
    return compare_costs(A, B, Prices(**(vars(PRICES) | changes)))


def test_costs() -> None:
    """An hour costs 3.6 + 0.5 * 0.8 = 4; at half of 10 images/s a thousand images take 200 s."""
    one, many = rows()
    assert (one.batch, many.batch, many.part) == (1, 64, "generate")  # 256 is in B alone
    assert many.speedup == pytest.approx(5)
    assert many.a.seconds == pytest.approx(6.4)
    assert many.a.thousand == pytest.approx(200 * 4 / 3600)
    assert (many.a.gpus, many.b.gpus, one.a.gpus) == (20, 4, 100)
    assert many.a.yearly == pytest.approx(20 * 4 * 8760)
    assert many.months_to_earn(1000) == pytest.approx(12 * 1000 / (16 * 4 * 8760))
    assert many.a.device_bytes == 3_000_000
    assert best([one, many], "b") is many


def test_a_slower_b_never_earns() -> None:
    swapped = compare_costs(B, A, PRICES)
    assert all(row.months_to_earn(1000) is None for row in swapped)
    text = render_ab(B, A, swapped, PRICES, "en")
    assert "| never |" in text
    assert "By cost A wins: with B a thousand images cost 400% more." in text


def test_without_a_load_no_gpus_are_counted() -> None:
    prices = Prices(3.6)
    found = compare_costs(A, B, prices)
    assert found[0].a.gpus is None and found[0].a.yearly is None
    text = render_ab(A, B, found, prices, "en")
    assert "| - | - | - | - | - |" in text
    assert "power is in that price" in text and "load" not in text


def test_tokens_where_one_has_no_pixels() -> None:
    a, b = report("old", {1: 2.0}, "tokens"), report("new", {1: 3.0}, "tokens")
    b["batches"][0]["generate"] = {"median": 1.0, "images_per_second": 1.0}
    assert [row.part for row in compare_costs(a, b, PRICES)] == ["tokens"]


def with_energy(one: dict[str, Any], joules: float) -> dict[str, Any]:
    one = copy.deepcopy(one) | {"energy": {"source": "a meter", "reason": ""}}
    for batch in one["batches"]:
        batch["generate"]["energy"] = {"watts": 1.0, "joules_per_image": joules, "readings": 9}
    return one


def test_measured_energy_is_paid_by_the_image_and_told() -> None:
    """360 J an image are 0.1 kWh a thousand; 100 images/s for a year are 3153.6e6 of them."""
    a, b = with_energy(A, 360.0), with_energy(B, 36.0)
    found = compare_costs(a, b, PRICES)
    many = found[1]
    assert is_measured(found) and many.a.joules == 360
    assert many.a.thousand == pytest.approx(200 * 3.6 / 3600 + 0.1 * 0.8)
    assert many.a.yearly == pytest.approx(20 * 3.6 * 8760 + 3153.6e6 * 1e-4 * 0.8)
    assert compare_costs(a, b, Prices(3.6, kwh=0.8))[1].a.thousand == pytest.approx(200 / 2 * 3.6 / 3600 + 0.1 * 0.8)
    text = render_ab(a, b, found, PRICES, "en")
    for part in ("| 3 | 3 | 360 | 36 |", "energy is paid as measured, at 0.8 USD a kWh", "the 500 W given are not used",
                 "their median (a meter)"):  # fmt: skip
        assert part in text
    assert "not measured" not in text
    without = compare_costs(a, b, Prices(3.6))
    assert without[1].a.thousand == pytest.approx(100 * 3.6 / 3600)
    assert "power is in that price" in render_ab(a, b, without, Prices(3.6), "en")


def test_energy_of_one_side_leaves_both_to_the_watts_given() -> None:
    a = with_energy(A, 360.0)
    found = compare_costs(a, B, PRICES)
    assert not is_measured(found) and found[1].a.thousand == rows()[1].a.thousand
    text = render_ab(a, B, found, PRICES, "en")
    for part in ("| 360 | - |", "draws 500 W as given", "Energy of B: not measured: the report is of a",
                 '`pip install "aim-edge[energy]"`'):  # fmt: skip
        assert part in text
    b = copy.deepcopy(B) | {"energy": {"source": "", "reason": "no GPU"}}
    a = copy.deepcopy(A) | {"energy": {"source": "a meter", "reason": ""}}
    text = render_ab(a, b, rows(), PRICES, "en")
    assert "Energy of A: not measured: at some batch the runs were too short" in text
    assert "Energy of B: not measured: no GPU." in text
    assert "Energy of A, B: not measured: no GPU." in render_ab(b, b, rows(), PRICES, "en")


@pytest.mark.parametrize(("language", "says"), [("en", "Not alike: A draws 256 codes of 16384, B 64 codes of 1024"),
                                                ("ja", "A は語彙 16384 から 256 個、B は語彙 1024 から")])  # fmt: skip
def test_other_codes_and_batches_are_told(language: str, says: str) -> None:
    b = copy.deepcopy(B)
    b["bundle"]["dims"] |= {"num_tokens": 64, "vocab_size": 1024}
    b["batches"][2] |= {"generate": None, "not_run": "tokens: too large"}
    text = render_ab(A, b, compare_costs(A, b, PRICES), PRICES, language)
    assert says in text and "tokens: too large" in text and "1, 64" in text
    assert "16384" not in render_ab(A, B, rows(), PRICES, language)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_says_what_the_markdown_says(language: str) -> None:
    named = copy.deepcopy(A)
    named["bundle"]["name"] = "<old>"
    page = render_ab_html(named, B, rows(), PRICES, language, ("a.json", "b.json"))
    check_page(page)
    assert f'lang="{language}"' in page and page.count("<svg") == 4 and "&lt;old&gt;" in page and "<old>" not in page
    shown = html.unescape(re.sub(r"<[^>]+>", " ", page.replace("<code>", "`").replace("</code>", "`")))
    text = render_ab(named, B, rows(), PRICES, language, ("a.json", "b.json"))
    for line in text.splitlines():
        for part in line.strip("|#- ").split(" | "):
            assert part.strip(" -:|") in shown
    bare = copy.deepcopy(A), copy.deepcopy(B)
    for one in bare:
        for batch in one["batches"]:
            batch["memory"] = None
    found = compare_costs(*bare, PRICES)
    page = render_ab_html(*bare, found, PRICES, language)
    assert page.count("<svg") == 3 and {"en": "Device memory: not measured.", "ja": "未計測"}[language] in page
    assert found[0].a.device_bytes == 0


@pytest.mark.parametrize(
    ("language", "says"),
    [("en", ["# A/B: old against new", "80% less", "50% of the measured throughput", "100 images a second"]),
     ("ja", ["# A/B比較: old と new", "80% 安い", "50%", "毎秒 100 枚"])],
)  # fmt: skip
def test_the_report_tells_figures_verdict_and_assumptions(language: str, says: list[str]) -> None:
    text = render_ab(A, B, rows(), PRICES, language)
    assert [
        part for part in [*says, "| 64 | 6.4 | 1.28 | 10 | 50 | 5.00x | 3 | 3 |", "GPU X"] if part not in text
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
        rows(**changes)


def test_every_bad_price_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"gpu_hour.*utilisation"):
        Prices(-1, utilisation=0)


def test_reports_that_do_not_compare() -> None:
    larger = copy.deepcopy(B)
    larger["bundle"]["dims"]["image_height"] = 256
    for other, message in (
        (report("new", {1: 1.0}, gpu="GPU Y"), "GPU: .*GPU X.*GPU Y"),
        (larger, "images: .*64.*256"),
        (report("new", {8: 1.0}), r"A has \[1, 64\], B has \[8\]"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_costs(A, other, PRICES)
    with pytest.raises(ValueError, match="language is 'fr'"):
        render_ab(A, B, rows(), PRICES, "fr")


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
