"""ada_ln_norm against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, AdaLnNormParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@dataclass(frozen=True)
class AdaLnCase:
    name: str = "base"
    rows: int = 3
    vectors: int = 7
    d_model: int = 384
    gate: int = 2
    shift: int = 3
    scale: int = 4
    eps: float = 1e-5
    dtype: int = FLOAT32
    magnitude: float = 1.0
    in_place: bool = False

    @property
    def work(self) -> int:
        return 300 * self.rows  # a block each, however small

    def but(self, **changes: Any) -> AdaLnCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = AdaLnCase()
FACTORS: list[dict[str, Any]] = [
    {},
    # One more than a thread's share each way, and every number of groups a thread takes.
    *({"d_model": value} for value in (4, 100, 768, 1024, 1028, 2048, 3072, 4096, 4100, 8192)),
    {"rows": 1},
    {"rows": 512, "d_model": 48},
    {"vectors": 1, "gate": 0, "shift": 0, "scale": 0},
    {"gate": 6, "shift": 0, "scale": 1},
    {"eps": 0.1},
    # In half precision the squares of these overflow, or vanish.
    {"magnitude": 3e3},
    {"magnitude": 1e-3, "eps": 1e-12},
    {"in_place": True},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, FLOAT16, BFLOAT16)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: AdaLnCase) -> None:
    rng = np.random.default_rng(case.d_model + case.rows)
    shape = (case.rows, case.d_model)
    hidden = rounded(rng.standard_normal(shape) * case.magnitude, case.dtype)
    residual = rounded(rng.standard_normal(shape) * case.magnitude, FLOAT32)
    modulation = rounded(rng.standard_normal((case.rows, case.vectors, case.d_model)), FLOAT32)
    weight = rounded(rng.standard_normal(case.d_model), FLOAT32)

    given = device.array(hidden, case.dtype)
    before = device.array(residual, FLOAT32)
    x = given if case.in_place else device.empty(shape, case.dtype)
    after = before if case.in_place else device.empty(shape, FLOAT32)
    params = AdaLnNormParams(
        rows=case.rows,
        vectors=case.vectors,
        d_model=case.d_model,
        gate_index=case.gate,
        shift_index=case.shift,
        scale_index=case.scale,
        dtype=case.dtype,
        eps=case.eps,
        hidden=given.pointer,
        residual=before.pointer,
        modulation=device.array(modulation, FLOAT32).pointer,
        weight=device.array(weight, FLOAT32).pointer,
        x=x.pointer,
        residual_out=after.pointer,
    )
    device.run("ada_ln_norm", params)

    indices = (case.gate, case.shift, case.scale)
    expected, summed = reference.ada_ln_norm(hidden, residual, modulation, weight, *indices, case.eps)
    assert relative_error(decode(x.read()), expected) <= BOUND[case.dtype]
    assert relative_error(decode(after.read()), summed) <= BOUND[FLOAT32]
