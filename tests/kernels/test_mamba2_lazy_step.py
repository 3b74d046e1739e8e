"""mamba2_lazy_step against the plain recurrence in float64, over steps that fold several times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Refused
from kernels.decode_case import draw_input, draw_weights, expected
from kernels.harness import POISON, Device, decode, encode, relative_error
from kernels.lazy_case import STATES, LazyBuffers, LazyCase, place_lazy
from kernels.tolerances import BOUND, state_bound

BASE = LazyCase(in_place=True)
DTYPES = (FLOAT32, FLOAT16, BFLOAT16)
HALF_STATES = {"conv_state_dtype": FLOAT16, "ssm_state_dtype": FLOAT16}
FACTORS: list[dict[str, Any]] = [
    {},
    *({"headdim": value, "rows": 2} for value in (16, 48, 64, 128)),
    *({"d_state": value} for value in (16, 48, 128)),
    *({"d_state": value, "rows": 1} for value in (144, 256)),
    *({"d_state": value, "ssm_state_dtype": FLOAT16, "rows": 1} for value in (16, 48, 128, 256)),
    *({"ngroups": value} for value in (2, 6)),
    *({"d_conv": value} for value in (2, 3)),
    {"nheads": 10, "headdim": 64, "d_state": 16, "ngroups": 2},  # a last block of fewer heads than the others
    {"rows": 1, "nheads": 1},
    {"conv_bias": False, "skip": False, "dt_bias": False},
    {"in_place": False},
    {"inactive": True},
    {"inactive": True, "in_place": False},
    {"padding": 5},
    {"conv_state_dtype": FLOAT16, "ssm_state_dtype": FLOAT16},
    {"fold_every": 1},
    {"fold_every": 12},
    {"rows": 1, "nheads": 24, "headdim": 64, "d_state": 128, "ssm_state_dtype": FLOAT16, "steps": 20},  # AiM-B's
    {"capacity": 128, "fold_every": 70, "nheads": 2, "headdim": 16, "d_state": 16, "steps": 210},
    # The float16 kernel: more heads than warps, warps that share heads, several tiles of tokens, a block a row.
    {
        **HALF_STATES,
        "capacity": 40,
        "fold_every": 18,
        "nheads": 3,
        "headdim": 64,
        "d_state": 128,
        "rows": 1,
        "steps": 60,
    },
    {**HALF_STATES, "nheads": 26, "headdim": 16, "d_state": 48, "ngroups": 2, "rows": 1},
    {**HALF_STATES, "nheads": 13, "headdim": 64, "d_state": 128, "rows": 1, "steps": 20},
    {**HALF_STATES, "nheads": 5, "headdim": 48, "d_state": 176, "rows": 1, "padding": 5, "steps": 30},
    {**HALF_STATES, "nheads": 6, "ngroups": 6, "headdim": 112, "d_state": 16, "rows": 2, "in_place": False},
    {**HALF_STATES, "nheads": 2, "headdim": 16, "d_state": 16, "rows": 70, "inactive": True, "steps": 20},
    {**HALF_STATES, "nheads": 14, "headdim": 16, "d_state": 16, "rows": 70, "steps": 17},
]
CASES = [
    *(BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in DTYPES),
    *(
        BASE.but(dtype=FLOAT16, ssm_state_dtype=state, rows=rows, nheads=24, headdim=64, d_state=128, capacity=112,
                 fold_every=16, steps=160)
        for state in (FLOAT16, FLOAT32) for rows in (2, 8)
    ),
    *(
        BASE.but(dtype=dtype, **HALF_STATES, rows=rows, nheads=nheads, headdim=64, d_state=128, capacity=20,
                 fold_every=6, steps=40)
        for rows, nheads in ((70, 14), (2, 48)) for dtype in (FLOAT16, BFLOAT16)
    ),
]  # fmt: skip


def zeros(case: LazyCase) -> dict[str, np.ndarray]:
    shapes = {name: shape for name, (shape, _) in case.shapes().items()}
    shapes["conv_state"] = (case.rows, case.conv_dim, case.d_conv - 1)
    shapes["ssm_state"] = (case.rows, case.nheads, case.headdim, case.d_state)
    return {name: np.zeros(shape) for name, shape in shapes.items()}


def feed(case: LazyCase, buffers: LazyBuffers, zxbcdt: np.ndarray) -> None:
    gap = np.full((case.rows, case.padding), np.nan)
    buffers.step.zxbcdt.fill(encode(np.concatenate([zxbcdt, gap], axis=1), case.dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_plain_recurrence_over_folds(device: Device, case: LazyCase) -> None:
    weights = draw_weights(case, seed=1)
    states = zeros(case)
    # What a state that holds nothing has in memory must not matter.
    states["ssm_state"] += np.nan
    active = np.ones(case.rows, bool)
    if case.inactive:
        active[0::2] = False
    conv, ssm = states["conv_state"], np.zeros_like(states["ssm_state"])
    buffers = place_lazy(device, case, weights, states, active if case.inactive else None)
    # Rounding x and B to the state's type is the history's share: once a token, not once a step.
    bound = BOUND[case.dtype] if case.ssm_state_dtype == FLOAT32 else max(BOUND[case.dtype], BOUND[FLOAT16])
    worst, folds = 0.0, 0
    for step in range(case.steps):
        zxbcdt = draw_input(case, seed=100 + step)
        feed(case, buffers, zxbcdt)
        device.run("mamba2_lazy_step", buffers.params)
        out, conv, ssm = expected(case, weights, zxbcdt, conv, ssm)
        found = decode(buffers.step.out.read()[:, : case.d_inner])
        worst = max(worst, relative_error(found[active], out[active]))
        folds += int((decode(buffers.taken["counters"].read())[active, 0, 0] == 0).all())
        if step + 1 < case.steps and not case.in_place:
            buffers.swap()
    assert worst <= 2 * bound
    assert folds == 1 + (case.steps - case.capacity) // case.fold_every
    assert relative_error(buffers.folded()[active], ssm[active]) <= 2 * BOUND[case.ssm_state_dtype]
    conv_error = relative_error(decode(buffers.step.conv_state_out.read())[active], conv[active])
    assert conv_error <= state_bound(case.dtype, case.conv_state_dtype)
    assert (buffers.step.out.read()[~active].view(np.uint8) == POISON).all()
    for name in STATES:
        idle = buffers.taken[name].read()[~active]
        assert (idle == 0).all() if case.in_place or case.steps % 2 == 0 else (idle.view(np.uint8) == POISON).all()


def test_rows_may_be_at_different_tokens(device: Device) -> None:
    case = BASE.but(rows=3, steps=30)
    weights = draw_weights(case, seed=2)
    active = device.mask(np.ones(3, bool))
    states = zeros(case)
    conv, ssm = states["conv_state"], states["ssm_state"].copy()
    buffers = place_lazy(device, case, weights, states, None)
    buffers.params.step.active = active.pointer
    for step in range(case.steps):
        moving = np.array([True, step % 2 == 0, step >= 11])
        active.fill(moving.astype(np.int32))
        zxbcdt = draw_input(case, seed=300 + step)
        feed(case, buffers, zxbcdt)
        device.run("mamba2_lazy_step", buffers.params)
        out, new_conv, new_ssm = expected(case, weights, zxbcdt, conv, ssm)
        conv[moving], ssm[moving] = new_conv[moving], new_ssm[moving]
        found = decode(buffers.step.out.read()[:, : case.d_inner])
        assert relative_error(found[moving], out[moving]) <= 2 * BOUND[FLOAT32]
    assert len({float(n) for n in decode(buffers.taken["counters"].read())[:, 0, 0]}) > 1
    assert relative_error(buffers.folded(), ssm) <= 2 * BOUND[FLOAT32]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": 1}, "capacity is 1; supported: 2 to 128"),
        ({"capacity": 129}, "capacity is 129; supported: 2 to 128"),
        ({"fold_every": 0}, "fold_every is 0; supported: 1 to capacity, here 12"),
        ({"fold_every": 13}, "fold_every is 13; supported: 1 to capacity, here 12"),
        ({"x_history_in": None}, "x_history is null"),
        ({"counters_out": None}, "counters is null"),
    ],
)
def test_refusals_say_what_is_supported(device: Device, change: dict[str, Any], message: str) -> None:
    buffers = place_lazy(device, BASE, draw_weights(BASE, seed=1), zeros(BASE), None)
    for name, value in change.items():
        setattr(buffers.params, name, value)
    with pytest.raises(Refused, match=f"mamba2_lazy_step: {message}"):
        device.run("mamba2_lazy_step", buffers.params)
    buffers.params.step.headdim = 8
    with pytest.raises(Refused, match="mamba2_lazy_step: headdim is 8"):
        device.run("mamba2_lazy_step", buffers.params)
