"""One call of mamba2_decode_step: its inputs drawn at random, its reference, and the call itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernels import reference
from kernels.abi import FLOAT32, Mamba2DecodeStepParams
from kernels.harness import Buffer, Device, rounded
from kernels.tolerances import NAMES
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DecodeCase:
    """d_in_proj of the base is no multiple of 8, as it is for the demo model: rows are not aligned."""

    name: str = "base"
    rows: int = 3
    nheads: int = 6
    headdim: int = 32
    d_state: int = 64
    ngroups: int = 1
    d_conv: int = 4
    dtype: int = FLOAT32
    conv_state_dtype: int = FLOAT32
    ssm_state_dtype: int = FLOAT32
    conv_bias: bool = True
    skip: bool = True
    dt_bias: bool = True
    in_place: bool = False
    inactive: bool = False
    padding: int = 0  # elements between one row of zxbcdt or out and the next

    @property
    def d_inner(self) -> int:
        return self.nheads * self.headdim

    @property
    def conv_dim(self) -> int:
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def d_in_proj(self) -> int:
        return self.d_inner + self.conv_dim + self.nheads

    @property
    def work(self) -> int:
        return self.rows * self.d_inner * self.d_state

    def but(self, **changes: Any) -> DecodeCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


@dataclass
class DecodeWeights:
    conv_weight: Array
    conv_bias: Array | None
    A: Array
    D: Array | None
    dt_bias: Array | None
    norm_weight: Array


def draw_weights(case: DecodeCase, seed: int) -> DecodeWeights:
    rng = np.random.default_rng(seed)
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), case.nheads))

    def float32(values: Array) -> Array:
        return rounded(values, FLOAT32)

    return DecodeWeights(
        conv_weight=float32(rng.standard_normal((case.conv_dim, case.d_conv))),
        conv_bias=float32(rng.standard_normal(case.conv_dim)) if case.conv_bias else None,
        A=float32(-rng.uniform(1.0, 16.0, case.nheads)),
        D=float32(rng.standard_normal(case.nheads)) if case.skip else None,
        dt_bias=float32(step + np.log(-np.expm1(-step))) if case.dt_bias else None,
        norm_weight=float32(rng.standard_normal(case.d_inner)),
    )


def draw_states(case: DecodeCase, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    conv = rng.standard_normal((case.rows, case.conv_dim, case.d_conv - 1))
    ssm = rng.standard_normal((case.rows, case.nheads, case.headdim, case.d_state))
    return rounded(conv, case.conv_state_dtype), rounded(ssm, case.ssm_state_dtype)


def draw_input(case: DecodeCase, seed: int) -> Array:
    return rounded(np.random.default_rng(seed).standard_normal((case.rows, case.d_in_proj)), case.dtype)


EPS = 1e-5


def expected(
    case: DecodeCase, weights: DecodeWeights, zxbcdt: Array, conv_state: Array, ssm_state: Array
) -> tuple[Array, Array, Array]:
    return reference.mamba2_decode_step(
        zxbcdt, **vars(weights), conv_state=conv_state, ssm_state=ssm_state, ngroups=case.ngroups, eps=EPS
    )


@dataclass
class DecodeBuffers:
    """What a step reads and writes on the device; the states stay there from step to step."""

    zxbcdt: Buffer
    conv_state_in: Buffer
    conv_state_out: Buffer
    ssm_state_in: Buffer
    ssm_state_out: Buffer
    out: Buffer
    params: Mamba2DecodeStepParams


def place(
    device: Device, case: DecodeCase, weights: DecodeWeights, conv: Array, ssm: Array, active: NDArray[np.bool_] | None
) -> DecodeBuffers:
    conv_in, ssm_in = device.array(conv, case.conv_state_dtype), device.array(ssm, case.ssm_state_dtype)
    conv_out = conv_in if case.in_place else device.empty(conv.shape, case.conv_state_dtype)
    ssm_out = ssm_in if case.in_place else device.empty(ssm.shape, case.ssm_state_dtype)
    zxbcdt = device.empty((case.rows, case.d_in_proj + case.padding), case.dtype)
    out = device.empty((case.rows, case.d_inner + case.padding), case.dtype)
    constants = {
        name: None if values is None else device.array(values, FLOAT32).pointer
        for name, values in dataclasses.asdict(weights).items()
    }
    params = Mamba2DecodeStepParams(
        rows=case.rows,
        nheads=case.nheads,
        headdim=case.headdim,
        d_state=case.d_state,
        ngroups=case.ngroups,
        d_conv=case.d_conv,
        dtype=case.dtype,
        conv_state_dtype=case.conv_state_dtype,
        ssm_state_dtype=case.ssm_state_dtype,
        eps=EPS,
        zxbcdt=zxbcdt.pointer,
        zxbcdt_row_stride=zxbcdt.shape[1],
        conv_state_in=conv_in.pointer,
        conv_state_out=conv_out.pointer,
        ssm_state_in=ssm_in.pointer,
        ssm_state_out=ssm_out.pointer,
        out=out.pointer,
        out_row_stride=out.shape[1],
        active=None if active is None else device.mask(active).pointer,
        **constants,
    )
    size = device.library.workspace("mamba2_decode_step", params)
    params.workspace = device.scratch(size).pointer
    params.workspace_size = size
    return DecodeBuffers(zxbcdt, conv_in, conv_out, ssm_in, ssm_out, out, params)
