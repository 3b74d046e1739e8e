"""Lazily folded states: what a history of tokens beside an ssm_state stands for.

Per row and layer: x_history (capacity, d_inner), B_history (capacity, ngroups * d_state), dt_history (nheads, capacity)
and history_counters (nheads, 3): tokens in the history, whether ssm_state holds any (else it is zero), and A.
"""

from __future__ import annotations

import numpy as np

from .arena import Array, Snapshot

_HISTORY = ("x_history", "B_history", "dt_history", "history_counters")


def plain_states(snapshot: Snapshot) -> Snapshot:
    """A snapshot whose histories are folded into its ssm_states and left out; one without histories as it is.

    Folded states are float32.
    """
    plain: Snapshot = {}
    for name, array in snapshot.items():
        kind, _, layer = name.rpartition("_")
        if kind in _HISTORY:
            continue
        history = [snapshot.get(f"{part}_{layer}") for part in _HISTORY]
        if kind == "ssm_state" and history[0] is not None:
            array = folded_state(array, *(part for part in history if part is not None))
        plain[name] = array
    return plain


def folded_state(ssm_state: Array, x_history: Array, B_history: Array, dt_history: Array, counters: Array) -> Array:
    """ssm_state (rows, nheads, headdim, d_state) with the history folded into it, float32."""
    rows, nheads, headdim, d_state = ssm_state.shape
    capacity = x_history.shape[1]
    count, folded, decay = (counters[..., i, None].astype(np.float64) for i in range(3))  # (rows, nheads, 1)
    dt = np.where(np.arange(capacity) < count, dt_history.astype(np.float64), 0.0)
    after = dt[..., ::-1].cumsum(-1)[..., ::-1]  # of each token and all that follow it
    weight = dt * np.exp(decay * (after - dt))
    x = x_history.astype(np.float64).reshape(rows, capacity, nheads, headdim)
    b = B_history.astype(np.float64).reshape(rows, capacity, -1, d_state)
    b = np.repeat(b, nheads // b.shape[2], axis=2)
    held = np.where(folded[..., None] > 0, ssm_state.astype(np.float64), 0.0)
    state = held * np.exp(decay * after[..., :1])[..., None]
    result: Array = (state + np.einsum("rhs,rshp,rshn->rhpn", weight, x, b, optimize=True)).astype(np.float32)
    return result
