"""final_norm against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, FinalNormParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@dataclass(frozen=True)
class FinalNormCase:
    name: str = "base"
    rows: int = 3
    vectors: int = 7
    d_model: int = 384
    gate: int = 2
    eps: float = 1e-5
    final_eps: float = 2e-5
    dtype: int = FLOAT32
    magnitude: float = 1.0
    in_place: bool = False

    @property
    def work(self) -> int:
        return 300 * self.rows  # a block each, however small

    def but(self, **changes: Any) -> FinalNormCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = FinalNormCase()
FACTORS: list[dict[str, Any]] = [
    {},
    # One more than a thread's share each way, and every number of groups a thread takes.
    *({"d_model": value} for value in (4, 100, 768, 1024, 1028, 2048, 3072, 4096, 4100, 8192)),
    {"rows": 1},
    {"rows": 512, "d_model": 48},
    {"vectors": 1, "gate": 0},
    {"gate": 6},
    # Each is of its own norm.
    {"eps": 0.3},
    {"final_eps": 0.3},
    # In half precision the squares of these overflow, or vanish.
    {"magnitude": 3e3},
    {"magnitude": 1e-3, "eps": 1e-12},
    {"in_place": True},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, FLOAT16, BFLOAT16)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: FinalNormCase) -> None:
    rng = np.random.default_rng(case.d_model + case.rows)
    shape = (case.rows, case.d_model)
    hidden = rounded(rng.standard_normal(shape) * case.magnitude, case.dtype)
    others = {
        "residual": rng.standard_normal(shape) * case.magnitude,
        "modulation": rng.standard_normal((case.rows, case.vectors, case.d_model)),
        "final_modulation": rng.standard_normal((case.rows, 2, case.d_model)),
        "norm_f": rng.standard_normal(case.d_model),
        "norm_final": rng.standard_normal(case.d_model),
    }
    others = {name: rounded(values, FLOAT32) for name, values in others.items()}

    given = device.array(hidden, case.dtype)
    x = given if case.in_place else device.empty(shape, case.dtype)
    params = FinalNormParams(
        rows=case.rows,
        vectors=case.vectors,
        d_model=case.d_model,
        gate_index=case.gate,
        dtype=case.dtype,
        eps=case.eps,
        final_eps=case.final_eps,
        hidden=given.pointer,
        **{name: device.array(values, FLOAT32).pointer for name, values in others.items()},
        x=x.pointer,
    )
    device.run("final_norm", params)

    expected = reference.final_norm(hidden, **others, gate=case.gate, eps=case.eps, final_eps=case.final_eps)
    assert relative_error(decode(x.read()), expected) <= BOUND[case.dtype]
