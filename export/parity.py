"""Proof that a bundle still is the checkpoint's model: forced decoding, compared step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aim_edge.aim.checkpoint import Checkpoint, load_checkpoint
from aim_edge.runtime import Generator, NonFiniteError
from aim_edge.runtime.images import Image8

from .parity_report import GATES, STATE_GATES, Gates, ParityReport, StateGates, StepParity
from .pictures import psnr, reference_images, ssim
from .states import NonFinite, StateParity, decode_beside, reference_tokens, similarity

Floats = NDArray[np.float32]
STATE_EVERY = 16


@dataclass(frozen=True)
class Examination:
    """A report with what it was made from: what `locate` and the HTML report need.

    Attributes:
        report: the measures.
        checkpoint: the reference.
        labels, tokens: (B) classes and (B, T) codes that were forced.
        drawn: the bundle's images (B, H, W, C) uint8 of all codes; None where they held NaN or infinity.
        wanted: PyTorch's.
    """

    report: ParityReport
    checkpoint: Checkpoint
    labels: NDArray[np.int32]
    tokens: NDArray[np.int32]
    drawn: Image8 | None
    wanted: Image8


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
        cosine, norm_ratio, max_abs = similarity(r, e)
        with np.errstate(invalid="ignore"):
            log_r, log_e = _log_softmax(r), _log_softmax(e)
            kl = float(np.mean((np.exp(log_r) * (log_r - log_e)).sum(-1)))
        top1 = float(np.mean(r.argmax(-1) == e.argmax(-1)))
        result.append(StepParity(step, cosine, norm_ratio, max_abs, top1, kl, _top_agreement(r, e, 5)))
    return tuple(result)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(-1, keepdims=True)
    result: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return result


def _top_agreement(reference: NDArray[np.float64], engine: NDArray[np.float64], count: int) -> float:
    """Share of the reference's `count` largest, over all rows, that are among the engine's `count` largest."""
    count = min(count, reference.shape[-1])
    best_r, best_e = (np.argpartition(x, -count, axis=-1)[..., -count:] for x in (reference, engine))
    return float(np.mean((best_r[..., :, None] == best_e[..., None, :]).any(-1)))


def first_parting(reference: Floats, engine: Floats, guidance_scale: float) -> int | None:
    """The first step at which the greedy code of an image, guided, differs; logits are (T, 2 B, V). None: none."""

    def greedy(logits: Floats) -> NDArray[np.intp]:
        with_label, without = np.split(logits, 2, axis=1)
        with np.errstate(invalid="ignore"):
            result: NDArray[np.intp] = (without + (with_label - without) * guidance_scale).argmax(-1)
        return result

    steps = np.flatnonzero((greedy(reference) != greedy(engine)).any(-1))
    return int(steps[0]) if len(steps) else None


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
    state_every: int = STATE_EVERY,
    state_gates: StateGates | None = None,
) -> ParityReport:
    """Compares a bundle, through a backend, with its checkpoint in PyTorch float32.

    The bundle draws `images` images; then both decode with those codes forced, and their logits are compared
    step by step, every layer's states at some steps, and the decoded images too. Where the bundle can draw
    none for NaN or infinity, the codes are those that PyTorch draws.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from; None takes the source that the manifest names.
        backend: a runtime backend.
        images: how many images, of classes spread over all.
        steps: compare only the first so many steps; None: all.
        seed: of the sampling.
        gates: limits; None takes `GATES` of the bundle's precision.
        progress: called with what is being done.
        state_every: states are compared at every so many steps, and at the last.
        state_gates: limits; None takes `STATE_GATES` of the bundle's precision.

    Raises:
        ValueError: an argument is out of range, or the checkpoint is another than the bundle's.
    """
    return examine(
        bundle, checkpoint, backend=backend, images=images, steps=steps, seed=seed, gates=gates, progress=progress,
        state_every=state_every, state_gates=state_gates,
    ).report  # fmt: skip


def examine(
    bundle: str | Path, checkpoint: str | Path | Checkpoint | None = None, *, backend: str = "ort-cpu",
    images: int = 2, steps: int | None = None, seed: int = 0, gates: Gates | None = None,
    progress: Callable[[str], None] | None = None, state_every: int = STATE_EVERY,
    state_gates: StateGates | None = None,
) -> Examination:  # fmt: skip
    """As `validate`, and returns what the report was made from too."""
    tell = progress or (lambda what: None)
    with Generator.open(bundle, backend=backend) as generator:
        manifest = generator.bundle.manifest
        dims = manifest.contract.dims
        length = dims.num_tokens if steps is None else steps
        if not images >= 1 or not 1 <= length <= dims.num_tokens:
            raise ValueError(f"images is {images} and steps {steps}; allowed: >= 1, and 1..{dims.num_tokens}")
        if not state_every >= 1:
            raise ValueError(f"state_every is {state_every}; allowed: >= 1")
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
        tokens, drawn = _draw(generator, checkpoint, labels, seed)
        tell("decoding with PyTorch and with the bundle, codes forced")
        session = generator.session(images)
        decoded = decode_beside(session, checkpoint.aim, labels, tokens[:, :length], state_every)
    tell("decoding images with PyTorch")
    wanted = reference_images(checkpoint, tokens)
    measured = compare_steps(decoded.reference, decoded.engine)
    gates = gates or GATES[manifest.precision]
    nan = float("nan")
    max_abs = nan if drawn is None else float(np.abs(drawn.astype(np.int16) - wanted).max() / 127.5)
    state_gates = state_gates or STATE_GATES[manifest.precision]
    failures = find_failures(measured, max_abs, gates) + find_state_failures(decoded.states, state_gates)
    non_finite = decoded.non_finite + ((NonFinite(None, None, "image", 0),) if drawn is None else ())
    report = ParityReport(
        bundle=str(bundle),
        backend=backend,
        lowering=manifest.lowering,
        precision=manifest.precision,
        state_dtype=manifest.state_dtype,
        images=images,
        steps=measured,
        image_max_abs=max_abs,
        image_psnr=nan if drawn is None else psnr(wanted, drawn),
        gates=gates,
        failures=failures + _non_finite_failure(non_finite),
        image_ssim=nan if drawn is None else ssim(wanted, drawn),
        state_gates=state_gates,
        states=decoded.states,
        first_parting=first_parting(decoded.reference, decoded.engine, manifest.sampling_defaults.guidance_scale),
        non_finite=non_finite,
        versions=_versions(manifest.aim_edge_version),
    )
    return Examination(report, checkpoint, labels, tokens, drawn, wanted)


def _draw(
    generator: Generator, checkpoint: Checkpoint, labels: NDArray[np.int32], seed: int
) -> tuple[NDArray[np.int32], Image8 | None]:
    """Codes (B, T), PyTorch's where the bundle's logits are no numbers, and the bundle's images of them, if any."""
    try:
        drawn, tokens = generator.generate(labels, seed=seed)
    except NonFiniteError:
        tokens = reference_tokens(checkpoint.aim, labels, seed, generator.bundle.manifest.sampling_defaults)
        try:
            return tokens, generator.decode_tokens(tokens)
        except NonFiniteError:
            return tokens, None
    return tokens, drawn


def _non_finite_failure(found: tuple[NonFinite, ...]) -> tuple[str, ...]:
    if not found:
        return ()
    at = "" if found[0].step is None else f" at step {found[0].step}"
    return (f"not finite: NaN or infinity{at} in {', '.join(f.where for f in found[:4])}",)


def _versions(exported_by: str) -> tuple[tuple[str, str], ...]:
    """Of the packages that took part, where they are there."""
    found = [("aim-edge that exported", exported_by)]
    for name in ("aim-edge", "torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)
