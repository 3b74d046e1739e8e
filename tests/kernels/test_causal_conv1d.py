"""causal_conv1d against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, CausalConv1dParams
from kernels.harness import POISON, Device, decode, encode, relative_error, rounded
from kernels.tolerances import BOUND, LENGTHS, NAMES, state_bound
from numpy.typing import NDArray

Array = NDArray[np.float64]
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


@dataclass(frozen=True)
class ConvCase:
    name: str = "base"
    rows: int = 2
    length: int = 40
    channels: int = 136  # more than one block of vectors, and not a multiple of a warp
    d_conv: int = 4
    dtype: int = FLOAT32
    state_dtype: int = FLOAT32
    silu: bool = True
    bias: bool = True
    initial_state: bool = True
    final_state: bool = True
    in_place: bool = False
    inactive: bool = False
    lead: int = 0  # elements by which each (row, t) of x is moved off its alignment

    @property
    def work(self) -> int:
        return self.rows * self.length * self.channels

    def but(self, **changes: Any) -> ConvCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = ConvCase()
FACTORS: list[dict[str, Any]] = [
    *({"d_conv": d_conv, "length": length} for d_conv in (2, 3) for length in (1, 2, 40)),
    *({"channels": value} for value in (1, 7, 128, 1792)),
    {"rows": 1},
    {"rows": 2500, "length": 2, "channels": 24},
    {"silu": False},
    {"bias": False},
    {"initial_state": False},
    {"final_state": False},
    {"in_place": True},
    {"in_place": True, "length": 1},
    {"in_place": True, "length": 2},
    {"inactive": True},
    {"inactive": True, "length": 1},
    {"state_dtype": FLOAT16},
    {"lead": 1},
    {"lead": 8},
]
CASES = [
    *(BASE.but(length=length, dtype=dtype) for length in LENGTHS for dtype in DTYPES),
    *(BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, BFLOAT16)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: ConvCase) -> None:
    rng = np.random.default_rng(case.length + case.channels)
    halo = case.d_conv - 1
    x = rounded(rng.standard_normal((case.rows, case.length, case.channels)), case.dtype)
    weight = rounded(rng.standard_normal((case.channels, case.d_conv)), FLOAT32)
    bias = rounded(rng.standard_normal(case.channels), FLOAT32) if case.bias else None
    before = rounded(rng.standard_normal((case.rows, case.channels, halo)), case.state_dtype)
    if not case.initial_state:
        before[:] = 0
    active = np.ones(case.rows, bool)
    if case.inactive:
        active[0::2] = False
    expected_y, expected_state = reference.causal_conv1d(x, weight, bias, before, case.silu)

    width = case.channels + case.lead
    placed = np.full((case.rows, case.length, width), np.nan)
    placed[:, :, case.lead :] = x
    x_buffer = device.array(placed, case.dtype)
    y = device.empty((case.rows, case.length, width), case.dtype)
    state_in = device.array(before, case.state_dtype)
    state_out = state_in if case.in_place else device.empty(before.shape, case.state_dtype)
    params = CausalConv1dParams(
        rows=case.rows,
        length=case.length,
        channels=case.channels,
        d_conv=case.d_conv,
        dtype=case.dtype,
        state_dtype=case.state_dtype,
        activation=int(case.silu),
        x=x_buffer.at(case.lead),
        x_row_stride=case.length * width,
        x_time_stride=width,
        weight=device.array(weight, FLOAT32).pointer,
        bias=None if bias is None else device.array(bias, FLOAT32).pointer,
        conv_state_in=state_in.pointer if case.initial_state else None,
        conv_state_out=state_out.pointer if case.final_state else None,
        y=y.at(case.lead),
        y_row_stride=case.length * width,
        y_time_stride=width,
        active=device.mask(active).pointer if case.inactive else None,
    )
    device.run("causal_conv1d", params)

    raw_y, raw_state = y.read(), state_out.read()
    assert (np.ascontiguousarray(raw_y[:, :, : case.lead]).view(np.uint8) == POISON).all()
    assert relative_error(decode(raw_y[:, :, case.lead :])[active], expected_y[active]) <= BOUND[case.dtype]
    if case.final_state:
        bound = state_bound(case.dtype, case.state_dtype)
        assert relative_error(decode(raw_state)[active], expected_state[active]) <= bound
    assert (raw_y[~active].view(np.uint8) == POISON).all()
    untouched = encode(before, case.state_dtype)[~active].view(np.uint8)
    if not case.in_place:
        untouched = np.full_like(untouched, POISON)
    assert (raw_state[~active].view(np.uint8) == untouched).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_the_final_state_equals_that_of_single_steps(device: Device, dtype: int) -> None:
    """Bit for bit: a state is a copy of inputs."""
    rows, length, channels, halo = 2, 21, 40, 3
    rng = np.random.default_rng(3)
    x = encode(rng.standard_normal((rows, length, channels)), dtype)
    weight = device.array(rng.standard_normal((channels, halo + 1)), FLOAT32)

    def run(part: NDArray[np.generic], state: NDArray[np.generic]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        steps = part.shape[1]
        x_buffer = device.empty(part.shape, dtype)
        x_buffer.fill(part)
        state_buffer = device.empty(state.shape, FLOAT32)
        state_buffer.fill(state)
        y = device.empty(part.shape, dtype)
        strides = {f"{name}_time_stride": channels for name in "xy"}
        strides |= {f"{name}_row_stride": steps * channels for name in "xy"}
        params = CausalConv1dParams(
            rows=rows,
            length=steps,
            channels=channels,
            d_conv=halo + 1,
            dtype=dtype,
            x=x_buffer.pointer,
            weight=weight.pointer,
            conv_state_in=state_buffer.pointer,
            conv_state_out=state_buffer.pointer,
            y=y.pointer,
            **strides,
        )
        device.run("causal_conv1d", params)
        return y.read(), state_buffer.read()

    zeros: NDArray[np.generic] = np.zeros((rows, channels, halo), np.float32)
    whole_y, whole_state = run(x, zeros)
    state, ys = zeros, []
    for t in range(length):
        y, state = run(np.ascontiguousarray(x[:, t : t + 1]), state)
        ys.append(y)
    assert (whole_state == state).all()
    assert (whole_y == np.concatenate(ys, axis=1)).all()
