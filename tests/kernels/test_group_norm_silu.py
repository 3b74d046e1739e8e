"""group_norm_silu against the float64 reference. Each row of the table changes one factor of a base case."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, GroupNormSiluParams
from kernels.harness import Device, decode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES


@dataclass(frozen=True)
class GroupNormCase:
    name: str = "base"
    batch: int = 2
    channels: int = 96
    height: int = 7
    width: int = 5
    groups: int = 3
    silu: bool = True
    channels_last: bool = False
    eps: float = 1e-6
    mean: float = 0.5
    magnitude: float = 1.0
    in_place: bool = False
    adds: bool = False
    dtype: int = FLOAT32

    @property
    def work(self) -> int:
        return 4 * self.batch * self.channels * self.height * self.width

    def but(self, **changes: Any) -> GroupNormCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


BASE = GroupNormCase()
FACTORS: list[dict[str, Any]] = [
    {},
    *({"channels": value, "groups": groups} for value, groups in ((8, 1), (128, 32), (512, 32), (512, 1), (96, 96))),
    # Groups of three channels, which vectors cut; several in a vector; a group that is half of one.
    *({"channels": value, "groups": groups, "height": 16} for value, groups in ((96, 32), (64, 64), (64, 16))),
    {"channels": 2048, "groups": 32, "height": 2, "width": 2},  # as many as a block takes at once
    {"height": 1, "width": 1},
    {"height": 16, "width": 16},
    {"height": 64, "width": 48, "channels": 32, "groups": 4},
    {"batch": 1},
    {"batch": 3},
    {"batch": 65, "channels": 16, "groups": 2},
    # Slices of several rounds of a block, the last one shorter.
    {"channels": 8, "groups": 4, "height": 61, "width": 67},
    {"silu": False},
    # In half precision the squares of these overflow, or vanish.
    {"magnitude": 3e3},
    {"magnitude": 1e-3, "eps": 1e-12},
    {"eps": 0.1},
    {"in_place": True},
    {"adds": True},
    {"adds": True, "in_place": True},
    {"adds": True, "height": 16, "width": 16, "channels": 64, "groups": 32},
]
LAYOUTS = [{"channels_last": last} for last in (False, True)]
CASES = [BASE.but(dtype=dtype, **factor, **layout) for factor in FACTORS for layout in LAYOUTS
         for dtype in (FLOAT32, FLOAT16, BFLOAT16)]  # fmt: skip
# A mean of 100 standard deviations: squares of the values themselves would leave nothing of the variance.
CASES += [BASE.but(mean=100.0, height=64, width=48, **layout) for layout in LAYOUTS]
CASES += [BASE.but(batch=2, channels=128, groups=32, height=256, width=256, dtype=FLOAT16, **layout)
          for layout in LAYOUTS]  # fmt: skip
# More than L2 is given at a time, so that images go through it in turns; the last turn has fewer.
CASES += [BASE.but(batch=9, channels=512, groups=32, height=64, width=64, dtype=FLOAT16, channels_last=True, adds=adds)
          for adds in (False, True)]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: GroupNormCase) -> None:
    rng = np.random.default_rng(case.channels + case.height)
    shape = (case.batch, case.channels, case.height, case.width)
    x = rounded((rng.standard_normal(shape) + case.mean) * case.magnitude, case.dtype)
    weight, bias = (rounded(rng.standard_normal(case.channels), FLOAT32) for _ in range(2))
    order = (0, 2, 3, 1) if case.channels_last else (0, 1, 2, 3)
    given = device.array(np.ascontiguousarray(x.transpose(order)), case.dtype)
    y = given if case.in_place else device.empty(tuple(shape[i] for i in order), case.dtype)
    params = GroupNormSiluParams(
        batch=case.batch, channels=case.channels, height=case.height, width=case.width, groups=case.groups,
        silu=case.silu, layout=int(case.channels_last), dtype=case.dtype, eps=case.eps, x=given.pointer,
        weight=device.array(weight, FLOAT32).pointer, bias=device.array(bias, FLOAT32).pointer, y=y.pointer,
    )  # fmt: skip
    params.workspace_size = device.library.workspace("group_norm_silu", params)
    params.workspace = device.scratch(params.workspace_size).pointer
    sum_out = None
    if case.adds:  # in place: the sum over the residual
        other = rounded(rng.standard_normal(shape) * case.magnitude, case.dtype)
        residual = device.array(np.ascontiguousarray(other.transpose(order)), case.dtype)
        sum_out = residual if case.in_place else device.empty(tuple(shape[i] for i in order), case.dtype)
        params.residual, params.sum = residual.pointer, sum_out.pointer
    device.run("group_norm_silu", params)

    if sum_out is not None:
        found = decode(sum_out.read())
        x = rounded(x + other, case.dtype)
        assert relative_error(found, x.transpose(order)) <= BOUND[case.dtype]
        x = found.transpose(np.argsort(order))  # the norm is of what was written
    expected = reference.group_norm_silu(x, weight, bias, case.groups, case.eps, case.silu)
    assert relative_error(decode(y.read()), expected.transpose(order)) <= BOUND[case.dtype]


def test_the_workspace_of_a_larger_batch_is_enough(device: Device) -> None:
    """An engine's workspace is that of its largest batch, whatever the layout."""
    sizes = [
        device.library.workspace(
            "group_norm_silu",
            GroupNormSiluParams(batch=batch, channels=64, height=64, width=48, groups=32, layout=layout),
        )
        for batch in (1, 2, 3, 64, 65, 1056, 2000)
        for layout in (0, 1)
    ]
    assert sizes == sorted(sizes) and sizes[::2] == sizes[1::2]
