"""From logits to codes: guidance, temperature, top-k, top-p and one Philox draw an image.

The order and the rules are those of the published `sample` (hp-l33/AiM at 0a91c60,
models/stage2/generation.py), except that temperature is honoured. Logits are filtered in float32 and
probabilities summed in float64, row by row, so that a row's result depends on nothing else in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import check_known
from .errors import NonFiniteError
from .philox import uniform

# As Python floats: a comparison with a float32 would first round the value, and warn.
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


@dataclass(frozen=True)
class SamplingConfig:
    """How codes are drawn. Every bad field is reported at once, as a ValueError.

    guidance_scale: logits are uncond + (cond - uncond) * scale; finite, >= 0 (1: no guidance).
    temperature: logits are divided by it; finite, > 0. The most probable code alone: top_k=1.
    top_k: only the k largest logits stay, and those equal to the k-th; 0: all. More than V means V.
    top_p: of what top_k left, the most probable codes that together reach top_p of the mass; in (0, 1],
        1: all. Codes of equal probability stay or go together; the most probable always stays.
    """

    guidance_scale: float = 4.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        bad = []
        for name, low, high, allowed in (
            ("guidance_scale", 0.0, _HUGE, "a finite number >= 0"),
            ("temperature", _TINY, _HUGE, "a finite number > 0"),
            ("top_p", _TINY, 1.0, "a number in (0, 1]"),
        ):
            value = getattr(self, name)
            if _is_number(value) and low <= value <= high:
                object.__setattr__(self, name, float(value))
            else:
                bad.append(f"{name} is {value!r} (allowed: {allowed})")
        if _is_number(self.top_k) and isinstance(self.top_k, (int, np.integer)) and self.top_k >= 0:
            object.__setattr__(self, "top_k", int(self.top_k))
        else:
            bad.append(f"top_k is {self.top_k!r} (allowed: an integer >= 0; 0 means all)")
        if bad:
            raise ValueError("sampling: " + "; ".join(bad))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SamplingConfig:
        """Reads `to_dict`'s form; fields left out keep their default. Raises ValueError on unknown keys."""
        check_known(cls, values, "sampling")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def override(self, **values: Any) -> SamplingConfig:
        """A copy in which every value that is not None replaces this one's. Raises ValueError as the class does."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})


class Sampler:
    """Draws the next code of each image; every buffer of V entries is allocated here, once.

    Args:
        vocab_size: V.
        batch: B, images; logits have 2 B rows.
        config: how to draw.
    """

    def __init__(self, vocab_size: int, batch: int, config: SamplingConfig) -> None:
        self.vocab_size = vocab_size
        self.batch = batch
        self.config = config
        self._scale = np.float32(config.guidance_scale)
        self._temperature = np.float32(config.temperature)
        self._guided = np.empty((batch, vocab_size), np.float32)
        self._order = np.empty(vocab_size, np.float32)
        self._weights = np.empty(vocab_size, np.float64)
        self._sorted = np.empty(vocab_size, np.float64)
        self._cumulative = np.empty(vocab_size, np.float64)
        self._mask = np.empty(vocab_size, np.bool_)

    def draw(
        self, logits: NDArray[np.float32], seed: int, image_index: NDArray[np.uint64], step: int
    ) -> NDArray[np.int32]:
        """Draws one code an image: the first whose cumulative probability, in code order, exceeds u.

        Args:
            logits: (2 B, V) float32 before guidance, label rows then null rows. Left as it is.
            seed: in [0, 2^64).
            image_index: (B) uint64; with seed and step it decides u (see `philox`).
            step: index of the code to draw.

        Returns:
            (B) int32 codes.

        Raises:
            NonFiniteError: a row's largest guided logit is NaN or infinite.
            ValueError: logits or image_index have another shape.
        """
        guided = self._guide(logits)
        if image_index.shape != (self.batch,):
            raise ValueError(f"image_index has shape {image_index.shape}; expected ({self.batch},)")
        uniforms = uniform(seed, image_index, step)
        tokens = np.empty(self.batch, np.int32)
        for row in range(self.batch):
            ids, weights = self._filter(guided[row], row)
            cumulative = np.cumsum(weights, out=self._cumulative[: weights.size])
            # u < 1, so u * total < total in float64 too: the index exists and its weight is not zero.
            index = np.searchsorted(cumulative, uniforms[row] * cumulative[-1], side="right")
            tokens[row] = index if ids is None else ids[index]
        return tokens

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """The exact distribution that `draw` draws from (for tests and reports; allocates its result).

        Args:
            logits: (2 B, V) float32 before guidance.

        Returns:
            (B, V) float64; rows sum to 1, filtered codes are 0.
        """
        guided = self._guide(logits)
        result = np.zeros(guided.shape, np.float64)
        for row in range(self.batch):
            ids, weights = self._filter(guided[row], row)
            result[row, slice(None) if ids is None else ids] = weights / weights.sum()
        return result

    def _guide(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Guidance and temperature into the preallocated (B, V)."""
        if logits.shape != (2 * self.batch, self.vocab_size) or logits.dtype != np.float32:
            found = f"{logits.dtype} {logits.shape}"
            raise ValueError(f"logits are {found}; expected float32 ({2 * self.batch}, {self.vocab_size})")
        cond, uncond, guided = logits[: self.batch], logits[self.batch :], self._guided
        np.subtract(cond, uncond, out=guided)
        np.multiply(guided, self._scale, out=guided)
        np.add(guided, uncond, out=guided)
        if self._temperature != 1:
            np.divide(guided, self._temperature, out=guided)
        return guided

    def _filter(self, logits: NDArray[np.float32], row: int) -> tuple[NDArray[np.intp] | None, NDArray[np.float64]]:
        """One row's codes that top-k leaves (None: all V) and their weights, zero where top-p removes them."""
        largest = float(logits.max())
        if not math.isfinite(largest):
            raise NonFiniteError(f"row {row}: the largest guided logit is {largest}; the engine overflowed")
        ids: NDArray[np.intp] | None = None
        weights = self._weights
        if 0 < self.config.top_k < self.vocab_size:
            kth = self.vocab_size - self.config.top_k
            np.copyto(self._order, logits)
            self._order.partition(kth)
            np.greater_equal(logits, self._order[kth], out=self._mask)
            ids = np.flatnonzero(self._mask)
            weights = weights[: ids.size]
            weights[:] = logits[ids]
        else:
            np.copyto(weights, logits)
        np.subtract(weights, largest, out=weights)
        np.exp(weights, out=weights)
        if self.config.top_p < 1:
            self._remove_tail(weights)
        return ids, weights

    def _remove_tail(self, weights: NDArray[np.float64]) -> None:
        """Top-p: in ascending order, whatever has a cumulative share of at most 1 - top_p becomes zero."""
        ascending = self._sorted[: weights.size]
        np.copyto(ascending, weights)
        ascending.sort()
        cumulative = np.cumsum(ascending, out=self._cumulative[: weights.size])
        cut = (1 - self.config.top_p) * cumulative[-1]
        first = min(int(np.searchsorted(cumulative, cut, side="right")), weights.size - 1)
        removed = np.less(weights, ascending[first], out=self._mask[: weights.size])
        np.copyto(weights, 0, where=removed)
