"""The published AiM-B size, exported: the golden positions through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aim_edge.export import export_bundle
from aim_edge.runtime import Generator
from golden.cases import load_case


@pytest.mark.parametrize("lowering", ["primitive", "onnx"])
def test_golden_positions(lowering: str, tmp_path: Path) -> None:
    case = load_case("aim_b")
    path = export_bundle(case.checkpoint(), tmp_path / "bundle", lowering=lowering)
    with Generator.open(path) as generator:
        logits = generator.decode_logits(case["labels"], case["tokens"], via="scan")
        first = generator.decode_logits(case["labels"], case["tokens"][:, :6], via="step")
    np.testing.assert_allclose(first, logits[:6], rtol=0, atol=2e-4)
    at = logits[case["positions"]]
    top = np.take_along_axis(at, case["top_ids"].astype(np.int64), axis=-1)
    np.testing.assert_allclose(top, case["exact_top_logits"], rtol=0, atol=2e-4)
    np.testing.assert_allclose(top, case["top_logits"], rtol=0, atol=3e-3)
    np.testing.assert_array_equal(at.argmax(-1), case["top_ids"][:, :, 0])
    np.testing.assert_allclose(at.mean(-1), case["mean"], rtol=0, atol=2e-4)
