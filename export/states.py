"""Forced decoding with an engine and with PyTorch side by side: logits of every step, states of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aim_edge.aim.mixer import LayerState
from aim_edge.aim.model import AimModel
from aim_edge.runtime.arena import Snapshot
from aim_edge.runtime.sampler import Sampler, SamplingConfig

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Step = tuple[Floats, list[LayerState]]


@dataclass(frozen=True)
class StateParity:
    """One state after one step, over all rows: engine against reference.

    Attributes:
        step, layer: from 0.
        kind: "conv" or "ssm".
        cosine, norm_ratio, max_abs: as of logits.
        peak: the largest absolute value in the engine's.
    """

    step: int
    layer: int
    kind: str
    cosine: float
    norm_ratio: float
    max_abs: float
    peak: float

    @property
    def name(self) -> str:
        """As the contract has it."""
        return f"{self.kind}_state_{self.layer}"


@dataclass(frozen=True)
class NonFinite:
    """NaN or infinity in the engine at the first step that was seen to have one.

    Attributes:
        step: from 0; None for "image".
        layer: of a state; None for "logits" and "image".
        where: "conv_state_3", "ssm_state_3", "logits" or "image".
        count: how many numbers; 0 where that is not known.
    """

    step: int | None
    layer: int | None
    where: str
    count: int


@dataclass(frozen=True)
class Decoded:
    """What `decode_beside` saw: logits (T, 2 B, V), states, and the first step's NaN or infinity, layers in order."""

    engine: Floats
    reference: Floats
    states: tuple[StateParity, ...]
    non_finite: tuple[NonFinite, ...]


def similarity(reference: NDArray[Any], engine: NDArray[Any]) -> tuple[float, float, float]:
    """Cosine, norm ratio and largest absolute difference; (1, 1, 0) where both are zero, NaN where one has it."""
    with np.errstate(invalid="ignore", over="ignore"):
        r, e = reference.astype(np.float64), engine.astype(np.float64)
        norm_r, norm_e = float(np.linalg.norm(r)), float(np.linalg.norm(e))
        if norm_r == norm_e == 0:
            return 1.0, 1.0, 0.0
        cosine = float((r * e).sum() / max(norm_r * norm_e, 1e-300))
        return cosine, norm_e / max(norm_r, 1e-300), float(np.abs(r - e).max())


def compare_states(step: int, reference: Snapshot, engine: Snapshot) -> list[StateParity]:
    """Measures of every state, in the order of `reference`."""
    result = []
    for name, wanted in reference.items():
        kind, _, layer = name.split("_")
        found = engine[name]
        peak = float(np.abs(found).max())
        result.append(StateParity(step, int(layer), kind, *similarity(wanted, found), peak))
    return result


def to_snapshot(states: Sequence[LayerState]) -> Snapshot:
    """PyTorch's states as a session's snapshot has them: canonical, conv before ssm, layer by layer."""
    return {
        f"{kind}_state_{i}": tensor.float().cpu().numpy()
        for i, state in enumerate(states)
        for kind, tensor in (("conv", state.conv), ("ssm", state.ssm))
    }


@torch.inference_mode()
def reference_steps(model: AimModel, labels: Ids, tokens: Ids) -> Iterator[Step]:
    """PyTorch's logits (2 B, V) and states after each step with tokens (B, T) forced."""
    given = torch.from_numpy(feed(tokens)).to(model.device)
    condition = model.condition(torch.from_numpy(labels.astype(np.int64)).to(model.device))
    state = model.init_state(2 * len(labels))
    position = torch.zeros(len(labels), dtype=torch.int64, device=model.device)
    for t in range(tokens.shape[1]):
        logits, state = model.step(given[:, t], position + t, condition, state)
        yield logits.float().cpu().numpy(), state


@torch.inference_mode()
def reference_tokens(model: AimModel, labels: Ids, seed: int, config: SamplingConfig) -> Ids:
    """Codes (B, T) that PyTorch draws as a bundle would: what is forced where the bundle draws none."""
    batch, count = len(labels), model.config.num_tokens
    sampler = Sampler(model.config.vocab_size, batch, config)
    condition = model.condition(torch.from_numpy(labels.astype(np.int64)).to(model.device))
    state = model.init_state(2 * batch)
    position = torch.zeros(batch, dtype=torch.int64, device=model.device)
    index = np.arange(batch, dtype=np.uint64)
    tokens = np.zeros((batch, count), np.int32)
    previous = torch.zeros_like(position)
    for t in range(count):
        logits, state = model.step(previous, position + t, condition, state)
        tokens[:, t] = sampler.draw(logits.float().cpu().numpy(), seed, index, t)
        previous = torch.from_numpy(tokens[:, t].astype(np.int64)).to(model.device)
    return tokens


def decode_beside(session: Any, model: AimModel, labels: Ids, tokens: Ids, every: int) -> Decoded:
    """Both decode with tokens (B, T) forced; states are compared at steps 0, every, 2 every, ... and the last.

    Args:
        session: a `runtime.backends.Session` of as many images.
        model: the reference.
        labels: (B) class ids.
        tokens: (B, T).
        every: >= 1.

    Returns:
        What was seen. Where the logits first hold NaN or infinity, that step's states are searched too.
    """
    count = tokens.shape[1]
    given = feed(tokens)
    session.set_condition(labels)
    session.reset()
    engine = np.empty((count, 2 * len(labels), model.config.vocab_size), np.float32)
    reference = np.empty_like(engine)
    states: list[StateParity] = []
    non_finite: list[NonFinite] = []
    for t, (logits, wanted) in enumerate(reference_steps(model, labels, tokens)):
        reference[t] = logits
        engine[t] = session.step(given[:, t], t)
        bad = int((~np.isfinite(engine[t])).sum())
        due = t % every == 0 or t == count - 1
        if not due and (not bad or non_finite):
            continue
        found = session.snapshot()
        if due:
            states += compare_states(t, to_snapshot(wanted), found)
        if not non_finite:
            non_finite = _not_finite(t, found) + ([NonFinite(t, None, "logits", bad)] if bad else [])
    return Decoded(engine, reference, tuple(states), tuple(non_finite))


def feed(tokens: Ids) -> NDArray[np.int64]:
    """What each step is fed: nothing (0) at step 0, then code t - 1."""
    return np.pad(tokens[:, :-1].astype(np.int64), ((0, 0), (1, 0)))


def _not_finite(step: int, snapshot: Snapshot) -> list[NonFinite]:
    counts = {name: int((~np.isfinite(array)).sum()) for name, array in snapshot.items()}
    return [NonFinite(step, int(name.split("_")[2]), name, count) for name, count in counts.items() if count]
