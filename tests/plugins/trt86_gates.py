"""What a result must keep to, and by how much it did."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from trt86_decode import Decoded

Array = NDArray[Any]

# Cosine alone is blind to scale, so that the ratio of the norms goes with it.
COSINE = {"float32": 0.999999, "float16": 0.9999}
NORM = {"float32": 1e-4, "float16": 1e-2}
ABSOLUTE = 1e-3  # float32: of a logit, and of a state relative to its largest element where that is above 1


def cosine_and_norm(found: Array, expected: Array) -> tuple[float, float]:
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    if norms[1] == 0:
        return (1.0, 1.0) if norms[0] == 0 else (0.0, float("inf"))
    return float(a @ b / max(norms[0] * norms[1], 1e-300)), float(norms[0] / norms[1])


def judge(found: Decoded, reference: dict[str, Array], precision: str) -> dict[str, Any]:
    """Every step's logits and every final state against the reference; `failures` says which broke a gate."""
    expected = reference["logits"][: len(found.logits)]
    failures: list[str] = []
    if found.logits.shape != expected.shape:
        return {"failures": [f"logits have shape {found.logits.shape}; expected {expected.shape}"]}
    steps = [cosine_and_norm(a, b) for a, b in zip(found.logits, expected, strict=True)]
    largest = [float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(found.logits, expected, strict=True)]
    same = [float((a.argmax(-1) == b.argmax(-1)).mean()) for a, b in zip(found.logits, expected, strict=True)]
    for t, ((cosine, norm), absolute, top) in enumerate(zip(steps, largest, same, strict=True)):
        failures += _broken(f"step {t}", cosine, norm, precision)
        if precision == "float32" and not absolute <= ABSOLUTE:
            failures.append(f"step {t}: max |diff| {absolute:.2e} (<= {ABSOLUTE})")
        if precision == "float32" and top != 1.0:
            failures.append(f"step {t}: argmax is the same in {top:.1%} of the rows (expected all)")
    worst_state = 1.0
    whole = len(expected) == len(reference["logits"])  # else the reference's states are of a later step
    for name, state in found.states.items() if whole else ():
        cosine, norm = cosine_and_norm(state, reference[name])
        worst_state = min(worst_state, cosine)
        failures += _broken(name, cosine, norm, precision)
        difference = np.abs(state.astype(np.float64) - reference[name]).max()
        limit = ABSOLUTE * max(1.0, float(np.abs(reference[name]).max()))
        if precision == "float32" and not difference <= limit:
            failures.append(f"{name}: max |diff| {difference:.2e} (<= {limit:.2e})")
    return {
        "steps": len(steps),
        "cosine": min(c for c, _ in steps),
        "norm_ratio": max((n for _, n in steps), key=lambda n: abs(1 - n)),
        "max_abs": max(largest),
        "top1": float(np.mean(same)),
        "state_cosine": worst_state if whole else None,
        "failures": failures,
    }


def _broken(what: str, cosine: float, norm: float, precision: str) -> list[str]:
    broken = []
    if not cosine >= COSINE[precision]:
        broken.append(f"{what}: cosine {cosine:.7f} (>= {COSINE[precision]})")
    if not abs(1 - norm) <= NORM[precision]:
        broken.append(f"{what}: norm ratio {norm:.6f} (within {NORM[precision]})")
    return broken


def judge_golden(found: Decoded, golden: dict[str, Array], precision: str) -> dict[str, Any]:
    """The golden positions: the largest logits, as an independent implementation computes them in float64."""
    at = found.logits[golden["positions"]]
    ids = golden["top_ids"].astype(np.int64)
    top, exact = np.take_along_axis(at, ids, axis=-1), golden["exact_top_logits"]
    cosine, norm = cosine_and_norm(top, exact)
    failures = _broken("golden positions", cosine, norm, precision)
    difference = float(np.abs(top - exact).max())
    same = float((at.argmax(-1) == ids[:, :, 0]).mean())
    if precision == "float32" and not difference <= ABSOLUTE:
        failures.append(f"golden positions: max |diff| {difference:.2e} (<= {ABSOLUTE})")
    if precision == "float32" and same != 1.0:
        failures.append(f"golden positions: the largest logit is the same in {same:.1%} (expected all)")
    return {"cosine": cosine, "norm_ratio": norm, "max_abs": difference, "top1": same, "failures": failures}
