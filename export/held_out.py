"""Codes that a model was not trained on, decoded by two bundles: how well each foretells them. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aim_edge.runtime import Generator

from .compare import Side, check_same_model
from .measures import Floats, Ids, StepParity, compare_steps, feed
from .parity_report import weights_of

# By how much cross-entropy may be above the reference's.
LOSS = {"float32": 0.001, "float16": 0.002, "int8": 0.01, "int4": 0.03}
_BATCH = 16


@dataclass(frozen=True)
class HeldOutReport:
    """What was found.

    Attributes:
        bundle, against: the bundle that is judged and the reference, each with its backend.
        weights, against_weights: "float32", "float16", "int8" or "int4".
        images, codes: how many images, of how many codes each.
        cross_entropy, against_cross_entropy: nats a code, of the rows with the class; images count alike.
        kl: KL(reference || bundle), top1: share of equal largest logits; means over all steps and both kinds of rows.
        steps: one entry a step.
        allowed: the largest share by which cross-entropy may be above the reference's.
    """

    bundle: str
    against: str
    weights: str
    against_weights: str
    images: int
    codes: int
    cross_entropy: float
    against_cross_entropy: float
    kl: float
    top1: float
    steps: tuple[StepParity, ...]
    allowed: float

    @property
    def loss(self) -> float:
        """The share by which cross-entropy is above the reference's."""
        return self.cross_entropy / self.against_cross_entropy - 1

    @property
    def passed(self) -> bool:
        """Whether that is allowed; NaN is not."""
        return self.loss <= self.allowed

    def line(self) -> str:
        """The result in one line."""
        return (
            f"held out {'PASS' if self.passed else 'FAIL'}: cross-entropy {self.cross_entropy:.4f} nats a code against "
            f"{self.against_cross_entropy:.4f} ({self.loss:+.2%}, allowed {self.allowed:+.1%}), KL {self.kl:.2e}, "
            f"top-1 {self.top1:.2%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self) | {"loss": self.loss, "passed": self.passed}


def read_codes(path: str | Path, images: int | None = None) -> tuple[Ids, Ids]:
    """Classes (N) and codes (N, T) of an .npz with `labels` and `tokens`; `images` of them, spread over all.

    Raises:
        ValueError: an array is missing or has another shape, or there are fewer images.
    """
    with np.load(path, allow_pickle=False) as file:
        if missing := [name for name in ("labels", "tokens") if name not in file.files]:
            raise ValueError(f"{path} lacks {missing}; expected labels (N) and tokens (N, T), integers")
        labels, tokens = file["labels"], file["tokens"]
    if labels.ndim != 1 or tokens.ndim != 2 or len(labels) != len(tokens) or not len(labels):
        raise ValueError(f"{path}: labels {labels.shape}, tokens {tokens.shape}; expected (N) and (N, T), N >= 1")
    if images is not None:
        if not 1 <= images <= len(labels):
            raise ValueError(f"images is {images}; {path} has {len(labels)}")
        chosen = np.linspace(0, len(labels) - 1, images).round().astype(int)
        labels, tokens = labels[chosen], tokens[chosen]
    return labels.astype(np.int32), tokens.astype(np.int32)


def compare_held_out(
    side: Side, against: Side, labels: Ids, tokens: Ids, *, allowed: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> HeldOutReport:  # fmt: skip
    """Both bundles decode with these codes (N, T) of classes (N) forced.

    Args:
        side: what is judged.
        against: the reference.
        labels, tokens: see `read_codes`.
        allowed: largest share of more cross-entropy; None takes `LOSS` of the bundle's weights.
        progress: called with what is being done.

    Raises:
        ValueError: labels or tokens are not the model's, or the two are not bundles of the same model.
    """
    tell = progress or (lambda what: None)
    with (
        Generator.open(against.bundle, against.backend, **against.options) as reference,
        Generator.open(side.bundle, side.backend, **side.options) as engine,
    ):
        mine, theirs = engine.bundle.manifest, reference.bundle.manifest
        check_same_model(side, against, mine, theirs)
        dims = engine.dims
        if tokens.shape[1] > dims.num_tokens or not 0 <= tokens.min() <= tokens.max() < dims.vocab_size:
            raise ValueError(f"tokens do not fit: expected up to {dims.num_tokens} of 0..{dims.vocab_size - 1}")
        if not 0 <= labels.min() <= labels.max() < dims.num_classes:
            raise ValueError(f"labels are {labels.min()}..{labels.max()}; allowed: 0..{dims.num_classes - 1}")
        losses, parts, sizes = [], [], []
        for start in range(0, len(labels), _BATCH):
            tell(f"decoding held-out codes: image {start} of {len(labels)}")
            part = slice(start, start + _BATCH)
            found, wanted = (_logits(g, labels[part], tokens[part]) for g in (engine, reference))
            losses.append([_cross_entropy(logits, tokens[part]) for logits in (found, wanted)])
            parts.append(compare_steps(wanted, found))
            sizes.append(len(labels[part]))
    share = np.array(sizes) / len(labels)
    own, other = share @ np.array(losses)
    steps = tuple(_mean(step, share) for step in zip(*parts, strict=True))
    weights = weights_of(mine)
    return HeldOutReport(
        side.name, against.name, weights, weights_of(theirs), len(labels), tokens.shape[1], float(own), float(other),
        float(np.mean([s.kl for s in steps])), float(np.mean([s.top1 for s in steps])), steps,
        LOSS[weights] if allowed is None else allowed,
    )  # fmt: skip


def _logits(generator: Generator, labels: Ids, tokens: Ids) -> Floats:
    given = feed(tokens)
    with generator.borrow_session(labels) as session:
        return np.stack([session.step(given[:, t], t).copy() for t in range(tokens.shape[1])])


def _cross_entropy(logits: Floats, tokens: Ids) -> float:
    """Nats a code: logits (T, 2 B, V), rows with the class first."""
    rows = logits[:, : len(tokens)].astype(np.float64)
    rows -= rows.max(-1, keepdims=True)
    picked = np.take_along_axis(rows, tokens.T[..., None].astype(np.int64), -1)[..., 0]
    return float((np.log(np.exp(rows).sum(-1)) - picked).mean())


def _mean(steps: tuple[StepParity, ...], share: Any) -> StepParity:
    """The same step of several batches: means, and the worst of what has a worst."""
    kl, top1, top5 = (float(share @ np.array([getattr(s, name) for s in steps])) for name in ("kl", "top1", "top5"))
    ratio = max((s.norm_ratio for s in steps), key=lambda r: abs(1 - r))
    cosine, difference = min(s.cosine for s in steps), max(s.max_abs for s in steps)
    return StepParity(steps[0].step, cosine, ratio, difference, top1, kl, top5)
