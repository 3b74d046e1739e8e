"""Recurrent state: where each layer's conv_state and ssm_state lie, and their canonical layout.

Canonical, whatever a lowering's graphs use: conv_state (rows, conv_dim, d_conv - 1), ssm_state (rows,
nheads, headdim, d_state), in the bundle's state dtype. A Transformer's k_cache and v_cache (rows, nheads,
num_tokens, headdim) are states like these. A snapshot is a dict of canonical copies by
layer ("conv_state_0", "ssm_state_0", ...), so that what one lowering or backend saved another restores, whether its
graphs stack the layers' states or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import Contract, StateSpec

Array = NDArray[np.floating[Any]]
Snapshot = dict[str, Array]

_ALIGNMENT = 64  # a cache line; also what wide vector loads want


def to_canonical(spec: StateSpec, array: Array) -> Array:
    """A contiguous copy of a graph's state (rows, *spec.shape) in canonical layout."""
    return np.array(array.swapaxes(-1, -2) if spec.transposed else array, order="C")


def from_canonical(spec: StateSpec, array: Array) -> Array:
    """A canonical state as the graph has it: the same memory, transposed where the graph's is."""
    return array.swapaxes(-1, -2) if spec.transposed else array


def canonical_shape(spec: StateSpec) -> tuple[int, ...]:
    """The shape of one row of a layer's state in canonical layout."""
    shape = spec.shape[1:] if spec.layers else spec.shape
    return (*shape[:-2], shape[-1], shape[-2]) if spec.transposed else shape


def snapshot_names(spec: StateSpec) -> list[str]:
    """A snapshot's names of a graph's state: its own, or one a layer."""
    return [f"{spec.input}_{i}" for i in range(spec.layers)] if spec.layers else [spec.input]


def to_snapshot(spec: StateSpec, array: Array) -> Snapshot:
    """What a snapshot has of a graph's state (rows, *spec.shape): canonical copies."""
    if not spec.layers:
        return {spec.input: to_canonical(spec, array)}
    return {name: to_canonical(spec, array[:, i]) for i, name in enumerate(snapshot_names(spec))}


def from_snapshot(spec: StateSpec, snapshot: Mapping[str, Array]) -> Array:
    """A snapshot's state as the graph has it."""
    if not spec.layers:
        return from_canonical(spec, snapshot[spec.input])
    return np.stack([from_canonical(spec, snapshot[name]) for name in snapshot_names(spec)], axis=1)


def check_snapshot(states: Sequence[StateSpec], rows: int, snapshot: Mapping[str, Array]) -> None:
    """Raises ValueError naming every array of `snapshot` that is missing, unknown, or of another kind or shape."""
    wanted = {name: (rows, *canonical_shape(spec)) for spec in states for name in snapshot_names(spec)}
    bad = [f"{name} is unknown" for name in sorted(set(snapshot) - set(wanted))]
    for name, shape in wanted.items():
        if name not in snapshot:
            bad.append(f"{name} is missing")
        elif snapshot[name].shape != shape or not np.issubdtype(snapshot[name].dtype, np.floating):
            found = f"{snapshot[name].dtype} {snapshot[name].shape}"
            bad.append(f"{name} is {found}, expected floating point {shape}")
    if bad:
        raise ValueError("snapshot does not fit this session: " + "; ".join(bad))


class StateArena:
    """All states of `rows` rows in host memory allocated once: two halves, read from one, written to the other.

    A step reads `views(current)` and writes `views(1 - current)`, then `swap()`. No engine of ours updates
    its input in place, and two halves that alternate need no copy.

    Args:
        contract: gives the states, their dtype and shapes.
        rows: 2 B with guidance.
    """

    def __init__(self, contract: Contract, rows: int) -> None:
        self.states = contract.states
        self.rows = rows
        self.current = 0
        sizes = [rows * math.prod(s.shape) * np.dtype(s.dtype).itemsize for s in self.states]
        padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        self.half_bytes = sum(padded)
        # numpy aligns to 16 bytes only: one line more, and the first state starts on a line.
        memory = np.zeros(2 * self.half_bytes + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        self._halves: list[list[Array]] = []
        for half in range(2):
            offset = start + half * self.half_bytes
            views: list[Array] = []
            for spec, size, step in zip(self.states, sizes, padded, strict=True):
                views.append(memory[offset : offset + size].view(spec.dtype).reshape(rows, *spec.shape))
                offset += step
            self._halves.append(views)

    def views(self, half: int) -> list[Array]:
        """The states of one half in the contract's order and the graph's layout: (rows, *spec.shape) each."""
        return self._halves[half]

    def swap(self) -> None:
        """What was written last becomes what is read next."""
        self.current = 1 - self.current

    def zero(self) -> None:
        """Back to the state that decoding starts from."""
        for view in self._halves[self.current]:
            view.fill(0)

    def snapshot(self) -> Snapshot:
        """Canonical copies of the current states, layer by layer."""
        found: Snapshot = {}
        for spec, view in zip(self.states, self._halves[self.current], strict=True):
            found |= to_snapshot(spec, view)
        return found

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """Takes a snapshot's states, of either float dtype (float32 into a float16 arena rounds).

        Raises:
            ValueError: a state is missing, unknown or of another shape; nothing was changed.
        """
        check_snapshot(self.states, self.rows, snapshot)
        for spec, view in zip(self.states, self._halves[self.current], strict=True):
            np.copyto(view, from_snapshot(spec, snapshot), casting="same_kind")
