"""`aim-edge ab`: costs by hand-made figures, both languages, and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from aim_edge.cli import main
from aim_edge.export.ab import Prices, Row, best, compare_costs
from aim_edge.export.ab_report import render_ab


def report(name: str, rates: dict[int, float], part: str = "generate", gpu: str = "GPU X") -> dict[str, Any]:
    """As `aim-edge bench` writes it, what `ab` reads of it."""
    batches = [
        {"batch": batch, "tokens": None, "pixels": None, "generate": None, "memory": {"by_use": {"states": 3_000_000}}}
        | {part: {"median": batch / rate, "images_per_second": rate}}
        for batch, rate in rates.items()
    ]
    dims = {"image_channels": 3, "image_height": 64, "image_width": 64}
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
     ({"load": 0}, "load is 0"), ({"utilisation": 1.5}, "utilisation is 1.5"), ({"watts": None}, "need both"),
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
