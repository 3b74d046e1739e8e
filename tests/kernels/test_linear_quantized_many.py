"""linear_quantized_many's tiles one by one, on the emulator: most are taken for larger sizes only."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_int32, c_int64, c_uint8, c_void_p

import numpy as np
import pytest
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library
from kernels.harness import Device, HostMemory, decode, relative_error, rounded
from kernels.test_linear_quantized import GROUP, QuantizedCase, draw
from kernels.tolerances import BOUND, NAMES

TILES = [(32, 64), (64, 64), (128, 64), (64, 128), (128, 128), (256, 128)]
LAUNCH = (
    "_ZN11aim_kernels6detail28launch_linear_quantized_manyERKNS_21LinearQuantizedParamsE"
    "RKNS0_23LinearQuantizedManyPlanEP11CUstream_st"
)
SHARED_BYTES = 99 * 1024  # that the emulator has


class Params(ctypes.Structure):
    """LinearQuantizedParams of linear_quantized.h."""

    _fields_ = [
        *((name, c_int64) for name in ("rows", "in_features", "out_features")),
        *((name, c_int32) for name in ("bits", "group_size")),
        *((name, c_int64) for name in ("words", "scales")),
        ("dtype", c_int32),
        ("float32_y", c_uint8),
        *((name, c_void_p) for name in ("x", "weight", "scale", "y")),
    ]


class Plan(ctypes.Structure):
    """LinearQuantizedManyPlan of linear_quantized_many.h."""

    _fields_ = [(name, c_int) for name in ("rows", "features", "splits", "stages")]


def cases() -> list[tuple[QuantizedCase, Plan]]:
    """A ring that goes round, ragged shares and groups, a block without any, sums of either type."""
    made = []
    for index, (rows, features) in enumerate(TILES):
        for splits in (1, 2, 4):
            for bits in (8, 4):
                if bits == 4 and rows * features >= 128 * 128:
                    continue
                sent = (splits - 1) * features // 16 * (-(-rows // 8) // splits) * 512
                stages = min((SHARED_BYTES - 2048 - sent) // ((rows + features * bits // 16) * 128), 3)
                if stages < 1:
                    continue
                number = index + splits + bits // 4
                case = QuantizedCase(
                    rows=rows + 1,
                    in_features=(480, 352, 64 * splits + 32)[number % 3] if stages > 1 else 64 * splits,
                    out_features=features + 40,
                    bits=bits,
                    dtype=(FLOAT16, BFLOAT16)[number % 2],
                    float32_y=number % 4 < 2,
                )
                made.append((case, Plan(rows, features, splits, stages)))
    return made


def told(value: object) -> str:
    if isinstance(value, Plan):
        return f"{value.rows}x{value.features}-splits={value.splits}-stages={value.stages}"
    if isinstance(value, QuantizedCase):
        return f"int{value.bits}-{NAMES[value.dtype]}-{value.in_features}-float32_y={value.float32_y}"
    return str(value)


@pytest.mark.parametrize(("case", "plan"), cases(), ids=told)
def test_matches_the_reference(emulated_library: Library, case: QuantizedCase, plan: Plan) -> None:
    rng = np.random.default_rng(case.in_features + case.rows)
    x = rounded(rng.standard_normal((case.rows, case.in_features)), case.dtype)
    stored, scale, dense = draw(rng, case)
    device = Device(emulated_library, HostMemory(), emulated=True)
    weight = device.plain(stored.shape, np.uint8)
    weight.fill(stored)
    y = device.empty((case.rows, case.out_features), FLOAT32 if case.float32_y else case.dtype)
    params = Params(
        case.rows,
        case.in_features,
        case.out_features,
        case.bits,
        0 if case.bits == 8 else GROUP,
        dtype=case.dtype,
        float32_y=case.float32_y,
        x=device.array(x, case.dtype).pointer,
        weight=weight.pointer,
        scale=device.array(scale, FLOAT32).pointer,
        y=y.pointer,
    )
    launch = emulated_library._c[LAUNCH]
    launch.argtypes = [ctypes.POINTER(Params), ctypes.POINTER(Plan), c_void_p]
    assert launch(params, plan, None) == 0
    assert relative_error(decode(y.read()), x @ dense.T) <= BOUND[case.dtype]
    device.release()


@pytest.mark.parametrize(("bits", "stages"), [(8, 1), (4, 2)])
def test_a_ring_that_would_wait_for_itself_is_refused(emulated_library: Library, bits: int, stages: int) -> None:
    params = Params(64, 480, 64, bits, 0 if bits == 8 else GROUP, dtype=FLOAT16)
    launch = emulated_library._c[LAUNCH]
    launch.argtypes = [ctypes.POINTER(Params), ctypes.POINTER(Plan), c_void_p]
    assert launch(params, Plan(64, 64, 1, stages), None) != 0
