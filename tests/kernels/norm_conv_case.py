"""A call of norm_conv: its inputs, its weights in the order that the kernel takes them in, and what it must give."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernels import reference
from kernels.abi import FLOAT16, FLOAT32, NormConvParams
from kernels.harness import Buffer, Device, decode, rounded
from kernels.tolerances import NAMES
from numpy.typing import NDArray

Array = NDArray[np.float64]
SAME, UPSAMPLE, IMAGE = range(3)


@dataclass(frozen=True)
class NormConvCase:
    name: str = "base"
    kind: int = SAME
    batch: int = 1
    in_channels: int = 64
    height: int = 16
    width: int = 16
    out_channels: int = 128
    groups: int = 32
    eps: float = 1e-6
    norm: bool = True
    residual: bool = False
    in_place: bool = False
    mean: float = 0.5
    dtype: int = FLOAT16

    @property
    def work(self) -> int:
        taps = 16 if self.kind == UPSAMPLE else 9
        return self.batch * self.height * self.width * self.in_channels * self.out_channels * taps // 8

    def but(self, **changes: Any) -> NormConvCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key != "dtype")
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


@dataclass
class Inputs:
    x: Array
    affine: Array | None
    weight: Array
    bias: Array
    residual: Array | None
    next_weight: Array
    next_bias: Array


@dataclass
class Call:
    params: NormConvParams
    y: Buffer
    next_affine: Buffer


def packed(weight: Array, kind: int) -> Array:
    """(out_channels, in_channels, 3, 3) as (blocks, in_channels / 64, taps, 8, n, 8)."""
    if kind == IMAGE:
        weight = np.pad(weight, ((0, 8 - len(weight)), (0, 0), (0, 0), (0, 0)))
    phases = [weight.reshape(*weight.shape[:2], 9)]
    if kind == UPSAMPLE:
        # The rows (and columns) of the 3x3 that fall on the upper and on the lower of the two that a pixel sees.
        seen = {0: ((0,), (1, 2)), 1: ((0, 1), (2,))}
        phases = [
            np.stack([weight[:, :, list(rows)][..., list(columns)].sum(axis=(2, 3))
                      for rows in seen[row] for columns in seen[column]], axis=-1)
            for row in range(2) for column in range(2)
        ]  # fmt: skip
    n = 8 if kind == IMAGE else 128
    out = []
    for each in phases:
        blocks = each.reshape(len(each) // n, n, each.shape[1] // 64, 8, 8, each.shape[2])
        out.append(blocks.transpose(0, 2, 5, 3, 1, 4))
    return np.concatenate(out)


def draw(case: NormConvCase, seed: int) -> Inputs:
    rng = np.random.default_rng(seed)
    shape = (case.batch, case.in_channels, case.height, case.width)
    grown = 2 if case.kind == UPSAMPLE else 1
    out_shape = (case.batch, case.out_channels, grown * case.height, grown * case.width)
    spread = (case.in_channels * 9) ** -0.5
    affine = None
    if case.norm:
        affine = np.stack([rng.uniform(0.5, 1.5, shape[:2]), rng.standard_normal(shape[:2])], axis=-1)
    return Inputs(
        x=rounded(rng.standard_normal(shape), case.dtype),
        affine=None if affine is None else rounded(affine, FLOAT32),
        weight=rounded(rng.standard_normal((case.out_channels, case.in_channels, 3, 3)) * spread, case.dtype),
        bias=rounded(rng.standard_normal(case.out_channels) + case.mean, FLOAT32),
        residual=rounded(rng.standard_normal(out_shape), case.dtype) if case.residual else None,
        next_weight=rounded(rng.standard_normal(case.out_channels), FLOAT32),
        next_bias=rounded(rng.standard_normal(case.out_channels), FLOAT32),
    )


def upload(device: Device, case: NormConvCase, inputs: Inputs) -> Call:
    def last(images: Array) -> Array:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    image = case.kind == IMAGE
    grown = 2 if case.kind == UPSAMPLE else 1
    height, width = grown * case.height, grown * case.width
    residual = None if inputs.residual is None else device.array(last(inputs.residual), case.dtype)
    if image:
        y = device.empty((case.batch, case.out_channels, height, width), FLOAT32)
    elif case.in_place and residual is not None:
        y = residual
    else:
        y = device.empty((case.batch, height, width, case.out_channels), case.dtype)
    next_affine = device.empty((case.batch, case.out_channels, 2), FLOAT32)
    params = NormConvParams(
        batch=case.batch, in_channels=case.in_channels, height=case.height, width=case.width,
        out_channels=case.out_channels, groups=case.groups, kind=case.kind, dtype=case.dtype, eps=case.eps,
        x=device.array(last(inputs.x), case.dtype).pointer,
        affine=None if inputs.affine is None else device.array(inputs.affine, FLOAT32).pointer,
        weight=device.array(packed(inputs.weight, case.kind), case.dtype).pointer,
        bias=device.array(inputs.bias, FLOAT32).pointer,
        residual=None if residual is None else residual.pointer,
        next_weight=None if image else device.array(inputs.next_weight, FLOAT32).pointer,
        next_bias=None if image else device.array(inputs.next_bias, FLOAT32).pointer,
        y=y.pointer, next_affine=None if image else next_affine.pointer,
    )  # fmt: skip
    params.workspace_size = device.library.workspace("norm_conv", params)
    params.workspace = device.scratch(max(params.workspace_size, 16)).pointer
    return Call(params, y, next_affine)


def expected(case: NormConvCase, inputs: Inputs) -> Array:
    """y, (batch, out_channels, height, width)."""
    a = inputs.x
    if inputs.affine is not None:
        scale, shift = (inputs.affine[..., i][:, :, None, None] for i in range(2))
        a = rounded(reference.silu(a * scale + shift), case.dtype)
    weight = inputs.weight
    if case.kind == UPSAMPLE:
        a = reference.twice_as_large(a)
    y = reference.conv3x3(a, weight, inputs.bias)
    if inputs.residual is not None:
        y = rounded(y, case.dtype) + inputs.residual
    return y


def read(case: NormConvCase, call: Call) -> Array:
    """y as (batch, out_channels, height, width)."""
    y = decode(call.y.read())
    return y if case.kind == IMAGE else y.transpose(0, 3, 1, 2)
