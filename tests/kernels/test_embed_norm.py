"""embed_norm against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, EmbedNormParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES

FAR = (1 << 31) - 1  # the largest number of its type


@dataclass(frozen=True)
class EmbedNormCase:
    """`tokens` and `places` are those of the first images; the others follow them."""

    name: str = "base"
    rows: int = 6
    positions: int = 3
    vectors: int = 7
    d_model: int = 384
    vocab_size: int = 29
    num_positions: int = 9
    position_offset: int = 1
    shift: int = 2
    scale: int = 4
    eps: float = 1e-5
    dtype: int = FLOAT32
    magnitude: float = 1.0
    tokens: tuple[int, ...] = (5, 0, 28)
    places: tuple[int, ...] = (3, 0, 8)  # position 0 among others

    @property
    def work(self) -> int:
        return 300 * self.rows  # a block each, however small

    def but(self, **changes: Any) -> EmbedNormCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = EmbedNormCase()
FACTORS: list[dict[str, Any]] = [
    {},
    # One more than a thread's share each way, and every number of groups a thread takes.
    *({"d_model": value} for value in (4, 100, 768, 1024, 1028, 2048, 3072, 4096, 4100, 8192)),
    {"rows": 1, "positions": 1},
    {"rows": 1, "positions": 1, "places": (0,)},
    {"rows": 3},
    {"rows": 6, "positions": 2},
    {"rows": 6, "positions": 1},
    {"rows": 512, "positions": 256, "d_model": 48},
    {"vectors": 1, "shift": 0, "scale": 0},
    {"shift": 6},
    {"scale": 0},
    {"places": (0, 0, 0)},
    {"position_offset": 0},
    {"vocab_size": 1},
    {"num_positions": 1},
    # Outside: the nearest that the tables have.
    {"tokens": (-1, 29, 30)},
    {"tokens": (-FAR - 1, FAR, 7)},
    {"places": (9, 10, 1)},
    {"places": (9, 10, 1), "position_offset": 0},
    {"places": (-1, FAR, -FAR - 1)},
    {"places": (-1, FAR, -FAR - 1), "position_offset": 0},
    {"eps": 0.3},
    # In half precision the squares of these overflow, or vanish.
    {"magnitude": 3e3},
    {"magnitude": 1e-3, "eps": 1e-12},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT32, FLOAT16, BFLOAT16)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: EmbedNormCase) -> None:
    rng = np.random.default_rng(case.d_model + case.rows)
    shape = (case.rows, case.d_model)
    images = np.arange(case.positions)
    inputs = {
        "token": np.resize(case.tokens, case.positions).astype(np.int32),
        "position": np.where(images < len(case.places), np.resize(case.places, images.shape), images % 11),
    }
    inputs["position"] = inputs["position"].astype(np.int32)
    drawn = {
        "class_embedding": (rng.standard_normal(shape) * case.magnitude, FLOAT32),
        "table": (rng.standard_normal((case.vocab_size, case.d_model)) * case.magnitude, case.dtype),
        "position_table": (rng.standard_normal((case.num_positions, case.d_model)) * case.magnitude, case.dtype),
        "modulation": (rng.standard_normal((case.rows, case.vectors, case.d_model)), FLOAT32),
        "weight": (rng.standard_normal(case.d_model), FLOAT32),
    }
    floats = {name: rounded(values, dtype) for name, (values, dtype) in drawn.items()}

    pointers = {name: device.array(values, drawn[name][1]).pointer for name, values in floats.items()}
    for name, numbers in inputs.items():
        buffer = device.plain(numbers.shape, np.int32)
        buffer.fill(numbers)
        pointers[name] = buffer.pointer
    x, residual = device.empty(shape, case.dtype), device.empty(shape, FLOAT32)
    sizes = ("rows", "positions", "vectors", "d_model", "vocab_size", "num_positions", "position_offset")
    params = EmbedNormParams(
        **{name: getattr(case, name) for name in sizes},
        shift_index=case.shift,
        scale_index=case.scale,
        dtype=case.dtype,
        eps=case.eps,
        **pointers,
        x=x.pointer,
        residual=residual.pointer,
    )
    device.run("embed_norm", params)

    of_norm = {name: getattr(case, name) for name in ("position_offset", "shift", "scale", "eps")}
    expected, sums = reference.embed_norm(**inputs, **floats, **of_norm)
    assert relative_error(decode(x.read()), expected) <= BOUND[case.dtype]
    # A sum of two numbers, rounded once.
    np.testing.assert_allclose(decode(residual.read()), sums, rtol=1e-7, atol=1e-7 * case.magnitude)
