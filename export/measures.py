"""Two runs of one model compared in NumPy alone: logits of every step, states of some, NaN and infinity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aim_edge.runtime.arena import Snapshot
from aim_edge.runtime.lazy import plain_states

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
STATE_EVERY = 16


@dataclass(frozen=True)
class StepParity:
    """One step, over all rows: engine against reference.

    Attributes:
        step: from 0.
        cosine, norm_ratio, max_abs: of all logits.
        top1, top5: share of the reference's largest, and five largest, that are the engine's.
        kl: KL divergence of the softmax, in nats.
        max_rel: max_abs by the reference's largest absolute logit.
    """

    step: int
    cosine: float
    norm_ratio: float
    max_abs: float
    top1: float
    kl: float
    top5: float = 1.0
    max_rel: float = 0.0


@dataclass(frozen=True)
class StateParity:
    """One state after one step, over all rows: engine against reference.

    Attributes:
        step, layer: from 0.
        kind: "conv" or "ssm", or a Transformer's "k" or "v".
        cosine, norm_ratio, max_abs: as of logits.
        peak: the largest absolute value in the engine's.
        max_rel: max_abs by the reference's largest absolute value.
    """

    step: int
    layer: int
    kind: str
    cosine: float
    norm_ratio: float
    max_abs: float
    peak: float
    max_rel: float = 0.0

    @property
    def name(self) -> str:
        """As the contract has it."""
        return f"{self.kind}_{'cache' if self.kind in ('k', 'v') else 'state'}_{self.layer}"


@dataclass(frozen=True)
class NonFinite:
    """NaN or infinity in the engine at the first step that was seen to have one.

    Attributes:
        step: from 0; None for "image".
        layer: of a state; None for "logits" and "image".
        where: "conv_state_3", "ssm_state_3", "k_cache_3", "v_cache_3", "logits" or "image".
        count: how many numbers; 0 where that is not known.
    """

    step: int | None
    layer: int | None
    where: str
    count: int


@dataclass(frozen=True)
class Decoded:
    """What `decode_against` saw: logits (T, 2 B, V), states, and each side's first NaN or infinity, layers in order."""

    engine: Floats
    reference: Floats
    states: tuple[StateParity, ...]
    non_finite: tuple[NonFinite, ...]
    reference_non_finite: tuple[NonFinite, ...] = ()


def similarity(reference: NDArray[Any], engine: NDArray[Any]) -> tuple[float, float, float]:
    """Cosine, norm ratio and largest absolute difference; (1, 1, 0) where both are zero, NaN where one has it."""
    with np.errstate(invalid="ignore", over="ignore"):
        r, e = reference.astype(np.float64), engine.astype(np.float64)
        norm_r, norm_e = float(np.linalg.norm(r)), float(np.linalg.norm(e))
        if norm_r == norm_e == 0:
            return 1.0, 1.0, 0.0
        cosine = float((r * e).sum() / max(norm_r * norm_e, 1e-300))
        return cosine, norm_e / max(norm_r, 1e-300), float(np.abs(r - e).max())


def relative(difference: float, reference: NDArray[Any]) -> float:
    """By the reference's largest absolute value; 0 where nothing differs, infinity where only the reference is zero."""
    if difference == 0:
        return 0.0
    largest = float(np.abs(reference).max())
    return difference / largest if largest else float("inf")


def compare_states(step: int, reference: Snapshot, engine: Snapshot) -> list[StateParity]:
    """Measures of every state, in the order of `reference`."""
    result = []
    for name, wanted in reference.items():
        kind, _, layer = name.split("_")
        found = engine[name]
        peak = float(np.abs(found).max())
        measured = similarity(wanted, found)
        result.append(StateParity(step, int(layer), kind, *measured, peak, relative(measured[2], wanted)))
    return result


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
        top5 = _top_agreement(r, e, 5)
        result.append(StepParity(step, cosine, norm_ratio, max_abs, top1, kl, top5, relative(max_abs, r)))
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


def decode_against(
    session: Any, reference: Iterable[tuple[Floats, Callable[[], Snapshot]]], labels: Ids, tokens: Ids, every: int,
    vocab_size: int,
) -> Decoded:  # fmt: skip
    """An engine decodes with tokens (B, T) forced, beside a reference that does; no state is kept.

    Args:
        session: a `runtime.backends.Session` of as many images.
        reference: of each step, the logits (2 B, V) and what gives the states after it.
        labels: (B) class ids.
        tokens: (B, T).
        every: >= 1; states are compared at steps 0, every, 2 every, ... and the last.
        vocab_size: V.

    Returns:
        What was seen. Where logits first hold NaN or infinity, that step's states are searched too.
    """
    count = tokens.shape[1]
    given = feed(tokens)
    session.set_condition(labels)
    session.reset()
    engine_logits = np.empty((count, 2 * len(labels), vocab_size), np.float32)
    reference_logits = np.empty_like(engine_logits)
    states: list[StateParity] = []
    engine_bad: list[NonFinite] = []
    reference_bad: list[NonFinite] = []
    for t, (logits, get_wanted) in enumerate(reference):
        reference_logits[t] = logits
        engine_logits[t] = session.step(given[:, t], t)
        due = t % every == 0 or t == count - 1
        sides = ((engine_logits[t], session.snapshot, engine_bad), (reference_logits[t], get_wanted, reference_bad))
        snapshots = []
        for found, get_states, bad in sides:
            wrong = int((~np.isfinite(found)).sum())
            if due or (wrong and not bad):
                snapshots.append(plain_states(get_states()))
                bad += [] if bad else _not_finite(t, snapshots[-1], wrong)
        if due:
            states += compare_states(t, snapshots[1], snapshots[0])
    return Decoded(engine_logits, reference_logits, tuple(states), tuple(engine_bad), tuple(reference_bad))


def feed(tokens: Ids) -> NDArray[np.int64]:
    """What each step is fed: nothing (0) at step 0, then code t - 1."""
    return np.pad(tokens[:, :-1].astype(np.int64), ((0, 0), (1, 0)))


def _not_finite(step: int, snapshot: Snapshot, logits: int) -> list[NonFinite]:
    """The states that hold NaN or infinity, and the logits where `logits` of them do."""
    counts = {name: int((~np.isfinite(array)).sum()) for name, array in snapshot.items()}
    found = [NonFinite(step, int(name.split("_")[2]), name, count) for name, count in counts.items() if count]
    return found + ([NonFinite(step, None, "logits", logits)] if logits else [])
