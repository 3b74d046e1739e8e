"""cached_attention against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, CachedAttentionParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@dataclass(frozen=True)
class AttentionCase:
    name: str = "base"
    positions: int = 2
    each: int = 2  # rows of a position
    num_tokens: int = 50
    nheads: int = 3
    headdim: int = 64
    at: tuple[int, ...] = (20, 31)
    dtype: int = FLOAT32
    state_dtype: int = FLOAT32
    magnitude: float = 1.0

    @property
    def work(self) -> int:
        parts = max(1, self.num_tokens // 512)
        return 3000 * self.rows * self.nheads * parts  # threads of a block, however few keys

    @property
    def rows(self) -> int:
        return self.positions * self.each

    def but(self, **changes: Any) -> AttentionCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if "dtype" not in key)
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}-{NAMES[self.state_dtype]}"


BASE = AttentionCase()
LONG = {"positions": 1, "each": 1, "nheads": 2}
FACTORS: list[dict[str, Any]] = [
    {},
    # Every number of lanes a key, and what fills none of them.
    *({"headdim": value} for value in (8, 16, 40, 48, 96, 128)),
    {"at": (0, 49)},
    {"at": (0, 0)},
    {"at": (49, 1)},
    # Outside: as the nearest.
    {"at": (-3, 50)},
    {"num_tokens": 1, "at": (0, 0)},
    {"positions": 1, "each": 1, "at": (33,)},
    {"positions": 4, "each": 1, "at": (0, 7, 8, 48)},
    # One more than a turn of all warps each way, and several turns.
    *({"num_tokens": 600, "at": (t, t + 1), "nheads": 1} for t in (63, 127, 128, 255, 511)),
    # Heads in parts: a new key in the first, at the edges and in the last; parts without keys.
    *({**LONG, "num_tokens": 1024, "at": (t,)} for t in (0, 300, 511, 512, 1023)),
    {**LONG, "num_tokens": 4096, "at": (4095,)},
    {**LONG, "num_tokens": 1500, "at": (1400,), "nheads": 1},
    # As many heads as leave room for no parts, and for fewer than there could be.
    {"num_tokens": 1024, "at": (700, 1023), "nheads": 70, "headdim": 8},
    {"num_tokens": 2048, "at": (700, 2047), "nheads": 30, "headdim": 8},
    # Scores that overflow an exponential which nothing is taken from.
    {"magnitude": 30.0},
]
CASES = [
    BASE.but(dtype=dtype, state_dtype=state, **factor)
    for factor in FACTORS
    for dtype, state in ((FLOAT32, FLOAT32), (FLOAT16, FLOAT16))
]
CASES += [BASE.but(dtype=d, state_dtype=s) for d, s in ((FLOAT32, FLOAT16), (FLOAT16, FLOAT32), (BFLOAT16, FLOAT16))]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: AttentionCase) -> None:
    rng = np.random.default_rng(case.headdim + case.num_tokens)
    width, position = case.nheads * case.headdim, np.array(case.at, np.int32)
    assert len(position) == case.positions
    qkv = rounded(rng.standard_normal((case.rows, 3 * width)) * case.magnitude, case.dtype)
    angles = rng.uniform(0, 7, (case.num_tokens, case.headdim // 2))
    rotary = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(case.num_tokens, case.headdim)
    rotary[0] = 0.0
    rotary = rounded(rotary, FLOAT32)
    shape = (case.rows, case.nheads, case.num_tokens, case.headdim)
    clamped = np.clip(position, 0, case.num_tokens - 1)
    caches = [rounded(rng.standard_normal(shape), case.state_dtype) for _ in range(2)]
    for row in range(case.rows):  # what was not fed yet is not looked at
        for cache in caches:
            cache[row, :, clamped[row % case.positions] :] = np.nan

    keys, values = (device.array(cache, case.state_dtype) for cache in caches)
    at = device.plain(position.shape, np.int32)
    at.fill(position)
    out = device.empty((case.rows, width), case.dtype)
    params = CachedAttentionParams(
        rows=case.rows,
        positions=case.positions,
        num_tokens=case.num_tokens,
        nheads=case.nheads,
        headdim=case.headdim,
        dtype=case.dtype,
        state_dtype=case.state_dtype,
        qkv=device.array(qkv, case.dtype).pointer,
        rotary=device.array(rotary, FLOAT32).pointer,
        position=at.pointer,
        k_cache=keys.pointer,
        v_cache=values.pointer,
        out=out.pointer,
    )
    size = device.library.workspace("cached_attention", params)
    assert (size > 0) == (case.num_tokens >= 1024)
    if size:
        params.workspace, params.workspace_size = device.scratch(size).pointer, size
    device.run("cached_attention", params)

    wanted, *after = reference.cached_attention(qkv, rotary, clamped, *caches)
    bound = max(BOUND[case.dtype], BOUND[case.state_dtype])
    assert relative_error(decode(out.read()), wanted) <= bound
    for found, cache, before in zip((keys, values), after, caches, strict=True):
        made = decode(found.read())
        new = np.zeros(shape[:3], bool)
        for row in range(case.rows):
            new[row, :, clamped[row % case.positions]] = True
        np.testing.assert_array_equal(made[~new], before[~new])
        # The first position's keys are zero: no relative error.
        assert np.linalg.norm(made[new] - cache[new]) <= BOUND[case.state_dtype] * np.linalg.norm(cache[new])
