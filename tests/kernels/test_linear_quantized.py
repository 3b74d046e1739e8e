"""linear_quantized against the float64 product. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, LinearQuantizedParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES
from numpy.typing import NDArray

GROUP = 128


@dataclass(frozen=True)
class QuantizedCase:
    name: str = "base"
    rows: int = 2
    in_features: int = 768
    out_features: int = 40
    bits: int = 8
    dtype: int = FLOAT16
    float32_y: bool = False

    @property
    def work(self) -> int:
        return self.rows * self.in_features * self.out_features // 8

    def but(self, **changes: Any) -> QuantizedCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key not in ("dtype", "bits"))
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-int{self.bits}-{NAMES[self.dtype]}"


BASE = QuantizedCase()
FACTORS: list[dict[str, Any]] = [
    {},
    # Each count of tiles of 8 rows, full and ragged, and more than one pass over the weights.
    *({"rows": value, "in_features": 160} for value in (1, 8, 9, 16, 17, 32, 33, 63, 64, 65, 150)),
    # Fewer than a chunk, ragged chunks and groups, every number of warps and more than one turn of them.
    *({"in_features": value} for value in (32, 64, 96, 128, 192, 1024, 1056, 1536, 3072, 4128, 8224)),
    *({"in_features": value, "rows": 20} for value in (384, 416, 800, 1056)),
    *({"out_features": value} for value in (1, 7, 8, 9, 15, 16, 17, 3352)),
    *({"rows": value, "float32_y": True} for value in (2, 20, 70)),
    # More rows than a few: without the kernel of sm_90a, which takes features by eight or float32 sums, and with it.
    *({"rows": value, "in_features": 160, "out_features": 41} for value in (33, 65, 129)),
    *({"rows": value, "in_features": 224, "out_features": 264} for value in (33, 65, 100, 127, 129, 300)),
    *({"rows": value, "in_features": 224, "out_features": 261, "float32_y": True} for value in (33, 65, 129)),
    *({"rows": 100, "in_features": value, "out_features": 72} for value in (32, 64, 96, 416)),
    # AiM-B's and AiM-XL's projections and heads.
    *({"rows": value, "in_features": 768, "out_features": 3352} for value in (33, 65, 100, 127, 128, 129, 300)),
    *({"rows": value, "in_features": 1536, "out_features": 768} for value in (33, 64, 256, 512)),
    *({"rows": value, "in_features": 1536, "out_features": 6448} for value in (64, 128, 512)),
    *({"rows": value, "in_features": 3072, "out_features": 1536} for value in (33, 128, 300)),
    *({"rows": value, "in_features": 768, "out_features": 16384, "float32_y": True} for value in (64, 300)),
    {"rows": 128, "in_features": 1536, "out_features": 16384, "float32_y": True},
    {"rows": 20, "in_features": 288, "out_features": 4256},
    {"rows": 128, "in_features": 1536, "out_features": 768},
    {"rows": 512, "in_features": 768, "out_features": 3352},
]
CASES = [
    BASE.but(dtype=dtype, bits=bits, **factor) for factor in FACTORS for bits in (8, 4) for dtype in (FLOAT16, BFLOAT16)
]


def draw(rng: np.random.Generator, case: QuantizedCase) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[Any]]:
    """The stored bytes, the scales and the matrix (out, in) that they stand for; every code occurs."""
    groups = 1 if case.bits == 8 else -(-case.in_features // GROUP)
    shape = (case.out_features, case.in_features)
    codes = rng.integers(-127, 128, shape) if case.bits == 8 else rng.integers(-8, 8, shape)
    scale = rounded(rng.uniform(0.5, 2.0, (case.out_features, groups)) / np.sqrt(case.in_features), FLOAT32)
    width = case.in_features if case.bits == 8 else GROUP
    dense = codes * np.repeat(scale, width, axis=1)[:, : case.in_features]
    if case.bits == 8:
        return codes.astype(np.int8).view(np.uint8), scale, dense
    nibbles = (codes + 8).astype(np.uint8)
    return nibbles[:, ::2] | nibbles[:, 1::2] << 4, scale, dense


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: QuantizedCase) -> None:
    rng = np.random.default_rng(case.in_features + case.rows)
    x = rounded(rng.standard_normal((case.rows, case.in_features)), case.dtype)
    stored, scale, dense = draw(rng, case)
    weight = device.plain(stored.shape, np.uint8)
    weight.fill(stored)
    y = device.empty((case.rows, case.out_features), FLOAT32 if case.float32_y else case.dtype)
    params = LinearQuantizedParams(
        rows=case.rows,
        in_features=case.in_features,
        out_features=case.out_features,
        bits=case.bits,
        group_size=0 if case.bits == 8 else GROUP,
        dtype=case.dtype,
        float32_y=case.float32_y,
        x=device.array(x, case.dtype).pointer,
        weight=weight.pointer,
        scale=device.array(scale, FLOAT32).pointer,
        y=y.pointer,
    )
    device.run("linear_quantized", params)
    assert relative_error(decode(y.read()), x @ dense.T) <= BOUND[case.dtype]
