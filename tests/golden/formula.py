"""The weights and inputs of the golden cases, as a function of their names: no weight file is needed.

A name's SHA-256 keys a Philox generator; the checkpoint key decides what is drawn from it. `README.md` of the
golden cases says which names a case uses. The VQ case's are "vq/indices" (2, 256) and tanh of "vq/image"
(1, 3, 256, 256).
"""

from __future__ import annotations

import hashlib
from math import log, prod, sqrt

import numpy as np
from numpy.typing import NDArray

_TIED = ("lm_head.weight", "backbone.embeddings.word_embeddings.weight")
_DT_RANGE = (0.001, 0.1)


def _philox(name: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=seed))


def tensor(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 weights of `shape` for a checkpoint key; a tied lm_head gives the word embeddings."""
    if key.endswith(_TIED[0]):
        key = key.replace(*_TIED)
    rng = _philox(key)
    if key.endswith("A_log"):
        return np.log(1.0 + 15.0 * rng.random(shape)).astype(np.float32)
    if key.endswith(("dt_bias", "dt_proj.bias")):
        low, high = _DT_RANGE
        step = np.exp(rng.random(shape) * (log(high) - log(low)) + log(low))
        return (step + np.log(-np.expm1(-step))).astype(np.float32)  # softplus of it is the step
    noise = rng.standard_normal(shape, dtype=np.float32)
    name = key.rsplit(".", 1)[-1]
    if name == "D" or (name == "weight" and len(shape) == 1):
        return (1.0 + 0.1 * noise).astype(np.float32)
    scale = 0.05 if name == "bias" else _scale(key, shape)
    if scale is None:  # divided, not multiplied by the inverse: the reference's last bit
        return (noise / sqrt(prod(shape[1:]))).astype(np.float32)
    return (noise * scale).astype(np.float32)


def _scale(key: str, shape: tuple[int, ...]) -> float | None:
    """Standard deviation by what the key holds; None for a plain weight, which goes by its fan-in."""
    by_part = (
        (("quantize.embedding",), 1.0),
        (("embeddings.", "embedding_table"), 2.0 / sqrt(shape[-1])),
        (("scale_shift_table",), 0.3),
        (("adaLN_modulation", "adaln_group"), 0.5 / sqrt(shape[-1])),
    )
    return next((scale for parts, scale in by_part if any(part in key for part in parts)), None)


def integers(name: str, shape: tuple[int, ...], high: int) -> NDArray[np.int64]:
    """int64 in [0, high): the tokens and labels of a case."""
    return _philox(name).integers(0, high, size=shape, dtype=np.int64)


def normal(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 standard normal: the images of a case."""
    return _philox(name).standard_normal(shape, dtype=np.float32)
