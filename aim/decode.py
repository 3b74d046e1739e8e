"""Decoding with the PyTorch model: forced logits (the reference of every parity check) and sampling loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .gpt import GptModel
from .model import AimModel


def check_ids(name: str, values: ArrayLike, shape: tuple[int | None, ...], high: int) -> NDArray[np.int64]:
    """`values` as int64, after checking their shape (None: any size) and that all lie in [0, high).

    Raises:
        TypeError: not integers.
        ValueError: wrong shape, or a value out of range (the first is named).
    """
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    if array.ndim != len(shape) or any(s is not None and s != a for s, a in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{name} has shape {array.shape}; expected {shape} (None: any)")
    outside = (array < 0) | (array >= high)
    if outside.any():
        raise ValueError(f"{name} holds {array[outside].flat[0]}; allowed: 0..{high - 1}")
    return array.astype(np.int64)


def check_forced(
    labels: ArrayLike, tokens: ArrayLike, num_classes: int, vocab_size: int, num_tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Checks the inputs of `decode_logits`: labels (B) or (B, 1), tokens (B, T) with T <= num_tokens."""
    label_array = np.asarray(labels)
    if label_array.ndim == 2 and label_array.shape[1] == 1:
        label_array = label_array[:, 0]
    checked = check_ids("labels", label_array, (None,), num_classes + 1)
    token_array = check_ids("tokens", tokens, (len(checked), None), vocab_size)
    if not 1 <= token_array.shape[1] <= num_tokens:
        raise ValueError(f"tokens has {token_array.shape[1]} columns; allowed: 1..{num_tokens}")
    return checked, token_array


@torch.inference_mode()
def decode_logits(
    model: AimModel | GptModel, labels: ArrayLike, tokens: ArrayLike, *, via: str = "step"
) -> NDArray[np.float32]:
    """Logits before guidance while decoding with the given tokens forced.

    Args:
        model: in any precision, on any device.
        labels: (B) or (B, 1) integers in [0, num_classes]; num_classes is the null label.
        tokens: (B, T) integers in [0, vocab_size), T <= num_tokens.
        via: "step" (one call a position, as decoding does) or "scan" (all at once; the Transformer's prefill).

    Returns:
        float32 (T, 2 B, V): rows 0..B-1 carry the label, B..2B-1 the null label. [t] predicts tokens[:, t].

    Raises:
        ValueError, TypeError: an input of the wrong shape, kind or range.
    """
    config = model.config
    label_ids, codes = check_forced(labels, tokens, config.num_classes, config.vocab_size, config.num_tokens)
    if via not in ("step", "scan"):
        raise ValueError(f"via is {via!r}; allowed: 'step', 'scan'")
    given = torch.from_numpy(np.pad(codes[:, :-1], ((0, 0), (1, 0)))).to(model.device)
    condition: Any = model.condition(torch.from_numpy(label_ids).to(model.device))
    state: Any = model.init_state(2 * len(label_ids))
    position = torch.zeros(len(label_ids), dtype=torch.int64, device=model.device)
    if via == "scan":
        scan = model.prefill if isinstance(model, GptModel) else model.scan
        logits, _ = scan(given, position, condition, state)
        return logits.float().transpose(0, 1).cpu().numpy()
    steps = []
    for t in range(given.shape[1]):
        logits, state = model.step(given[:, t], position + t, condition, state)
        steps.append(logits.float().cpu())
    return torch.stack(steps).numpy()
