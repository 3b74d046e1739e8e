"""Real inputs of a bundle's step graph for polygraphy, whose own random ones no model would see.

    BUNDLE=b polygraphy run b/step.onnx --trt --onnxrt --trt-outputs mark all --onnx-outputs mark all \
        --data-loader-script examples/polygraphy/load_data.py --atol 1e-3 --rtol 1e-3 --fail-fast

ONNX Runtime decodes one image on the CPU; its inputs at the first steps are what both are given. A `plugin` bundle's
step.onnx has bodies for ONNX Runtime; TensorRT takes step.trt.onnx with --plugins libaim_edge_tensorrt.so. CLASS (0)
and STEPS (4) may be set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def load_data() -> Iterator[dict[str, Any]]:
    """The feed of each step; the codes are the largest logits of the label row."""
    folder = Path(os.environ["BUNDLE"])
    condition, step = (
        onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("condition", "step")
    )
    given = {"class_ids": np.array([int(os.environ.get("CLASS", "0"))], np.int32)}
    names = [output.name for output in condition.get_outputs()]
    feed: dict[str, Any] = dict(zip(names, condition.run(names, given), strict=True))
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    for tensor in step.get_inputs():
        if "_state_" in tensor.name:
            feed[tensor.name] = np.zeros((2, *tensor.shape[1:]), types[tensor.type])
    feed |= {name: np.zeros(1, np.int32) for name in ("token", "position")}
    names = [output.name for output in step.get_outputs()]
    for position in range(int(os.environ.get("STEPS", "4"))):
        feed["position"] = np.full(1, position, np.int32)
        yield dict(feed)
        found = dict(zip(names, step.run(names, feed), strict=True))
        feed |= {name.replace("_out_", "_"): found[name] for name in names if "_state_out_" in name}
        feed["token"] = found["logits"][:1].argmax(-1).astype(np.int32)
