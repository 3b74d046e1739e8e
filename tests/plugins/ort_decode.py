"""Forced decoding of a bundle's `plugin` graphs in ONNX Runtime, the states kept on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from aim_edge.runtime import Bundle

OpenSession = Callable[[str], Any]
Floats = NDArray[np.float32]


def decode(
    bundle: Bundle,
    open_session: OpenSession,
    labels: NDArray[Any],
    tokens: NDArray[Any],
    graph: str,
    device: str = "cpu",
) -> tuple[Floats, dict[str, NDArray[Any]]]:
    """Logits (T, 2B, V) before guidance with `tokens` (B, T) forced, and the states after the last step.

    Args:
        bundle: an opened one.
        open_session: an InferenceSession of a file in the bundle.
        labels: (B).
        tokens: (B, T).
        graph: "step" or "scan"; with ".trt" behind it, the variant whose operators have no bodies.
        device: where states and condition are kept.
    """
    contract = bundle.manifest.contract
    rows, steps = 2 * len(labels), tokens.shape[1]
    value = ort.OrtValue.ortvalue_from_numpy
    sizes = {s.input: (rows, *s.shape) for s in contract.states}
    held = {s.input: value(np.zeros(sizes[s.input], s.dtype), device) for s in contract.states}
    condition = run(open_session("condition.onnx"), {"class_ids": value(labels.astype(np.int32))}, device)
    given = np.pad(tokens[:, :-1], ((0, 0), (1, 0))).astype(np.int32)
    first = np.zeros(len(labels), np.int32)
    session = open_session(f"{graph}.onnx")

    def advance(feeds: dict[str, NDArray[np.int32]]) -> Floats:
        """Logits of one call; what it leaves is what the next one finds."""
        found = run(session, {**condition, **held, **{name: value(array) for name, array in feeds.items()}}, device)
        held.update({s.input: found[s.output] for s in contract.states})
        logits: Floats = found["logits"].numpy()
        return logits

    if graph.startswith("scan"):
        logits = advance({"tokens": given, "position": first}).transpose(1, 0, 2)
    else:
        logits = np.stack([advance({"token": given[:, t], "position": first + np.int32(t)}) for t in range(steps)])
    return logits, {name: state.numpy() for name, state in held.items()}


def run(session: Any, feeds: dict[str, Any], device: str) -> dict[str, Any]:
    """Every output of a session by name, on the device."""
    binding = session.io_binding()
    for name, given in feeds.items():
        binding.bind_ortvalue_input(name, given)
    names = [output.name for output in session.get_outputs()]
    for name in names:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    return dict(zip(names, binding.get_outputs(), strict=True))


def differences(found: Floats, wanted: Floats) -> dict[str, float]:
    """The worst step's cosine and norm ratio over all rows, the largest difference, the share of equal top codes."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (found, wanted))
    norms = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    return {
        "cosine": float(((a * b).sum(1) / (norms[0] * norms[1])).min()),
        "norm_ratio": float(np.abs(1 - norms[0] / norms[1]).max()),
        "max_abs": float(np.abs(a - b).max()),
        "top1": float((found.argmax(-1) == wanted.argmax(-1)).mean()),
    }
