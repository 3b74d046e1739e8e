"""linear_many's tiles one by one, on the emulator: linear takes most of them for larger sizes only."""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_int, c_int32, c_int64, c_void_p

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library
from kernels.harness import Device, HostMemory, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES, SUMS_BOUND

TILES = [(64, 32), (64, 64), (64, 112), (128, 64), (128, 112), (128, 144), (128, 208), (128, 256)]
LAUNCH = "_ZN11aim_kernels6detail18launch_linear_manyERKNS_12LinearParamsERKNS0_14LinearManyPlanEP11CUstream_st"
SHARED_BYTES = 99 * 1024  # that the emulator has


class Params(ctypes.Structure):
    """LinearParams of linear.h."""

    _fields_ = [
        *((name, c_int64) for name in ("rows", "in_features", "out_features")),
        ("dtype", c_int32),
        ("float32_y", c_bool),
        *((name, c_void_p) for name in ("x", "weight", "y")),
    ]


class Plan(ctypes.Structure):
    """LinearManyPlan of linear_many.h."""

    _fields_ = [(name, c_int) for name in ("rows", "features", "splits", "stages", "blocks")]


def cases() -> list[tuple[int, bool, Plan, int]]:
    """(dtype, float32_y, plan, in_features): rings that go round where they fit, ragged shares, a block without any."""
    made = []
    for index, (rows, features) in enumerate(TILES):
        for splits in (1, 2, 3, 4) if features < 208 else (1,):
            cores = -(-features // 8 // splits)
            other = 2048 + rows // 16 * 2304 + (splits - 1) * rows // 16 * cores * 512
            room = (SHARED_BYTES - other) // ((rows + features) * 128)
            if room >= 1:
                dtype = (FLOAT16, BFLOAT16)[(index + splits) % 2]
                plan = Plan(rows, features, splits, min(room, 3), 2 if splits == 1 else 0)
                made += [(dtype, float32_y, plan, 456 if room >= 2 else 64 * splits) for float32_y in (False, True)]
    return made


def told(value: object) -> str:
    if isinstance(value, bool):
        return "sums" if value else "rounded"
    if isinstance(value, Plan):
        return f"{value.rows}x{value.features}-splits={value.splits}-stages={value.stages}"
    return NAMES[value] if value in NAMES else str(value)  # type: ignore[index]


@pytest.mark.parametrize(("dtype", "float32_y", "plan", "in_features"), cases(), ids=told)
def test_matches_the_reference(
    emulated_library: Library, dtype: int, float32_y: bool, plan: Plan, in_features: int
) -> None:
    rows, out_features = 129, 136
    rng = np.random.default_rng(in_features)
    x = rounded(rng.standard_normal((rows, in_features)), dtype)
    weight = rounded(rng.standard_normal((out_features, in_features)) / np.sqrt(in_features), dtype)
    device = Device(emulated_library, HostMemory(), emulated=True)
    y = device.empty((rows, out_features), FLOAT32 if float32_y else dtype)
    inputs = [device.array(values, dtype).pointer for values in (x, weight)]
    launch = emulated_library._c[LAUNCH]
    launch.argtypes = [ctypes.POINTER(Params), ctypes.POINTER(Plan), c_void_p]
    assert launch(Params(rows, in_features, out_features, dtype, float32_y, *inputs, y.pointer), plan, None) == 0
    assert relative_error(decode(y.read()), x @ weight.T) <= (SUMS_BOUND if float32_y else BOUND[dtype])
    device.release()
