"""What `validate` reports: the gates, what breaks them, and the report of a whole comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from aim_edge.runtime import Manifest
from aim_edge.runtime.images import Image8

from .diagnosis import Diagnosis
from .measures import Decoded, NonFinite, StateParity, StepParity, compare_steps, first_parting
from .pictures import psnr, ssim

__all__ = [
    "GATES",
    "STATE_GATES",
    "Gates",
    "ParityReport",
    "SideRecord",
    "StateGates",
    "StateParity",
    "StepParity",
    "conclude",
    "find_failures",
    "find_state_failures",
    "leaves",
    "outside",
    "package_versions",
    "weights_of",
]


@dataclass(frozen=True)
class Gates:
    """Limits that every step must keep; None: not checked.

    Attributes:
        cosine: least cosine similarity between all logits of a step.
        norm_ratio: largest |1 - ratio of the norms| (cosine alone is blind to scale).
        max_abs: largest absolute difference of a logit.
        top1: least share of rows whose largest logit is the same code.
        image_max_abs: largest absolute difference of a decoded image in [-1, 1]; one uint8 level is 0.00784.
    """

    cosine: float | None = None
    norm_ratio: float | None = None
    max_abs: float | None = None
    top1: float | None = None
    image_max_abs: float | None = None


GATES = {
    "float32": Gates(cosine=0.999999, norm_ratio=1e-4, max_abs=1e-3, top1=1.0, image_max_abs=0.0079),
    "float16": Gates(cosine=0.9999, norm_ratio=0.01, image_max_abs=0.05),
    # Integer weights are another model, by a little: that it is as good is for held-out codes to say (held_out.py).
    # Measured on the demo: int4 0.992 and, in one step of two images, 0.064; of eight images 0.994 and 0.030.
    "int8": Gates(cosine=0.999, norm_ratio=0.02, image_max_abs=0.05),
    "int4": Gates(cosine=0.98, norm_ratio=0.1, image_max_abs=0.05),
}


@dataclass(frozen=True)
class StateGates:
    """Limits that every layer's state must keep at the steps looked at: as `Gates` has them; None: not checked."""

    cosine: float | None = None
    norm_ratio: float | None = None


# Measured: 1 - 1e-12 and 1e-6 in float32, with float16 states 1 - 1e-6 and 2e-4; in float16 1 - 2e-6 and 2e-3.
STATE_GATES = {
    "float32": StateGates(cosine=0.99999, norm_ratio=1e-3),
    "float16": StateGates(cosine=0.9999, norm_ratio=0.01),
    "int8": StateGates(cosine=0.998, norm_ratio=0.03),
    "int4": StateGates(cosine=0.95, norm_ratio=0.15),
}


@dataclass(frozen=True)
class SideRecord:
    """A bundle that took part in PyTorch's place.

    Attributes:
        bundle, backend, lowering, precision, state_dtype: as the report has them of the bundle that is judged.
        described: what the backend says of itself.
        checkpoint, checkpoint_sha256: what it was exported from.
    """

    bundle: str
    backend: str
    lowering: str
    precision: str
    state_dtype: str
    described: str
    checkpoint: str
    checkpoint_sha256: str

    @property
    def name(self) -> str:
        """Bundle and backend."""
        return f"{self.bundle} on {self.backend}"


