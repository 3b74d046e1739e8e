"""Proof that a bundle still is the checkpoint's model: forced decoding, compared step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aim_edge.aim.checkpoint import Checkpoint, load_checkpoint
from aim_edge.aim.decode import decode_logits
from aim_edge.runtime import Generator

Floats = NDArray[np.float32]


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
class StepParity:
    """One step, over all rows: engine against reference."""

    step: int
    cosine: float
    norm_ratio: float
    max_abs: float
    top1: float
    kl: float


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

    @property
    def passed(self) -> bool:
        """No gate was broken."""
        return not self.failures

    def worst(self) -> dict[str, float]:
        """The worst value of each measure over all steps (top1 and kl: the mean)."""
        return {
            "cosine": min(s.cosine for s in self.steps),
            "norm_ratio": max((s.norm_ratio for s in self.steps), key=lambda r: abs(1 - r)),
            "max_abs": max(s.max_abs for s in self.steps),
            "top1": float(np.mean([s.top1 for s in self.steps])),
            "kl": float(np.mean([s.kl for s in self.steps])),
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
        """What the manifest keeps: everything but the single steps."""
        values = asdict(self) | {"worst": self.worst(), "passed": self.passed, "steps": len(self.steps)}
        del values["bundle"]
        return values

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form with every step."""
        return asdict(self) | {"worst": self.worst(), "passed": self.passed}


def compare_steps(reference: Floats, engine: Floats) -> tuple[StepParity, ...]:
    """Measures of each step.

    Args:
        reference, engine: (T, rows, V) logits.

    Returns:
        T entries; kl is KL(reference || engine) of the softmax, the mean over rows, in nats. A step with a
        NaN or infinity in the engine's logits has NaN measures, which no gate lets pass.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != engine.shape:
        raise ValueError(f"engine has shape {engine.shape}; expected the reference's, {reference.shape}")
    result = []
    for step, (r32, e32) in enumerate(zip(reference, engine, strict=True)):
        r, e = r32.astype(np.float64), e32.astype(np.float64)
        norm_r, norm_e = np.linalg.norm(r), np.linalg.norm(e)
        log_r, log_e = _log_softmax(r), _log_softmax(e)
        result.append(
            StepParity(
                step,
                float((r * e).sum() / max(norm_r * norm_e, 1e-300)),
                float(norm_e / max(norm_r, 1e-300)),
                float(np.abs(r - e).max()),
                float(np.mean(r.argmax(-1) == e.argmax(-1))),
                float(np.mean((np.exp(log_r) * (log_r - log_e)).sum(-1))),
            )
        )
    return tuple(result)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


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


def validate(
    bundle: str | Path,
    checkpoint: str | Path | Checkpoint | None = None,
    *,
    backend: str = "ort-cpu",
    images: int = 2,
    steps: int | None = None,
    seed: int = 0,
    gates: Gates | None = None,
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Compares a bundle, through a backend, with its checkpoint in PyTorch float32.

    The bundle draws `images` images; then both decode with those codes forced and their logits are compared
    step by step, and the decoded images too.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from; None takes the source that the manifest names.
        backend: a runtime backend.
        images: how many images, of classes spread over all.
        steps: compare only the first so many steps; None: all.
        seed: of the sampling.
        gates: limits; None takes `GATES` of the bundle's precision.
        progress: called with what is being done.

    Raises:
        ValueError: an argument is out of range, or the checkpoint is another than the bundle's.
    """
    tell = progress or (lambda what: None)
    with Generator.open(bundle, backend=backend) as generator:
        manifest = generator.bundle.manifest
        dims = manifest.contract.dims
        length = dims.num_tokens if steps is None else steps
        if not images >= 1 or not 1 <= length <= dims.num_tokens:
            raise ValueError(f"images is {images} and steps {steps}; allowed: >= 1, and 1..{dims.num_tokens}")
        if not isinstance(checkpoint, Checkpoint):
            tell("reading the checkpoint")
            checkpoint = load_checkpoint(checkpoint or manifest.checkpoint.source)
        if checkpoint.sha256 != manifest.checkpoint.sha256:
            raise ValueError(
                f"{checkpoint.source} has SHA-256 {checkpoint.sha256}, but the bundle was exported from "
                f"{manifest.checkpoint.sha256} ({manifest.checkpoint.source}); name that checkpoint"
            )
        labels = np.linspace(0, dims.num_classes - 1, images).round().astype(np.int32)
        tell("drawing images with the bundle")
        drawn, tokens = generator.generate(labels, seed=seed)
        tell("decoding with the bundle, codes forced")
        engine = generator.decode_logits(labels, tokens[:, :length])
    tell("decoding with PyTorch, codes forced")
    reference = decode_logits(checkpoint.aim, labels, tokens[:, :length])
    tell("decoding images with PyTorch")
    difference = drawn_difference(checkpoint, tokens, drawn)
    measured = compare_steps(reference, engine)
    gates = gates or GATES[manifest.precision]
    image_max_abs = float(np.abs(difference).max())
    mean_square = float(np.mean(np.square(difference)))
    return ParityReport(
        bundle=str(bundle),
        backend=backend,
        lowering=manifest.lowering,
        precision=manifest.precision,
        state_dtype=manifest.state_dtype,
        images=images,
        steps=measured,
        image_max_abs=image_max_abs,
        image_psnr=float(10 * np.log10(4 / max(mean_square, 1e-12))),
        gates=gates,
        failures=find_failures(measured, image_max_abs, gates),
    )


@torch.inference_mode()
def drawn_difference(checkpoint: Checkpoint, tokens: NDArray[Any], drawn: NDArray[np.uint8]) -> Floats:
    """Images (B, H, W, C) as drawn minus PyTorch's of the same codes, both on the uint8 grid, in [-2, 2]."""
    side = round(tokens.shape[1] ** 0.5)
    codes = torch.from_numpy(tokens.astype(np.int64)).view(-1, side, side)
    image = checkpoint.vq.decode(codes).float().clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    reference = np.rint((image + 1) * 127.5)
    result: Floats = ((drawn.astype(np.float32) - reference) / 127.5).astype(np.float32)
    return result
