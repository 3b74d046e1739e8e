"""swi_glu against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, SwiGluParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@pytest.mark.parametrize("dtype", (FLOAT32, FLOAT16, BFLOAT16), ids=NAMES.get)
@pytest.mark.parametrize("place", ("apart", "gate", "up"))
# Less than a block, whole blocks, and one more than that.
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (4, 1024), (3, 2056)])
def test_matches_the_reference(device: Device, rows: int, width: int, place: str, dtype: int) -> None:
    rng = np.random.default_rng(width)
    gate, up = (rounded(rng.standard_normal((rows, width)) * 4, dtype) for _ in range(2))
    given = {"gate": device.array(gate, dtype), "up": device.array(up, dtype)}
    y = given.get(place) or device.empty((rows, width), dtype)
    params = SwiGluParams(rows=rows, width=width, dtype=dtype, gate=given["gate"].pointer, up=given["up"].pointer,
                          y=y.pointer)  # fmt: skip
    device.run("swi_glu", params)
    assert relative_error(decode(y.read()), reference.silu(gate) * up) <= BOUND[dtype]
