"""rms_norm_gated against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, RmsNormGatedParams
from kernels.harness import POISON, Device, decode, encode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@dataclass(frozen=True)
class NormCase:
    name: str = "base"
    rows: int = 2
    length: int = 3
    d: int = 384
    ngroups: int = 1
    eps: float = 1e-5
    dtype: int = FLOAT32
    scale: float = 1.0
    gate: bool = True
    in_place: bool = False
    inactive: bool = False
    padding: int = 0  # elements between one (row, t) and the next

    @property
    def work(self) -> int:
        return 300 * self.rows * self.length * self.ngroups  # a block each, however small

    def but(self, **changes: Any) -> NormCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = NormCase()
FACTORS: list[dict[str, Any]] = [
    {},
    *({"d": value} for value in (1, 100, 1536, 4096)),
    *({"ngroups": value} for value in (2, 3, 384)),
    {"rows": 1, "length": 1},
    {"rows": 700, "length": 5, "d": 48},
    {"eps": 0.1},
    # In half precision the squares of these overflow, or vanish.
    {"scale": 3e3},
    {"scale": 1e-3, "eps": 1e-12},
    {"gate": False},
    {"in_place": True},
    {"inactive": True},
    {"padding": 8},
    {"padding": 3},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, FLOAT16, BFLOAT16)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: NormCase) -> None:
    rng = np.random.default_rng(case.d + case.rows)
    shape = (case.rows, case.length, case.d)
    y = rounded(rng.standard_normal(shape) * case.scale, case.dtype)
    z = rounded(rng.standard_normal(shape), case.dtype) if case.gate else None
    weight = rounded(rng.standard_normal(case.d), FLOAT32)
    active = np.ones(case.rows, bool)
    if case.inactive:
        active[0::2] = False

    width = case.d + case.padding
    gap = np.full((*shape[:2], case.padding), np.nan)
    y_buffer = device.array(np.concatenate([y, gap], axis=2), case.dtype)
    z_buffer = None if z is None else device.array(np.concatenate([z, gap], axis=2), case.dtype)
    out = y_buffer if case.in_place else device.empty((*shape[:2], width), case.dtype)
    strides = {f"{name}_time_stride": width for name in ("y", "z", "out")}
    strides |= {f"{name}_row_stride": case.length * width for name in ("y", "z", "out")}
    params = RmsNormGatedParams(
        rows=case.rows,
        length=case.length,
        d=case.d,
        ngroups=case.ngroups,
        dtype=case.dtype,
        eps=case.eps,
        y=y_buffer.pointer,
        z=z_buffer.pointer if z_buffer else None,
        weight=device.array(weight, FLOAT32).pointer,
        out=out.pointer,
        active=device.mask(active).pointer if case.inactive else None,
        **strides,
    )
    device.run("rms_norm_gated", params)

    raw = out.read()[:, :, : case.d]
    expected = reference.rms_norm_gated(y, z, weight, case.ngroups, case.eps)
    assert relative_error(decode(raw)[active], expected[active]) <= BOUND[case.dtype]
    untouched = encode(y, case.dtype)[~active].view(np.uint8)
    if not case.in_place:
        untouched = np.full_like(untouched, POISON)
    assert (np.ascontiguousarray(raw[~active]).view(np.uint8) == untouched).all()
