"""The decode loop for sessions that give their logits to the host: draws with the NumPy sampler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .checks import check_integer
from .sampler import Sampler, SamplingConfig

if TYPE_CHECKING:
    from .backends import Session


def decode_on_host(
    session: Session, vocab_size: int, sampling: SamplingConfig, seed: int, image_index: NDArray[np.uint64],
    tokens: NDArray[np.int32], start: int, every: int,
) -> Iterator[int]:  # fmt: skip
    """See `backends.Session.decode`.

    Args:
        session: its condition is set, and tokens[:, :start] were scanned.
        vocab_size: V.
        sampling, seed, image_index, tokens, start, every: as `decode` takes them.
    """
    check_decode(session.batch, tokens, start, every)
    length = tokens.shape[1]
    sampler = Sampler(vocab_size, session.batch, sampling)
    previous = tokens[:, start - 1] if start else np.zeros(session.batch, np.int32)
    for t in range(start, length):
        logits = session.step(previous, t)
        previous = sampler.draw(logits, seed, image_index, t)
        tokens[:, t] = previous
        if (t + 1 - start) % every == 0 or t + 1 == length:
            yield t + 1


def check_decode(batch: int, tokens: NDArray[np.int32], start: int, every: int) -> None:
    """Raises ValueError or TypeError where these are not what `Session.decode` takes."""
    if tokens.ndim != 2 or len(tokens) != batch or tokens.dtype != np.int32:
        raise ValueError(f"tokens are {tokens.dtype} {tokens.shape}; expected int32 ({batch}, T)")
    check_integer("start", start, 0, tokens.shape[1] - 1)
    check_integer("every", every, 1, 1 << 30)
