"""`aim-edge validate` over the demo, every lowering that runs here in all precisions; reports: build/validate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aim_edge.cli import main
from aim_edge.export import export_bundle

REPORTS = Path(__file__).parents[2] / "build" / "validate"
CASES = [
    (lowering, precision, state_dtype)
    for lowering in ("primitive", "onnx", "plugin", "plugin-fused")
    for precision, state_dtype in (("float32", "float32"), ("float16", "float32"), ("float16", "float16"))
]


@pytest.mark.parametrize(("lowering", "precision", "state_dtype"), CASES)
def test_every_gate_is_kept_over_256_steps(lowering: str, precision: str, state_dtype: str, tmp_path: Path) -> None:
    bundle = export_bundle(
        "demo", tmp_path / "bundle", lowering=lowering, precision=precision, state_dtype=state_dtype
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    page, file = (REPORTS / f"{lowering}-{precision}-states-{state_dtype}.{kind}" for kind in ("html", "json"))
    for report in (page, file):
        report.unlink(missing_ok=True)
    assert main(["validate", str(bundle), "--html", str(page), "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["passed"] and len(found["steps"]) == 256 and len(found["states"]) == 6 * 2 * 17
    assert found["worst"]["cosine"] >= (0.999999 if precision == "float32" else 0.9999)
    assert found["image_psnr"] > 45 and found["image_ssim"] > 0.999 and not found["non_finite"]
    text = page.read_text()
    assert "PASS" in text and text.count("data:image/png;base64,") == 6 and "<script" not in text
