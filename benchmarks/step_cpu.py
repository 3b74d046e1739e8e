"""Milliseconds a decoding step on the CPU: every lowering on ONNX Runtime beside the PyTorch model.

    python benchmarks/step_cpu.py [--presets demo B] [--batches 1 4] [--threads N]

Guidance on (two rows an image), float32, tokens only, the median of all steps after a warm-up, in one process, one
engine after the other. ONNX Runtime has all the threads; PyTorch, which loses time to them on small operators, is
timed with one thread and with all, and the faster one counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from aim_edge.aim import AimModel
from aim_edge.export import export_bundle
from aim_edge.runtime import Generator
from benchmarks.common import checkpoint, console, show, versions

LOWERINGS = ("primitive", "onnx", "plugin", "plugin-fused")


def median_ms(step: Callable[[int], object], steps: int) -> float:
    """Median milliseconds of `step(t)` after a few that are not counted."""
    times = []
    for t in range(steps + 3):
        start = time.perf_counter()
        step(t)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]) * 1e3)


def pytorch_ms(model: AimModel, batch: int, steps: int) -> float:
    """The reference's own step."""
    with torch.inference_mode():
        condition = model.condition(torch.zeros(batch, dtype=torch.int64))
        state = model.init_state(2 * batch)
        token = torch.zeros(batch, dtype=torch.int64)

        def step(t: int) -> None:
            nonlocal state
            _, state = model.step(token, torch.full((batch,), t), condition, state)

        return median_ms(step, steps)


def best_pytorch_ms(model: AimModel, batch: int, steps: int, threads: int) -> float:
    """The faster of one thread and all."""
    times = []
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        times.append(pytorch_ms(model, batch, steps))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["demo", "B"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        loaded = checkpoint(preset)
        base = {b: best_pytorch_ms(loaded.aim, b, options.steps, options.threads) for b in options.batches}
        rows += [(preset, "PyTorch", b, f"{base[b]:.2f}", "1.00x") for b in options.batches]
        for lowering in LOWERINGS:
            with tempfile.TemporaryDirectory() as folder:
                path = export_bundle(loaded, Path(folder) / "bundle", lowering=lowering)
                with Generator.open(path, threads=options.threads) as generator:
                    for batch in options.batches:
                        session = generator.session(batch)
                        session.set_condition(np.zeros(batch, np.int32))
                        token = np.zeros(batch, np.int32)
                        ms = median_ms(lambda t, s=session, x=token: s.step(x, t), options.steps)
                        rows.append((preset, f"ort-cpu {lowering}", batch, f"{ms:.2f}", f"{base[batch] / ms:.2f}x"))
    title = f"step, float32, {options.threads} CPU threads, median of {options.steps} steps"
    show(title, ("model", "engine", "batch", "ms/step", "speed against PyTorch"), rows)
    console.print(versions("torch", "onnxruntime", "numpy"))


if __name__ == "__main__":
    main()
