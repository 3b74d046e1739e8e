"""How far a kernel may be from the float64 reference, as a relative error, and the names of the dtypes."""

from __future__ import annotations

from kernels.abi import BFLOAT16, FLOAT16, FLOAT32

NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16"}
BOUND = {FLOAT32: 1e-5, FLOAT16: 2e-3, BFLOAT16: 1e-2}
# Of products of 16-bit numbers that are added up and kept in float32: rounded to float16, they'd be off by 2e-4.
SUMS_BOUND = 5e-5
LENGTHS = (1, 2, 3, 63, 64, 255, 256, 1024, 4096)


def state_bound(dtype: int, state_dtype: int) -> float:
    """A state is no better than what went into it, nor than what it is stored in."""
    return max(BOUND[dtype], BOUND[state_dtype])