@dataclass(frozen=True)
class ParityReport:
    """What `validate` found.

    Attributes:
        bundle, backend, lowering, precision, state_dtype: what was compared with the reference.
        images: how many images were decoded (two rows each).
        steps: one entry a step.
        image_max_abs, image_psnr: the decoded images against the reference's from the same codes (PSNR in dB, peak 2).
        gates: the limits.
        failures: what broke them, in words; empty if nothing did.
        image_ssim: their structural similarity.
        states: one entry a state at every step looked at.
        state_gates: their limits.
        first_parting: the first step at which the largest guided logit of an image is another code; None: none.
        non_finite: NaN and infinity in the engine, at the first step that has any.
        diagnosis: what `locate` found; None where it was not asked.
        versions: of what took part.
        described: what the backend says of itself.
        checkpoint_sha256: digest of the weights that the bundle was exported from; "" where it was not asked.
        against: the reference; None: PyTorch in float32.
        codes: who drew the codes that were forced, where `against` is given.
        warnings: what does not break a gate and should be known.
        reference_non_finite: NaN and infinity in the reference.
    """

    bundle: str
    backend: str
    lowering: str
    precision: str
    state_dtype: str
    images: int
    steps: tuple[StepParity, ...]
    image_max_abs: float
    image_psnr: float
    gates: Gates
    failures: tuple[str, ...]
    image_ssim: float = float("nan")
    states: tuple[StateParity, ...] = ()
    state_gates: StateGates = StateGates()
    first_parting: int | None = None
    non_finite: tuple[NonFinite, ...] = ()
    diagnosis: Diagnosis | None = None
    versions: tuple[tuple[str, str], ...] = ()
    described: str = ""
    checkpoint_sha256: str = ""
    against: SideRecord | None = None
    codes: str = ""
    warnings: tuple[str, ...] = ()
    reference_non_finite: tuple[NonFinite, ...] = ()

    @property
    def name(self) -> str:
        """Bundle and backend."""
        return f"{self.bundle} on {self.backend}"

    @property
    def reference(self) -> str:
        """What the bundle was compared with."""
        return "PyTorch" if self.against is None else self.against.name

    def compared(self) -> str:
        """What was compared with what, in one line."""
        engine = f"{self.name} ({self.described})" if self.described else self.name
        other = self.against
        return f"{engine} against " + ("PyTorch float32" if other is None else f"{other.name} ({other.described})")

    @property
    def passed(self) -> bool:
        """No gate was broken."""
        return not self.failures

    def worst(self) -> dict[str, float]:
        """The worst value of each measure over all steps (top1, top5 and kl: the mean); NaN is worst."""
        return {
            "cosine": min((s.cosine for s in self.steps), key=nan_lowest),
            "norm_ratio": max((s.norm_ratio for s in self.steps), key=lambda r: -nan_lowest(-abs(1 - r))),
            "max_abs": max((s.max_abs for s in self.steps), key=lambda d: -nan_lowest(-d)),
            "top1": float(np.mean([s.top1 for s in self.steps])),
            "kl": float(np.mean([s.kl for s in self.steps])),
            "top5": float(np.mean([s.top5 for s in self.steps])),
            "max_rel": max((s.max_rel for s in self.steps), key=lambda d: -nan_lowest(-d)),
        }

    def drift(self) -> dict[str, tuple[float, float]]:
        """How errors grow with the steps: the means over the first and over the last eighth of the steps."""
        part = max(1, len(self.steps) // 8)
        measures: tuple[tuple[str, Callable[[StepParity], float]], ...] = (
            ("cosine_distance", lambda s: 1 - s.cosine), ("max_abs", lambda s: s.max_abs), ("kl", lambda s: s.kl),
        )  # fmt: skip
        ends = self.steps[:part], self.steps[-part:]
        means = {name: [float(np.mean([of(step) for step in steps])) for steps in ends] for name, of in measures}
        return {name: (first, last) for name, (first, last) in means.items()}

    def drift_line(self) -> str:
        """The drift in words."""
        part, drift = max(1, len(self.steps) // 8), self.drift()
        said = {"1 - cosine": "cosine_distance", "max |diff|": "max_abs", "KL": "kl"}
        return f"drift, first {part} steps to last {part}: " + ", ".join(
            f"{name} {max(drift[key][0], 0):.2e} to {max(drift[key][1], 0):.2e}" for name, key in said.items()
        )

    def worst_states(self) -> dict[str, float]:
        """The worst value of each measure over all states that were looked at; {} if none was."""
        if not self.states:
            return {}
        return {
            "cosine": min((s.cosine for s in self.states), key=nan_lowest),
            "norm_ratio": max((s.norm_ratio for s in self.states), key=lambda r: -nan_lowest(-abs(1 - r))),
            "max_abs": max((s.max_abs for s in self.states), key=lambda d: -nan_lowest(-d)),
            "max_rel": max((s.max_rel for s in self.states), key=lambda d: -nan_lowest(-d)),
        }

    def line(self) -> str:
        """The result in one line."""
        worst = self.worst()
        verdict = "PASS" if self.passed else "FAIL"
        other = self.against
        reference = "PyTorch float32" if other is None else f"{other.lowering} {other.precision} on {other.backend}"
        return (
            f"parity {verdict}: {self.lowering} {self.precision} on {self.backend} against {reference}, "
            f"{self.images} images x {len(self.steps)} steps: cosine >= {worst['cosine']:.7f}, "
            f"norm ratio {worst['norm_ratio']:.5f}, max |diff| {worst['max_abs']:.2e}, "
            f"top-1 {worst['top1']:.2%}, KL {worst['kl']:.2e}, image max |diff| {self.image_max_abs:.2e}"
        )

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps: everything but the single steps and states."""
        values = asdict(self) | {"worst": self.worst(), "passed": self.passed, "steps": len(self.steps)}
        values |= {"states": self.worst_states(), "versions": dict(self.versions)}
        for name in ("bundle", "against", "codes", "warnings", "checkpoint_sha256"):
            del values[name]
        return values

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with every step and state."""
        worst = {"worst": self.worst(), "worst_states": self.worst_states(), "passed": self.passed}
        worst |= {"drift": self.drift()}
        return asdict(self) | worst | {"versions": dict(self.versions)}


def weights_of(manifest: Manifest) -> str:
    """What the large matrices are stored as: "float32", "float16", "int8" or "int4"."""
    return manifest.precision if manifest.quantisation is None else manifest.quantisation.weights


def nan_lowest(value: float) -> float:
    """`value`, or minus infinity for NaN: so that the worst of several is NaN where one is."""
    return -np.inf if np.isnan(value) else value


def find_failures(steps: tuple[StepParity, ...], image_max_abs: float, gates: Gates) -> tuple[str, ...]:
    """Every broken gate with its worst step. Comparisons are written so that NaN fails."""
    failures = []
    excesses: tuple[tuple[str, float | None, Callable[[StepParity, float], float]], ...] = (
        ("cosine", gates.cosine, lambda s, limit: limit - s.cosine),
        ("norm_ratio", gates.norm_ratio, lambda s, limit: abs(s.norm_ratio - 1) - limit),
        ("max_abs", gates.max_abs, lambda s, limit: s.max_abs - limit),
        ("top1", gates.top1, lambda s, limit: limit - s.top1),
    )
    for name, limit, excess in excesses:
        if limit is None:
            continue
        over = {s.step: excess(s, limit) for s in steps if not excess(s, limit) <= 0}
        if over:
            worst = max(over, key=lambda step: np.nan_to_num(over[step], nan=np.inf))
            value = next(getattr(s, name) for s in steps if s.step == worst)
            failures.append(
                f"{name}: {len(over)} of {len(steps)} steps outside {limit}, the first {min(over)}, "
                f"the worst {worst} with {value:.6g}"
            )
    if gates.image_max_abs is not None and not image_max_abs <= gates.image_max_abs:
        failures.append(f"image_max_abs: {image_max_abs:.4g}, allowed {gates.image_max_abs}")
    return tuple(failures)


def outside(state: StateParity, gates: StateGates) -> bool:
    """Whether a state leaves the gates; NaN does."""
    return leaves(state.cosine, state.norm_ratio, gates)


def leaves(cosine: float, norm_ratio: float, gates: StateGates) -> bool:
    """The same of its two measures."""
    return (gates.cosine is not None and not cosine >= gates.cosine) or (
        gates.norm_ratio is not None and not abs(norm_ratio - 1) <= gates.norm_ratio
    )


def find_state_failures(states: Sequence[StateParity], gates: StateGates) -> tuple[str, ...]:
    """The states that leave the gates, in one line with the first of them (by step, then by layer)."""
    over = [state for state in states if outside(state, gates)]
    if not over:
        return ()
    first = over[0]
    names = {state.name for state in over}
    return (
        f"states: {len(names)} of {len({s.name for s in states})} leave cosine {gates.cosine} or norm ratio "
        f"1 +- {gates.norm_ratio}, the first {first.name} at step {first.step} with cosine {first.cosine:.6g} "
        f"and norm ratio {first.norm_ratio:.6g}",
    )


def _non_finite_failures(found: Sequence[NonFinite], of: str) -> tuple[str, ...]:
    if not found:
        return ()
    at = "" if found[0].step is None else f" at step {found[0].step}"
    return (f"not finite: NaN or infinity{at} in {', '.join(f.where for f in found[:4])}{of}",)


def conclude(
    decoded: Decoded, drawn: Image8 | None, wanted: Image8 | None, *, gates: Gates, state_gates: StateGates,
    guidance_scale: float, **facts: Any,
) -> ParityReport:  # fmt: skip
    """Measures, held to the gates.

    Args:
        decoded: logits, states, NaN and infinity.
        drawn, wanted: the images (B, H, W, C) uint8 of the bundle and of the reference; None: NaN or infinity.
        gates, state_gates: the limits.
        guidance_scale: with which greedy codes are looked for.
        facts: the fields of `ParityReport` that are not measured.
    """
    steps = compare_steps(decoded.reference, decoded.engine)
    max_abs = image_psnr = image_ssim = float("nan")
    if drawn is not None and wanted is not None:
        max_abs = float(np.abs(drawn.astype(np.int16) - wanted).max() / 127.5)
        image_psnr, image_ssim = psnr(wanted, drawn), ssim(wanted, drawn)
    lost = (NonFinite(None, None, "image", 0),)
    non_finite = decoded.non_finite + (lost if drawn is None else ())
    reference_non_finite = decoded.reference_non_finite + (lost if wanted is None else ())
    failures = find_failures(steps, max_abs, gates) + find_state_failures(decoded.states, state_gates)
    failures += _non_finite_failures(non_finite, "") + _non_finite_failures(reference_non_finite, " of the reference")
    return ParityReport(
        steps=steps, image_max_abs=max_abs, image_psnr=image_psnr, image_ssim=image_ssim, gates=gates,
        state_gates=state_gates, failures=failures, states=decoded.states, non_finite=non_finite,
        reference_non_finite=reference_non_finite,
        first_parting=first_parting(decoded.reference, decoded.engine, guidance_scale), **facts,
    )  # fmt: skip


def package_versions(exported_by: str) -> tuple[tuple[str, str], ...]:
    """Of the packages that took part, where they are there."""
    found = [("aim-edge that exported", exported_by)]
    for name in ("aim-edge", "torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)
