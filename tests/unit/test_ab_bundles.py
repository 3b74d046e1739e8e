"""`aim-edge ab` on bundles: measured as `bench` does it, kept, and refused before anything is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import Run
from fake_nvml import FakeNvml
from test_bench import check_page
from toy_bundle import DIMS, make_bundle
from trt_case import Make, make_case  # noqa: F401

from aim_edge.runtime.bench_figures import read_report

PRICE = ("--gpu-hour", 2)
T = DIMS.num_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 4096)
    monkeypatch.setattr("aim_edge.runtime.bench_energy.LEAST_READINGS", 1)


def test_two_bundles_then_a_report_and_one(folder: Path, tmp_path: Path, run: Run) -> None:
    out, html = tmp_path / "x.md", tmp_path / "x.html"
    measure = ("--batch", "1,2", "--repeats", 1)
    status, said, told = run("ab", folder, folder, *PRICE, *measure, "--out", out, "--html", html)
    assert status == 0, told
    first, last = told.index("A: batch 2: generate"), told.index("B: batch 1: tokens")
    assert first < last and "layers" not in told and "first image" not in told
    a, b = tmp_path / "x_a.json", tmp_path / "x_b.json"
    for file in (a, b):
        kept = read_report(file)
        assert kept["settings"]["batches"] == [1, 2] and kept["settings"]["repeats"] == 1
        assert kept["settings"]["warmup"] == 1 and kept["backend"]["name"] == "ort-cpu"
    assert "`x_a.json`" in said and "`x_b.json`" in said and "Not compared" not in said
    check_page(html.read_text(encoding="utf-8"))
    again = tmp_path / "again.md"
    assert run("ab", a, b, *PRICE, "--out", again)[0] == 0
    assert again.read_text(encoding="utf-8") == out.read_text(encoding="utf-8") == said[:-1]

    status, said, told = run("ab", a, folder, *PRICE, "--batch", "2,3", "--repeats", 1, "--html", tmp_path / "y.html")
    assert status == 0, told
    assert f"At {T} codes compared: batch 2. Not compared: A's batch 1; B's batch 3." in said and "A: " not in told
    assert read_report(tmp_path / "y_b.json")["batches"][1]["batch"] == 3 and not (tmp_path / "y_a.json").exists()

    for arguments, message in (
        ((a, folder, "--batch", "7", "--out", out), "has batches [1, 2]; [7] are asked for"),
        ((a, b, "--batch", "1", "--repeats", 2), "--batch, --repeats: only bundles are measured here"),
        ((folder, a, "--out", tmp_path / "x.md"), "x_a.json is to be written and is what was given"),
    ):
        status, _, told = run("ab", *arguments, *PRICE)
        assert status == 2 and message in told and "tokens (" not in told
    changed = json.loads(a.read_text())
    changed["bundle"]["dims"]["image_height"] = 99
    a.write_text(json.dumps(changed))
    status, _, told = run("ab", a, folder, *PRICE, "--batch", "2", "--out", tmp_path / "y.md")
    assert status == 2 and "tokens (" not in told
    assert f"images of {T} codes: [3, 99, 9] in A and [3, 12, 9] in B" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "nowhere/x.md"], "there is no folder"),
        (["--html", "nowhere/x.html"], "there is no folder"),
        ([], "A is a bundle, whose report is kept beside --out or --html"),
        (["--batch", "1,x", "--out", "{}/x.md"], "--batch is '1,x'; expected integers"),
        (["--batch", "", "--out", "{}/x.md"], "--batch is ''; expected integers"),
        (["--batch", "0", "--out", "{}/x.md"], "allowed: integers >= 1, each once"),
        (["--backend", "cuda", "--out", "{}/x.md"], "backend is 'cuda'; known"),
        (["--language", "fr", "--out", "{}/x.md"], "--language is 'fr'; expected one of en, ja"),
        (["--repeats", "0", "--out", "{}/x.md"], "--repeats"),
    ],
)
def test_bad_arguments(folder: Path, tmp_path: Path, arguments: list[str], message: str, run: Run) -> None:
    status, _, told = run("ab", folder, folder, *PRICE, *(text.format(tmp_path) for text in arguments))
    assert status == 2 and message in told and "Traceback" not in told and "tokens (" not in told
    assert list(tmp_path.iterdir()) == []


def test_neither_a_report_nor_a_bundle(folder: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.json").write_text('{"format": "other"}')
    for name, message in (("empty", "empty, which is a folder without manifest.json"), ("none", "which is not there"),
                          ("b.json", "B is neither a bundle's folder nor a report")):  # fmt: skip
        status, _, told = run("ab", folder, tmp_path / name, *PRICE, "--out", tmp_path / "x.md")
        assert status == 2 and message in told and "aim-edge bench --json" in told and "tokens (" not in told
    status, _, told = run("ab", "demo", folder, *PRICE, "--out", tmp_path / "x.md")
    assert status == 2 and "first: aim-edge export demo" in told


def test_a_gpus_energy_is_paid_and_what_did_not_run_is_told(
    make: Make, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    root, out, html = make().root, tmp_path / "x.md", tmp_path / "x.html"
    status, said, told = run("ab", root, root, *PRICE, "--kwh", 0.3, "--backend", "tensorrt", "--batch", "1,7",
                             "--repeats", 1, "--out", out, "--html", html)  # fmt: skip
    assert status == 1 and f"A: {T} codes, batch 7 not run: tokens: " in told and "B: " in told
    assert "A's batch 7 (not run: tokens: " in said and "energy is paid as measured, at 0.3 USD a kWh" in said
    assert "A, J an image" in said and "(NVML's power at the instant)" in said
    page = html.read_text(encoding="utf-8")
    check_page(page)
    assert page.count("<svg") == 4 and "Device memory, MB" in page
