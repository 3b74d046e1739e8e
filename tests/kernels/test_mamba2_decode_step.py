"""mamba2_decode_step against the float64 reference, over steps, and inside a captured CUDA graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library
from kernels.decode_case import DecodeBuffers, DecodeCase, draw_input, draw_states, draw_weights, expected, place
from kernels.harness import POISON, CudaMemory, Device, decode, encode, relative_error
from kernels.tolerances import BOUND, NAMES, state_bound
from numpy.typing import NDArray

BASE = DecodeCase()
AIM_B = DecodeCase(name="aim_b", nheads=24, headdim=64, d_state=128)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
FACTORS: list[dict[str, Any]] = [
    {},
    *({"headdim": value} for value in (16, 48, 64, 128)),
    *({"d_state": value} for value in (16, 32, 48, 128, 144, 256)),
    *({"d_state": value, "ssm_state_dtype": FLOAT16} for value in (16, 48, 128, 256)),
    *({"ngroups": value} for value in (2, 6)),
    *({"d_conv": value} for value in (2, 3)),
    {"rows": 1},
    {"rows": 200, "nheads": 3, "headdim": 16, "d_state": 32},
    {"rows": 2, "nheads": 40, "headdim": 64, "d_state": 16},  # a group of the norm that no block holds whole
    {"conv_bias": False, "skip": False, "dt_bias": False},
    {"in_place": True},
    {"inactive": True},
    {"inactive": True, "in_place": True},
    {"padding": 5},
    {"conv_state_dtype": FLOAT16, "ssm_state_dtype": FLOAT16},
]
CASES = [
    *(BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in DTYPES),
    *(AIM_B.but(dtype=dtype, rows=rows) for dtype in DTYPES for rows in (2, 128)),
]


def pad(case: DecodeCase, zxbcdt: NDArray[np.float64]) -> NDArray[np.generic]:
    gap = np.full((case.rows, case.padding), np.nan)
    return encode(np.concatenate([zxbcdt, gap], axis=1), case.dtype)


def check(
    case: DecodeCase, buffers: DecodeBuffers, references: tuple[NDArray[np.float64], ...], active: NDArray[np.bool_]
) -> None:
    out, conv, ssm = references
    raw = buffers.out.read()
    assert (np.ascontiguousarray(raw[:, case.d_inner :]).view(np.uint8) == POISON).all()
    assert relative_error(decode(raw[:, : case.d_inner])[active], out[active]) <= BOUND[case.dtype]
    ssm_error = relative_error(decode(buffers.ssm_state_out.read())[active], ssm[active])
    # Nothing is rounded to the activation type on the way to the state.
    assert ssm_error <= BOUND[case.ssm_state_dtype]
    conv_error = relative_error(decode(buffers.conv_state_out.read())[active], conv[active])
    assert conv_error <= state_bound(case.dtype, case.conv_state_dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: DecodeCase) -> None:
    weights = draw_weights(case, seed=1)
    conv, ssm = draw_states(case, seed=2)
    zxbcdt = draw_input(case, seed=3)
    active = np.ones(case.rows, bool)
    if case.inactive:
        active[0::2] = False
    buffers = place(device, case, weights, conv, ssm, active if case.inactive else None)
    buffers.zxbcdt.fill(pad(case, zxbcdt))
    device.run("mamba2_decode_step", buffers.params)

    check(case, buffers, expected(case, weights, zxbcdt, conv, ssm), active)
    assert (buffers.out.read()[~active].view(np.uint8) == POISON).all()
    for buffer, before, dtype in (
        (buffers.conv_state_out, conv, case.conv_state_dtype),
        (buffers.ssm_state_out, ssm, case.ssm_state_dtype),
    ):
        untouched = encode(before, dtype)[~active].view(np.uint8)
        if not case.in_place:
            untouched = np.full_like(untouched, POISON)
        assert (buffer.read()[~active].view(np.uint8) == untouched).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_the_state_carries_over_256_steps(device: Device, dtype: int) -> None:
    case = BASE.but(dtype=dtype, in_place=True, ngroups=2)
    weights = draw_weights(case, seed=4)
    conv, ssm = draw_states(case, seed=5)
    buffers = place(device, case, weights, conv, ssm, None)
    for step in range(20 if device.emulated else 256):
        zxbcdt = draw_input(case, seed=100 + step)
        buffers.zxbcdt.fill(pad(case, zxbcdt))
        device.run("mamba2_decode_step", buffers.params)
        out, conv, ssm = expected(case, weights, zxbcdt, conv, ssm)
    check(case, buffers, (out, conv, ssm), np.ones(case.rows, bool))


@pytest.mark.gpu
def test_a_captured_step_moves_the_state_only_when_it_is_replayed(
    gpu_library: Library, cuda_memory: CudaMemory
) -> None:
    device = Device(gpu_library, cuda_memory, emulated=False)
    case = BASE.but(in_place=True)
    weights = draw_weights(case, seed=6)
    conv, ssm = draw_states(case, seed=7)
    # Kernels load at their first launch, which a capture may not allow. The state that counts stays out of it.
    throwaway = place(device, case, weights, conv, ssm, None)
    throwaway.zxbcdt.fill(pad(case, draw_input(case, seed=8)))
    device.run("mamba2_decode_step", throwaway.params)
    buffers = place(device, case, weights, conv, ssm, None)
    with cuda_memory.captured(device.library, "mamba2_decode_step", buffers.params) as replay:
        assert (decode(buffers.ssm_state_out.read()) == ssm).all()
        for step in range(3):
            zxbcdt = draw_input(case, seed=200 + step)
            buffers.zxbcdt.fill(pad(case, zxbcdt))
            replay()
            out, conv, ssm = expected(case, weights, zxbcdt, conv, ssm)
        check(case, buffers, (out, conv, ssm), np.ones(case.rows, bool))
    device.release()
