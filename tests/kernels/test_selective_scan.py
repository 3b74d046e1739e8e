"""selective_scan against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, MAMBA1
from kernels.harness import POISON, Device, encode, relative_error
from kernels.scan_case import ScanCase, ScanInputs, ScanOutputs, draw, expected, run
from kernels.tolerances import BOUND, LENGTHS, NAMES, state_bound

BASE = ScanCase()
MAMBA1_BASE = ScanCase(name="mamba1", kind=MAMBA1, nheads=72, headdim=1, d_state=16, ngroups=1)
AIM_B = ScanCase(name="aim_b", nheads=24, headdim=64, d_state=128, ngroups=1)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
# 96 steps are a chunk and a half.
SHORT = BASE.but(name="base", length=96)
SHORT1 = MAMBA1_BASE.but(name="mamba1", length=96)

FACTORS: list[dict[str, Any]] = [
    *({"headdim": value} for value in (16, 48, 64, 80, 128)),
    *({"d_state": value} for value in (16, 48, 80, 128, 144, 256)),
    *({"ngroups": value} for value in (1, 4)),
    {"rows": 1},
    {"nheads": 5, "ngroups": 1},
    {"layout": "packed"},
    {"layout": "odd"},
    {"gate": False},
    {"skip": False},
    {"dt_bias": False},
    {"softplus": False},
    {"initial_state": False},
    {"in_place": True},
    {"workspace": False},
    {"inactive": True},
    {"fast_decay": True},
    {"state_dtype": FLOAT16},
]
FACTORS1: list[dict[str, Any]] = [
    *({"d_state": value} for value in (32, 48, 64, 128, 256)),
    *({"nheads": value} for value in (1, 40, 200)),
    {"layout": "packed"},
    {"layout": "odd"},
    {"gate": False, "skip": False, "dt_bias": False},
    {"initial_state": False},
    {"in_place": True},
    {"workspace": False},
    {"inactive": True},
    {"fast_decay": True},
    {"state_dtype": FLOAT16},
]

CASES = [
    *(base.but(length=length, dtype=dtype) for base in (BASE, MAMBA1_BASE) for length in LENGTHS for dtype in DTYPES),
    *(SHORT.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, BFLOAT16)),
    # One segment of several chunks, whose buffers one chunk hands to the next.
    *(BASE.but(length=200, dtype=dtype, workspace=False) for dtype in DTYPES),
    *(SHORT.but(dtype=FLOAT16, **factor) for factor in ({"d_state": 256}, {"headdim": 128}, {"fast_decay": True})),
    *(BASE.but(length=1, dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, BFLOAT16)),
    *(SHORT1.but(dtype=dtype, **factor) for factor in FACTORS1 for dtype in (FLOAT32, BFLOAT16)),
    *(AIM_B.but(length=length, dtype=dtype) for length in (1, 256) for dtype in DTYPES),
    AIM_B.but(rows=128, length=1, state_dtype=FLOAT16, dtype=FLOAT16),
    AIM_B.but(rows=16, length=256, dtype=BFLOAT16, in_place=True),
    BASE.but(rows=3000, length=33, nheads=3, headdim=16, d_state=32, ngroups=1, dtype=BFLOAT16, inactive=True),
]


def check(case: ScanCase, inputs: ScanInputs, outputs: ScanOutputs) -> None:
    y, state = expected(case, inputs)
    live = inputs.active
    assert relative_error(outputs.y[live], y[live]) <= BOUND[case.dtype]
    assert relative_error(outputs.state[live], state[live]) <= state_bound(case.dtype, case.state_dtype)
    if case.inactive:
        assert (outputs.raw_y[~live].view(np.uint8) == POISON).all()
        before = encode(inputs.state, case.state_dtype)[~live].view(np.uint8)
        untouched = before if case.in_place else np.full_like(before, POISON)
        assert (np.ascontiguousarray(outputs.raw_state[~live]).view(np.uint8) == untouched).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: ScanCase) -> None:
    inputs = draw(case, seed=case.length + case.d_state)
    check(case, inputs, run(device, case, inputs))


STEPPED = [base.but(length=length, dtype=dtype) for base in (BASE, MAMBA1_BASE) for length, dtype in [
    (3, FLOAT32), (65, FLOAT32), (65, FLOAT16), (65, BFLOAT16), (256, FLOAT32), (256, BFLOAT16)]]  # fmt: skip


@pytest.mark.parametrize("case", STEPPED, ids=str)
def test_one_call_equals_single_steps(device: Device, case: ScanCase) -> None:
    if device.emulated and case.length > 65:
        pytest.skip("for the GPU: one launch a step")
    inputs = draw(case, seed=7)
    whole = run(device, case, inputs)
    step_case = case.but(length=1, name="step")
    state, ys = inputs.state, []
    for t in range(case.length):
        step = inputs.steps(t, t + 1)
        step.state = state
        out = run(device, step_case, step)
        state = out.state
        ys.append(out.y)
        device.release()
    assert relative_error(whole.y, np.concatenate(ys, axis=1)) <= BOUND[case.dtype]
    assert relative_error(whole.state, state) <= state_bound(case.dtype, case.state_dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
@pytest.mark.parametrize("cut", [1, 40, 64])
def test_a_sequence_may_be_cut_anywhere(device: Device, dtype: int, cut: int) -> None:
    case = BASE.but(length=130, dtype=dtype)
    inputs = draw(case, seed=11)
    y, state = expected(case, inputs)
    first, second = inputs.steps(0, cut), inputs.steps(cut, case.length)
    head = run(device, case.but(length=cut), first)
    second.state = head.state
    tail = run(device, case.but(length=case.length - cut), second)
    assert relative_error(np.concatenate([head.y, tail.y], axis=1), y) <= BOUND[dtype]
    assert relative_error(tail.state, state) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_a_repeated_call_gives_the_same_bits(device: Device, dtype: int) -> None:
    case = BASE.but(length=200, dtype=dtype)
    inputs = draw(case, seed=13)
    first, second = run(device, case, inputs), run(device, case, inputs)
    assert (first.raw_y == second.raw_y).all() and (first.raw_state == second.raw_state).all()
