"""benchmarks/roofline.py: the tables' figures by hand, the plot, and the reports it refuses."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

FOLDER = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, FOLDER)
try:
    import roofline
    import roofline_plot
finally:
    sys.path.remove(FOLDER)

H100 = "NVIDIA H100 80GB HBM3"
SVG = "{http://www.w3.org/2000/svg}"
DIMS = {
    "d_model": 768, "n_layer": 24, "vocab_size": 16384, "num_classes": 1000, "num_tokens": 256, "adaln_factor": 3,
    "nheads": 24, "headdim": 64, "d_state": 128, "d_conv": 4, "conv_dim": 1792, "image_channels": 3,
    "image_height": 256, "image_width": 256, "grid_height": 16, "grid_width": 16,
}  # fmt: skip
# AiM-B in float16: 24 layers of in_proj (1536 + 1792 + 24, 768) and out_proj (768, 1536), and lm_head (16384, 768), two
# bytes each; 24 states (24, 64, 128), two bytes, read and written.
WEIGHTS = 2 * (24 * (3352 * 768 + 768 * 1536) + 16384 * 768)
STATE = 2 * 2 * 24 * 24 * 64 * 128


def batch_of(batch: int, ms: float, floor_ms: float | None) -> dict[str, Any]:
    images = 1e3 * batch / (256 * ms)
    return {
        "batch": batch, "tokens": {"ms_per_step": ms, "images_per_second": images}, "not_run": "",
        "floor": None if floor_ms is None else {
            "step_seconds": floor_ms / 1e3, "images_per_second": images * ms / floor_ms,
            "measured_over_floor": ms / floor_ms,
        },
        "memory": {"by_use": {"engines": 5 * 10**9, "states": 4 * 10**9}, "device_total": 85 * 10**9},
    }  # fmt: skip


def report_of(*batches: dict[str, Any], gpu: str = H100, precision: str = "float16", **dims: int) -> dict[str, Any]:
    return {
        "format": "aim-edge-bench", "schema_version": 1, "machine": {"gpu": gpu},
        "bundle": {"dims": DIMS | dims, "state_dtype": precision, "lowering": "plugin-fused"},
        "backend": {"precision": precision, "description": "an engine"},
        "settings": {"repeats": 7, "sampling": {"top_k": 600}},
        "bandwidth": {"bytes_per_second": 2.5e12}, "batches": list(batches),
    }  # fmt: skip


# 0.5 ms of 0.125 ms at batch 1; 0.8 of 0.2 at batch 8.
TWO = report_of(batch_of(1, 0.5, 0.125), batch_of(8, 0.8, 0.2))
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def call(report: Any, name: str = "bench.json") -> Path:
        path = tmp_path / name
        path.write_text(report if isinstance(report, str) else json.dumps(report), encoding="utf-8")
        return path

    return call


def cells(page: str, *first: str) -> list[str]:
    """The cells after `first` of the one table row that starts so."""
    found = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    (row,) = [row for row in found if row[: len(first)] == list(first)]
    return row[len(first) :]


def page_of(path: Path, *more: Path, names: dict[Path, str] | None = None) -> str:
    return roofline.render(roofline.read_reports([path, *more], names or {}), roofline.Published.read())


def test_measured_floor_and_published_side_by_side(write: Write) -> None:
    page = page_of(write(TWO))
    # 1 / (256 * 0.5 ms) = 7.8125 images/s, 31.25 at the floor; published 1.47 / 0.5 = 2.94.
    assert cells(page, "AiM-B", "float16", "1") == [
        "0.500", "7.81", "0.125", "31.2", "4.0x", "1.47", "2.65", "2.9x",
    ]  # fmt: skip
    # 8 / (256 * 0.8 ms) = 39.0625, 156.25; 1.73 / 0.8 = 2.1625.
    assert cells(page, "AiM-B", "float16", "8") == [
        "0.800", "39.1", "0.200", "156", "4.0x", "1.73", "18.0", "2.2x",
    ]  # fmt: skip


def test_what_was_not_measured_is_a_dash(write: Write) -> None:
    page = page_of(write(TWO))
    assert cells(page, "AiM-B", "float16", "256") == ["-"] * 5 + ["7.96", "126", "-"]
    assert cells(page, "AiM-B", "float32", "1") == ["-"] * 5 + ["1.66", "2.36", "-"]
    assert cells(page, "AiM-XL", "float16", "256") == ["-"] * 8
    assert cells(page, "AiM-L", "1", "float16, predicted") == ["-"] * 5


def test_a_batch_that_did_not_run_is_told(write: Write) -> None:
    failed = {"batch": 64, "tokens": None, "floor": None, "memory": None, "not_run": "tokens: out of memory"}
    page = page_of(write(report_of(batch_of(1, 0.5, 0.125), failed)))
    assert cells(page, "AiM-B", "float16", "64")[:5] == ["-"] * 5
    assert "- AiM-B, float16, batch 64 did not run: tokens: out of memory" in page


def test_without_a_floor_there_is_no_multiple(write: Write) -> None:
    report = report_of(batch_of(1, 0.5, None)) | {"bandwidth": None}
    page = page_of(write(report))
    assert cells(page, "AiM-B", "float16", "1") == ["0.500", "7.81", "-", "-", "-", "1.47", "2.65", "2.9x"]
    assert cells(page, "AiM-B", "1", "float16, predicted") == ["-"] * 5
    plotted = roofline.plot(roofline.read_reports([write(report)], {}), roofline.Published.read())
    assert len(ElementTree.fromstring(plotted).findall(f"{SVG}circle")) == 2 + 1 + 4


def test_another_gpu_has_no_ratio_to_the_published_code(write: Write) -> None:
    page = page_of(write(report_of(batch_of(1, 0.5, 0.125), gpu="NVIDIA H200")))
    assert cells(page, "AiM-B", "float16", "1")[-3:] == ["1.47", "2.65", "-"]
    assert 'No "times as fast"' in page and 'No "times as fast"' not in page_of(write(TWO))


def test_predictions_by_hand(write: Write) -> None:
    page = page_of(write(TWO))
    # Batch 1: 243,105,792 bytes a step, 256 steps, at 68 GB/s 915.2 ms, four times that 3661 ms.
    assert WEIGHTS + 2 * STATE == 243_105_792
    nano = 256e3 * 243_105_792 / 68e9
    assert cells(page, "AiM-B", "1", "float16, floor")[0] == f"{nano:.0f}" == "915"
    # 9 GB were taken on the GPU of the report: more than the Nano's 8.
    predicted = cells(page, "AiM-B", "1", "float16, predicted (4.0x)")
    assert predicted == ["3661 (!)", "2441 (!)", "2431", "1216", "912"]
    # Batch 8 at 102.4 GB/s, an image: (205,357,056 + 16 * 18,874,368) * 256 / 102.4e9 / 8 = 158.5 ms.
    assert cells(page, "AiM-B", "8", "float16, floor")[2] == "159"
    # int8: (102,678,528 + 2 * 18,874,368) * 256 / 204.8e9 = 175.5 ms.
    assert cells(page, "AiM-B", "1", "int8 weights, floor")[3] == "176"
    assert "predicted, not measured" in page


def test_what_does_not_fit_is_said(write: Write) -> None:
    need = WEIGHTS + STATE  # batch 1: two rows, each half of what is read and written
    boards = [roofline.Board("just", 68e9, need), roofline.Board("small", 68e9, need - 1)]
    page = roofline.predicted_table(roofline.read_reports([write(TWO)], {}), boards)
    assert cells(page, "AiM-B", "1", "float16, floor") == ["915", "does not fit"]
    assert cells(page, "AiM-B", "1", "float16, predicted (4.0x)") == ["3661 (!)", "does not fit"]
    assert cells(page, "AiM-B", "1", "int8 weights, floor") == ["529", "529"]


def test_reports_go_together_by_model_and_precision(write: Write) -> None:
    large = report_of(batch_of(8, 1.0, 0.5), d_model=1024, n_layer=48, nheads=32, conv_dim=2304)
    page = page_of(
        write(TWO, "b.json"), write(large, "l.json"),
        write(report_of(batch_of(1, 0.83, 0.4), precision="float32"), "b32.json"),
    )  # fmt: skip
    assert cells(page, "AiM-L", "float16", "8")[-3:] == ["3.10", "10.1", "3.1x"]
    assert cells(page, "AiM-B", "float32", "1")[-3:] == ["1.66", "2.36", "2.0x"]
    assert [name in page for name in ("`b.json`", "`l.json`", "`b32.json`")] == [True] * 3


def test_states_of_another_type_are_another_precision(write: Write) -> None:
    mixed = copy.deepcopy(TWO)
    mixed["bundle"]["state_dtype"] = "float32"
    page = page_of(write(TWO, "a.json"), write(mixed, "b.json"))
    assert cells(page, "AiM-B", "float16, states float32", "1")[0] == "0.500"
    assert cells(page, "AiM-B", "float16, states float32", "1")[-3:] == ["-"] * 3


def test_the_plot_has_each_dot_where_it_belongs(write: Write) -> None:
    text = roofline.plot(roofline.read_reports([write(TWO)], {}), roofline.Published.read())
    root = ElementTree.fromstring(text)
    background = root.find(f"{SVG}rect")
    assert background is not None and background.get("fill") == "#ffffff"
    dots = {dot[0].text or "": dot for dot in root.findall(f"{SVG}circle")}

    def at(name: str) -> tuple[float, float]:
        return float(dots[name].get("cx", "")), float(dots[name].get("cy", ""))

    ours = [at("AiM-B, batch 1, measured: 0.5 ms"), at("AiM-B, batch 8, measured: 0.8 ms")]
    theirs = [at(f"AiM-B, batch {b}, published: {ms} ms") for b, ms in ((1, 1.47), (8, 1.73), (64, 3.13), (256, 7.96))]
    assert ours[0][0] == theirs[0][0] and ours[1][0] == theirs[1][0] and ours[0][1] > ours[1][1] > theirs[1][1]
    # Logarithmic both ways: 1 to 8 to 64 in equal steps, and heights in proportion to the ratios' logarithms.
    assert theirs[1][0] - theirs[0][0] == pytest.approx(theirs[2][0] - theirs[1][0], abs=0.11)
    rise = (theirs[0][1] - theirs[3][1]) / (ours[0][1] - theirs[0][1])
    assert rise == pytest.approx(1.5664, rel=0.01)  # log(7.96 / 1.47) / log(1.47 / 0.5)
    assert dots["AiM-B, batch 1, published: 1.47 ms"].get("fill") == "#ffffff"
    assert dots["AiM-B, batch 1, measured: 0.5 ms"].get("fill") == roofline_plot.INKS[0]
    lines = root.findall(f"{SVG}polyline")
    floor = [float(point.split(",")[1]) for point in lines[2].get("points", "").split()]
    assert len(floor) == 9 and floor == sorted(floor, reverse=True) and floor[0] > ours[0][1]
    assert all(0 < at(name)[1] < 460 for name in dots)


def test_a_plot_of_nothing_or_too_much_is_refused(write: Write) -> None:
    only32 = roofline.read_reports([write(report_of(batch_of(1, 0.8, 0.4), precision="float32"))], {})
    with pytest.raises(ValueError, match=r"no report has a measured row of AiM-B.*float16"):
        roofline.plot(only32, roofline.Published.read())
    four = [roofline_plot.Series(str(i), [(1, 1.0)]) for i in range(4)]
    with pytest.raises(ValueError, match="4 models to draw; allowed: 1 to 3"):
        roofline_plot.batch_plot("", four, [1], "", "")


def test_a_model_is_told_by_its_sizes_or_named(write: Write) -> None:
    small = write(report_of(batch_of(1, 0.1, 0.01), d_model=192), "small.json")
    with pytest.raises(ValueError, match=r"d_model 192, .*is none of AiM-B, AiM-L, AiM-XL; name it: --name"):
        page_of(small)
    assert cells(page_of(small, names={small: "demo"}), "demo", "float16", "1")[0] == "0.100"
    with pytest.raises(ValueError, match="named AiM-B, but a model of d_model 192"):
        page_of(small, names={small: "AiM-B"})
    big = write(TWO)
    assert cells(page_of(big, names={big: "AiM-B"}), "AiM-B", "float16", "1")[0] == "0.500"
    with pytest.raises(ValueError, match=r"named AiM-L, but .* is AiM-B"):
        page_of(big, names={big: "AiM-L"})
    with pytest.raises(ValueError, match=r"--name is given for other\.json"):
        page_of(big, names={Path("other.json"): "AiM-B"})


BROKEN = {
    "no JSON": "{",
    "format None": "[]",
    "format 'aim-edge-bench', schema version 2; expected 'aim-edge-bench', 1": TWO | {"schema_version": 2},
    "format 'other'": TWO | {"format": "other"},
    "not as `aim-edge bench --json` writes it: KeyError\\('bundle'\\)": {k: v for k, v in TWO.items() if k != "bundle"},
    "batch 1: 0 ms a step; expected more than 0": TWO
    | {"batches": [batch_of(1, 0.5, 0.1) | {"tokens": {"ms_per_step": 0}}]},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_another_schema_is_refused(write: Write, reason: str) -> None:
    with pytest.raises(ValueError, match=f"bench.json: {reason}"):
        page_of(write(BROKEN[reason]))


def test_rows_twice_and_two_gpus_are_refused(write: Write) -> None:
    first = write(TWO, "first.json")
    again = write(report_of(batch_of(64, 2.0, 1.0), batch_of(8, 0.9, 0.2)), "again.json")
    with pytest.raises(ValueError, match=r"AiM-B, batch 8, float16 is in first\.json and in again\.json"):
        page_of(first, again)
    other = write(report_of(batch_of(64, 2.0, 1.0), gpu="NVIDIA H200"), "other.json")
    with pytest.raises(ValueError, match="reports are of GPUs NVIDIA H100 80GB HBM3, NVIDIA H200; expected one"):
        page_of(first, other)


def test_the_command_writes_both_files(write: Write, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    out, plot = tmp_path / "page.md", tmp_path / "plots" / "plot.svg"
    roofline.main([str(write(TWO)), "--out", str(out), "--svg", str(plot)])
    assert "](plots/plot.svg)" in out.read_text(encoding="utf-8")
    assert ElementTree.parse(plot).getroot().tag == f"{SVG}svg"
    roofline.main([str(write(TWO)), "--out", str(out)])
    assert "![" not in out.read_text(encoding="utf-8")
    small = write(report_of(batch_of(1, 0.1, 0.01), d_model=192), "small.json")
    roofline.main([str(small), "--name", f"{small}=demo", "--out", str(out)])
    assert "demo" in out.read_text(encoding="utf-8")


def test_int8_weights_have_rows_predictions_and_a_plot_of_their_own(write: Write, tmp_path: Path) -> None:
    integers = report_of(batch_of(1, 0.25, 0.1))
    integers["bundle"]["weights"] = "int8"
    out, plot = tmp_path / "page.md", tmp_path / "plot.svg"
    roofline.main([str(write(TWO)), str(write(integers, "i8.json")), "--out", str(out), "--svg", str(plot)])
    page = out.read_text(encoding="utf-8")
    # Beside the published code's 1.47 ms, as the float16 row; a row for each batch, measured or not.
    assert cells(page, "AiM-B", "float16, int8 weights", "1")[-3:] == ["1.47", "2.65", "5.9x"]
    assert cells(page, "AiM-B", "float16, int8 weights", "64")[0] == "-"
    assert cells(page, "AiM-B", "float16", "1")[0] == "0.500"
    assert cells(page, "AiM-B", "1", "int8 weights, predicted (2.5x)")[3] == "439"  # 175.5 ms times 2.5
    assert "](plot.svg)" in page and "](plot_int8.svg)" in page
    assert "int8 weights" in (tmp_path / "plot_int8.svg").read_text(encoding="utf-8")
    assert "int8 weights" not in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.json", "--out", "page.md"], "missing.json"),
        (["bench.json", "--out", "nowhere/page.md"], "nowhere/page.md: there is no folder"),
        (["bench.json", "--out", "page.md", "--svg", "nowhere/a.svg"], "nowhere/a.svg: there is no folder"),
        (["bench.json", "--out", "page.md", "--name", "bench.json"], "expected FILE=NAME"),
        (["bench.json", "bench.json", "--out", "page.md"], "is in bench.json and in bench.json"),
    ],
)
def test_the_command_ends_with_2_and_writes_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], reason: str,
) -> None:  # fmt: skip
    write(TWO)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        roofline.main(arguments)
    assert ended.value.code == 2 and reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
