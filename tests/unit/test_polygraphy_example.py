"""examples/polygraphy/load_data.py gives the step graph the inputs that decoding does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from aim_edge.runtime import Generator

SCRIPT = Path(__file__).parents[2] / "examples" / "polygraphy" / "load_data.py"


def test_the_inputs_are_those_of_decoding(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("load_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in (("BUNDLE", bundle), ("CLASS", 3), ("STEPS", 5)):
        monkeypatch.setenv(name, str(value))
    feeds = list(module.load_data())
    assert [int(feed["position"][0]) for feed in feeds] == [0, 1, 2, 3, 4]
    step = onnxruntime.InferenceSession(bundle / "step.onnx", providers=["CPUExecutionProvider"])
    assert set(feeds[0]) == {tensor.name for tensor in step.get_inputs()}
    codes = np.array([[int(feed["token"][0]) for feed in feeds[1:]]], np.int32)
    with Generator.open(bundle) as generator:
        expected = generator.decode_logits(np.array([3]), np.pad(codes, ((0, 0), (0, 1))))
    for t, feed in enumerate(feeds):
        np.testing.assert_allclose(step.run(["logits"], feed)[0], expected[t], atol=1e-4)
