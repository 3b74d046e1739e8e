"""What `validate` reports: the measures of a step, the gates, and the report of a whole comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .diagnosis import Diagnosis
from .states import NonFinite, StateParity


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
}


@dataclass(frozen=True)
class StepParity:
    """One step, over all rows: engine against reference. top5: share of the reference's five that the engine's hold."""

    step: int
    cosine: float
    norm_ratio: float
    max_abs: float
    top1: float
    kl: float
    top5: float = 1.0


@dataclass(frozen=True)
class ParityReport:
    """What `validate` found.

    Attributes:
        bundle, backend, lowering, precision, state_dtype: what was compared with the PyTorch model in float32.
        images: how many images were decoded (two rows each).
        steps: one entry a step.
        image_max_abs, image_psnr: the decoded images against PyTorch's from the same codes (PSNR in dB, peak 2).
        gates: the limits.
        failures: what broke them, in words; empty if nothing did.
        image_ssim: their structural similarity.
        states: one entry a state at every step looked at.
        state_gates: their limits.
        first_parting: the first step at which the largest guided logit of an image is another code; None: none.
        non_finite: NaN and infinity in the engine, at the first step that has any.
        diagnosis: what `locate` found; None where it was not asked.
        versions: of what took part.
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
        }

    def worst_states(self) -> dict[str, float]:
        """The worst value of each measure over all states that were looked at; {} if none was."""
        if not self.states:
            return {}
        return {
            "cosine": min((s.cosine for s in self.states), key=nan_lowest),
            "norm_ratio": max((s.norm_ratio for s in self.states), key=lambda r: -nan_lowest(-abs(1 - r))),
            "max_abs": max((s.max_abs for s in self.states), key=lambda d: -nan_lowest(-d)),
        }

    def line(self) -> str:
        """The result in one line."""
        worst = self.worst()
        verdict = "PASS" if self.passed else "FAIL"
        return (
            f"parity {verdict}: {self.lowering} {self.precision} on {self.backend} against PyTorch float32, "
            f"{self.images} images x {len(self.steps)} steps: cosine >= {worst['cosine']:.7f}, "
            f"norm ratio {worst['norm_ratio']:.5f}, max |diff| {worst['max_abs']:.2e}, "
            f"top-1 {worst['top1']:.2%}, KL {worst['kl']:.2e}, image max |diff| {self.image_max_abs:.2e}"
        )

    def summary(self) -> dict[str, Any]:
        """What the manifest keeps: everything but the single steps and states."""
        values = asdict(self) | {"worst": self.worst(), "passed": self.passed, "steps": len(self.steps)}
        values |= {"states": self.worst_states(), "versions": dict(self.versions)}
        del values["bundle"]
        return values

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with every step and state."""
        worst = {"worst": self.worst(), "worst_states": self.worst_states(), "passed": self.passed}
        return asdict(self) | worst | {"versions": dict(self.versions)}


def nan_lowest(value: float) -> float:
    """`value`, or minus infinity for NaN: so that the worst of several is NaN where one is."""
    return -np.inf if np.isnan(value) else value
