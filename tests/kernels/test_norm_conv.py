"""norm_conv against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

from typing import Any

import pytest
from kernels import norm_conv_case, reference
from kernels.abi import BFLOAT16, FLOAT16
from kernels.harness import Device, relative_error
from kernels.norm_conv_case import IMAGE, SAME, UPSAMPLE, NormConvCase
from kernels.tolerances import BOUND

BASE = NormConvCase()
FACTORS: list[dict[str, Any]] = [
    {},
    {"norm": False},
    {"residual": True},
    {"residual": True, "in_place": True},
    {"in_channels": 128},
    {"in_channels": 256, "norm": False},
    {"out_channels": 256},
    {"groups": 8},
    {"groups": 1},
    {"eps": 0.1},
    # Tiles that hang over the image's edge; a half of one that lies outside of it.
    *({"height": height, "width": width} for height, width in ((1, 1), (8, 8), (5, 19), (24, 24), (17, 16))),
    {"height": 32, "width": 48},
    {"batch": 3},
    {"mean": 10.0},
]
CASES = [BASE.but(dtype=dtype, **factor) for factor in FACTORS for dtype in (FLOAT16, BFLOAT16)]
CASES += [BASE.but(**{"kind": UPSAMPLE, "norm": False} | factor)
          for factor in ({}, {"in_channels": 128}, {"out_channels": 256}, {"height": 5, "width": 19}, {"batch": 2},
                         {"residual": True}, {"norm": True})]  # fmt: skip
CASES += [BASE.but(**{"kind": IMAGE, "out_channels": 3} | factor)
          for factor in ({}, {"out_channels": 1}, {"out_channels": 8}, {"height": 5, "width": 19}, {"batch": 2},
                         {"in_channels": 128}, {"norm": False}, {"dtype": BFLOAT16})]  # fmt: skip
# Every block of a large GPU stays for several tiles.
CASES += [BASE.but(batch=9, in_channels=128, height=128, width=128, residual=True),
          BASE.but(kind=UPSAMPLE, batch=3, in_channels=256, height=64, width=64, out_channels=256, norm=False),
          BASE.but(kind=IMAGE, batch=9, in_channels=128, height=128, width=128, out_channels=3)]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: NormConvCase) -> None:
    inputs = norm_conv_case.draw(case, seed=case.in_channels + case.height)
    call = norm_conv_case.upload(device, case, inputs)
    device.run("norm_conv", call.params)
    y = norm_conv_case.read(case, call)
    # An upsampling's weights are sums, which are rounded once more than those of the reference.
    assert relative_error(y, norm_conv_case.expected(case, inputs)) <= BOUND[case.dtype]
    if case.kind == IMAGE:
        return
    # The statistics are those of what was written.
    affine = reference.norm_affine(y, inputs.next_weight, inputs.next_bias, case.groups, case.eps)
    found = call.next_affine.read()
    for part in range(2):
        assert relative_error(found[..., part].astype(float), affine[..., part]) <= 1e-4


def test_the_workspace_is_that_of_the_largest_batch(device: Device) -> None:
    sizes = [
        device.library.workspace(
            "norm_conv", norm_conv_case.NormConvParams(batch=batch, in_channels=64, height=32, width=32,
                                                       out_channels=128, groups=32, kind=kind, dtype=FLOAT16, eps=1e-6)
        )
        for kind in (SAME, UPSAMPLE) for batch in (1, 3)
    ]  # fmt: skip
    assert sizes[0] < sizes[1] and sizes[2] == 4 * sizes[0] and sizes[3] == 4 * sizes[1]
