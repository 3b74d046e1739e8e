"""linear against the float64 product. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, LinearParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES, SUMS_BOUND


@dataclass(frozen=True)
class LinearCase:
    name: str = "base"
    rows: int = 2
    in_features: int = 768
    out_features: int = 40
    dtype: int = FLOAT32
    float32_y: bool = False

    @property
    def work(self) -> int:
        return self.rows * self.in_features * self.out_features // 8

    def but(self, **changes: Any) -> LinearCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = LinearCase()
FACTORS: list[dict[str, Any]] = [
    {},
    # Each count of tiles of 8 rows, full and ragged, and more than one pass over the weights.
    *({"rows": value, "in_features": 96} for value in (1, 8, 9, 16, 17, 32, 33, 63, 64, 65, 150)),
    # Fewer than a chunk, ragged chunks, and every number of warps.
    *({"in_features": value} for value in (8, 40, 1000, 1536, 1544, 3072, 4104)),
    *({"in_features": value, "rows": 20} for value in (384, 392, 800)),
    *({"out_features": value} for value in (1, 7, 8, 9, 15, 16, 17, 3352)),
    # More rows than a few: without the kernel of sm_90a, which takes features by eight, and with it.
    *({"rows": value, "in_features": 96, "out_features": 41} for value in (17, 33, 65, 150)),
    *({"rows": value, "in_features": 200, "out_features": 264} for value in (17, 65, 100, 127, 129)),
    *({"rows": 65, "in_features": 768, "out_features": value} for value in (8, 56)),
    {"rows": 200, "in_features": 1536, "out_features": 48},
    {"rows": 33, "in_features": 3072, "out_features": 32},
    *({"rows": value, "float32_y": True} for value in (2, 20, 70)),
    {"rows": 128, "in_features": 1536, "out_features": 768},
    {"rows": 128, "in_features": 1536, "out_features": 768, "float32_y": True},
    {"rows": 512, "in_features": 768, "out_features": 3352},
    # AiM-B's and AiM-XL's projections and heads.
    *({"rows": value, "in_features": 768, "out_features": 3352} for value in (17, 65, 100, 127, 128, 129)),
    *({"rows": value, "in_features": 1536, "out_features": 768} for value in (17, 64, 256, 512)),
    *({"rows": value, "in_features": 1536, "out_features": 6448} for value in (64, 128, 512)),
    *({"rows": value, "in_features": 3072, "out_features": 1536} for value in (32, 128, 256)),
    {"rows": 64, "in_features": 768, "out_features": 16384},
    {"rows": 256, "in_features": 1536, "out_features": 16384},
    # Heads whose logits are float32, ragged in both ways, and AiM-B's, L's and XL's.
    *(
        {"rows": rows, "in_features": 200, "out_features": 264, "float32_y": True}
        for rows in (17, 65, 100, 127, 129, 300)
    ),
    *({"rows": value, "in_features": 768, "out_features": 16384, "float32_y": True} for value in (64, 128, 512)),
    {"rows": 128, "in_features": 1024, "out_features": 16384, "float32_y": True},
    {"rows": 512, "in_features": 1536, "out_features": 16384, "float32_y": True},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, FLOAT16, BFLOAT16)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: LinearCase) -> None:
    rng = np.random.default_rng(case.in_features + case.rows)
    x = rounded(rng.standard_normal((case.rows, case.in_features)), case.dtype)
    weight = rounded(rng.standard_normal((case.out_features, case.in_features)) / np.sqrt(case.in_features), case.dtype)
    y = device.empty((case.rows, case.out_features), FLOAT32 if case.float32_y else case.dtype)
    params = LinearParams(
        rows=case.rows,
        in_features=case.in_features,
        out_features=case.out_features,
        dtype=case.dtype,
        float32_y=case.float32_y,
        x=device.array(x, case.dtype).pointer,
        weight=device.array(weight, case.dtype).pointer,
        y=y.pointer,
    )
    device.run("linear", params)
    bound = min(SUMS_BOUND, BOUND[case.dtype]) if case.float32_y else BOUND[case.dtype]
    assert relative_error(decode(y.read()), x @ weight.T) <= bound
