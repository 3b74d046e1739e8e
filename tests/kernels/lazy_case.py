"""mamba2_lazy_step beside the plain recurrence: its states placed on the device, and read back folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from kernels.abi import FLOAT32, Mamba2LazyStepParams
from kernels.decode_case import Array, DecodeBuffers, DecodeCase, DecodeWeights, place
from kernels.harness import Buffer, Device, decode
from numpy.typing import NDArray

STATES = ("x_history", "B_history", "dt_history", "counters")


@dataclass(frozen=True)
class LazyCase(DecodeCase):
    """ssm_state_dtype is the histories', too."""

    capacity: int = 12
    fold_every: int = 4
    steps: int = 40

    @property
    def work(self) -> int:
        return self.rows * self.d_inner * self.d_state * self.steps

    def shapes(self) -> dict[str, tuple[tuple[int, ...], int]]:
        bc_width = self.ngroups * self.d_state
        return {
            "x_history": ((self.rows, self.capacity, self.d_inner), self.ssm_state_dtype),
            "B_history": ((self.rows, self.capacity, bc_width), self.ssm_state_dtype),
            "dt_history": ((self.rows, self.nheads, self.capacity), FLOAT32),
            "counters": ((self.rows, self.nheads, 3), FLOAT32),
        }


@dataclass
class LazyBuffers:
    """What a step reads and writes; `swap` feeds what came out back in, where that is another buffer."""

    step: DecodeBuffers
    given: dict[str, Buffer]
    taken: dict[str, Buffer]
    params: Mamba2LazyStepParams

    def swap(self) -> None:
        for name in ("conv_state", "ssm_state"):
            old, new = f"{name}_in", f"{name}_out"
            first, second = getattr(self.step, old), getattr(self.step, new)
            setattr(self.step, old, second)
            setattr(self.step, new, first)
            setattr(self.params.step, old, second.pointer)
            setattr(self.params.step, new, first.pointer)
        self.given, self.taken = self.taken, self.given
        self.point()

    def point(self) -> None:
        for name in STATES:
            setattr(self.params, f"{name}_in", self.given[name].pointer)
            setattr(self.params, f"{name}_out", self.taken[name].pointer)

    def folded(self) -> Array:
        """The state that `taken` stands for, (rows, nheads, headdim, d_state)."""
        read = {name: decode(buffer.read()) for name, buffer in self.taken.items()}
        return fold(read, decode(self.step.ssm_state_out.read()), self.constants_A)

    constants_A: Any = None


def fold(states: dict[str, Array], ssm: Array, A: Array) -> Array:
    """The plain recurrence over the history of each row."""
    rows, nheads, headdim, d_state = ssm.shape
    state = ssm.copy()
    for row in range(rows):
        count, folded, _ = states["counters"][row, 0]
        if not folded:
            state[row] = 0
        for s in range(int(count)):
            dt = states["dt_history"][row, :, s][:, None, None]
            x = states["x_history"][row, s].reshape(nheads, headdim, 1)
            b = states["B_history"][row, s].reshape(-1, d_state)
            b = np.repeat(b, nheads // len(b), axis=0)[:, None, :]
            state[row] = np.exp(dt * A[:, None, None]) * state[row] + dt * x * b
    return state


def place_lazy(
    device: Device, case: LazyCase, weights: DecodeWeights, states: dict[str, Array], active: NDArray[np.bool_] | None
) -> LazyBuffers:
    step = place(device, case, weights, states["conv_state"], states["ssm_state"], active)
    given = {name: device.array(states[name], dtype) for name, (_, dtype) in case.shapes().items()}
    taken = given if case.in_place else {name: device.empty(*kind) for name, kind in case.shapes().items()}
    params = Mamba2LazyStepParams(step=step.params, capacity=case.capacity, fold_every=case.fold_every)
    buffers = LazyBuffers(step, given, taken, params, weights.A)
    buffers.point()
    return buffers
