"""Percentiles, operators' kinds, and what an earlier measurement is compared by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aim_edge.runtime.bench_figures import (
    FORMAT,
    VERSION,
    compare,
    group_kinds,
    operator_kind,
    percentile,
    read_baseline,
    slowest,
    timing,
)


def test_percentiles_are_samples_by_nearest_rank() -> None:
    hundred = [float(n) for n in range(100, 0, -1)]
    assert [percentile(hundred, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert [percentile([3.0, 1.0, 2.0, 5.0, 4.0], p) for p in (1, 50, 90, 99)] == [1, 3, 5, 5]
    assert percentile([7.0], 50) == 7
    for samples, percent in (([], 50), ([1.0], 0), ([1.0], 101)):
        with pytest.raises(ValueError, match="expected one or more"):
            percentile(samples, percent)


def test_a_timing_follows_from_the_median() -> None:
    found = timing([0.2, 0.8, 0.4, 0.6], batch=3, steps=10)
    assert found["median"] == 0.5 and found["p50"] == 0.4 and found["p99"] == 0.8 and found["repeats"] == 4
    assert found["images_per_second"] == 6 and found["ms_per_step"] == pytest.approx(50)
    assert found["samples"] == [0.2, 0.8, 0.4, 0.6]
    assert "ms_per_step" not in timing([0.2], batch=3)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("MatMul_23", "MatMul"),
        ("MatMul_23 + Add_24", "MatMul + Add"),
        ("PWN(Sigmoid_3, Mul_4)", "PWN(Sigmoid, Mul)"),
        ("Mamba2DecodeStep_7", "Mamba2DecodeStep"),
        ("/layers.11/Conv2d.3", "/layers/Conv2d"),
        ("__myl_FcMulAdd_myl0_12", "__myl_FcMulAdd_myl"),
        ("(Unnamed Layer* 12) [Constant]", "(Unnamed Layer*) [Constant]"),
        ("12", "12"),
        ("to fp16", "to fp16"),
    ],
)
def test_kinds_are_names_without_numbers(layer: str, kind: str) -> None:
    assert operator_kind(layer) == kind


def test_layers_by_kind_and_the_slowest() -> None:
    layers = [("MatMul_1", 5.0), ("Add_2", 7.0), ("MatMul_3", 4.0)]
    assert group_kinds(layers) == [("MatMul", 2, 9.0), ("Add", 1, 7.0)]
    assert slowest(layers, 2) == [("Add_2", 7.0), ("MatMul_1", 5.0)]


def measured(seconds: float, batches: tuple[int, ...] = (1, 8), gpu: str = "A", **changes: Any) -> dict[str, Any]:
    return {
        "format": FORMAT, "schema_version": VERSION, "machine": {"gpu": gpu, "cpu": "c"},
        "bundle": {"state_dtype": "float16", "checkpoint": {"source": "x"}, "lowering": "plugin"},
        "backend": {"description": "d", "precision": "float16"}, "settings": {"sampling": {"top_k": 0}},
        "first_image": {"median": 10 * seconds},
        "batches": [
            {"batch": b, "tokens": timing([seconds * b], b, 4), "pixels": timing([seconds], b), "generate": None}
            for b in batches
        ],
    } | changes  # fmt: skip


def test_ratios_are_of_what_both_measured() -> None:
    found = compare(measured(1.0, (8, 64)), measured(2.0, (1, 8)), "old.json")
    assert found["warnings"] == [] and found["file"] == "old.json" and found["first_image"] == 0.5
    assert set(found["ratios"]) == {"8"} and set(found["ratios"]["8"]) == {"tokens", "pixels"}
    tokens = found["ratios"]["8"]["tokens"]
    assert tokens["median"] == tokens["p99"] == tokens["ms_per_step"] == 0.5 and tokens["images_per_second"] == 2
    assert "ms_per_step" not in found["ratios"]["8"]["pixels"]
    assert compare(measured(1.0, first_image=None), measured(1.0), "old.json")["first_image"] is None


def test_another_gpu_and_other_conditions_are_told() -> None:
    now = measured(1.0, gpu="B", settings={"sampling": {"top_k": 600}})
    assert compare(now, measured(1.0), "old.json")["warnings"] == [
        "GPU: B here, A in the baseline", "sampling: top_k 600 here, top_k 0 in the baseline",
    ]  # fmt: skip
    here, there = measured(1.0, gpu=""), measured(1.0, gpu="", machine={"gpu": "", "cpu": "d"})
    assert compare(here, there, "old.json")["warnings"] == ["CPU: c here, d in the baseline"]


def test_a_baseline_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(measured(1.0)))
    assert read_baseline(file, [8, 64]) == measured(1.0)
    with pytest.raises(ValueError, match=r"has batches \[1, 8\]; \[2, 4\] are asked for"):
        read_baseline(file, [2, 4])
    for text, expected in (("{", "no JSON"), ("[]", "expected what"), ('{"format": "x"}', "expected what"),
                           (json.dumps(measured(1.0, schema_version=VERSION + 1)), "of schema version")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(ValueError, match=expected):
            read_baseline(file, [1])
    none_ran = measured(1.0)
    for one in none_ran["batches"]:
        one["tokens"] = None
    file.write_text(json.dumps(none_ran))
    with pytest.raises(ValueError, match=r"has batches \[\]"):
        read_baseline(file, [1])
