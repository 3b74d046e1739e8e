"""One call of selective_scan: its inputs drawn at random, its reference, and the call itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernels import reference
from kernels.abi import FLOAT32, MAMBA1, MAMBA2, SelectiveScanParams
from kernels.harness import POISON, Device, decode, rounded
from kernels.tolerances import NAMES
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScanCase:
    """nheads, headdim and d_state all differ, so that a transposed state cannot pass."""

    name: str = "base"
    kind: int = MAMBA2
    rows: int = 2
    length: int = 64
    nheads: int = 4
    headdim: int = 32
    d_state: int = 64
    ngroups: int = 2
    dtype: int = FLOAT32
    state_dtype: int = FLOAT32
    layout: str = "dense"  # or "packed": 16-byte aligned views of one buffer; "odd": views without alignment
    gate: bool = True
    skip: bool = True
    dt_bias: bool = True
    softplus: bool = True
    initial_state: bool = True
    in_place: bool = False
    workspace: bool = True
    inactive: bool = False
    fast_decay: bool = False

    @property
    def work(self) -> int:
        return self.rows * self.length * self.nheads * self.headdim * self.d_state

    def but(self, **changes: Any) -> ScanCase:
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key not in ("dtype", "name"))
        made = dataclasses.replace(self, **changes)
        base = "" if self.name == "base" else f"{self.name},"
        return dataclasses.replace(made, name=f"{base}{named}" if "name" not in changes else made.name)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}"


@dataclass
class ScanInputs:
    x: Array
    dt: Array
    B: Array
    C: Array
    z: Array | None
    A: Array
    D: Array | None
    dt_bias: Array | None
    state: Array
    active: NDArray[np.bool_]

    def steps(self, begin: int, end: int) -> ScanInputs:
        cut = {key: getattr(self, key)[:, begin:end] for key in ("x", "dt", "B", "C")}
        return dataclasses.replace(self, z=None if self.z is None else self.z[:, begin:end], **cut)


@dataclass
class ScanOutputs:
    y: Array
    state: Array
    raw_y: NDArray[np.generic]
    raw_state: NDArray[np.generic]


def draw(case: ScanCase, seed: int) -> ScanInputs:
    """Every value as its dtype holds it, so that the reference starts from what the kernel reads."""
    rng = np.random.default_rng(seed)
    rows, length, heads = case.rows, case.length, case.nheads

    def activation(*shape: int, scale: float = 1.0) -> Array:
        return rounded(rng.standard_normal((rows, length, *shape)) * scale, case.dtype)

    # Steps between 0.001 and 0.1, as Mamba is initialised; or so long that a step forgets nearly everything.
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), heads)) if not case.fast_decay else np.full(heads, 6.0)
    bias = step + np.log(-np.expm1(-step))
    dt = activation(heads, scale=0.5)
    if not case.dt_bias:
        dt = rounded(dt + bias, case.dtype)
    if not case.softplus:
        dt = rounded(np.abs(dt) * 0.1, case.dtype)
        bias = np.abs(bias) * 0.01
    mamba1 = case.kind == MAMBA1
    A = -rng.uniform(1.0, 16.0, (heads, case.d_state) if mamba1 else (heads,))
    active = np.ones(rows, bool)
    if case.inactive:
        active[0::2] = False
    state = rng.standard_normal((rows, heads, case.headdim, case.d_state))
    return ScanInputs(
        x=activation(heads, case.headdim),
        dt=dt,
        B=activation(case.ngroups, case.d_state),
        C=activation(case.ngroups, case.d_state),
        z=activation(heads, case.headdim) if case.gate else None,
        A=rounded(A, FLOAT32),
        D=rounded(rng.standard_normal(heads), FLOAT32) if case.skip else None,
        dt_bias=rounded(bias, FLOAT32) if case.dt_bias else None,
        state=rounded(state, case.state_dtype) if case.initial_state else np.zeros_like(state),
        active=active,
    )


def expected(case: ScanCase, inputs: ScanInputs) -> tuple[Array, Array]:
    return reference.selective_scan(
        inputs.x,
        inputs.dt,
        inputs.A,
        inputs.B,
        inputs.C,
        inputs.D,
        inputs.dt_bias,
        case.softplus,
        inputs.z,
        inputs.state,
    )


def _place(device: Device, case: ScanCase, tensors: dict[str, Array]) -> dict[str, int]:
    """Uploads activations by the case's layout; returns their pointers and strides as params' fields."""
    fields: dict[str, int] = {}
    shape = (case.rows, case.length)
    flat = {name: values.reshape(*shape, -1) for name, values in tensors.items()}
    if case.layout == "dense":
        for name, values in flat.items():
            width = values.shape[2]
            fields[name] = device.array(values, case.dtype).pointer
            fields[f"{name}_row_stride"], fields[f"{name}_time_stride"] = case.length * width, width
        return fields
    lead = 1 if case.layout == "odd" else 0
    # dt comes last: its width alone would move what follows it off a 16-byte boundary.
    names = sorted(flat, key=lambda name: name == "dt")
    columns = [np.full((*shape, lead), np.nan)] + [flat[name] for name in names]
    used = sum(column.shape[2] for column in columns)
    padding = 8 - used % 8 + lead
    packed = np.concatenate([*columns, np.full((*shape, padding), np.nan)], axis=2)
    width = packed.shape[2]
    buffer = device.array(packed, case.dtype)
    at = lead
    for name in names:
        fields[name] = buffer.at(at)
        fields[f"{name}_row_stride"], fields[f"{name}_time_stride"] = case.length * width, width
        at += flat[name].shape[2]
    return fields


def run(device: Device, case: ScanCase, inputs: ScanInputs) -> ScanOutputs:
    width = case.nheads * case.headdim
    activations = {name: getattr(inputs, name) for name in ("x", "dt", "B", "C")}
    if inputs.z is not None:
        activations["z"] = inputs.z
    fields = _place(device, case, activations)
    y_width = width + {"dense": 0, "packed": 8, "odd": 3}[case.layout]
    y = device.empty((case.rows, case.length, y_width), case.dtype)
    state_in = device.array(inputs.state, case.state_dtype) if case.initial_state or case.in_place else None
    state_out = state_in if case.in_place and state_in else device.empty(inputs.state.shape, case.state_dtype)
    params = SelectiveScanParams(
        rows=case.rows,
        length=case.length,
        kind=case.kind,
        nheads=case.nheads,
        headdim=case.headdim,
        d_state=case.d_state,
        ngroups=case.ngroups,
        dtype=case.dtype,
        state_dtype=case.state_dtype,
        dt_softplus=int(case.softplus),
        y=y.pointer,
        y_row_stride=case.length * y_width,
        y_time_stride=y_width,
        ssm_state_in=state_in.pointer if state_in else None,
        ssm_state_out=state_out.pointer,
        active=device.mask(inputs.active).pointer if case.inactive else None,
        **{name: _constant(device, getattr(inputs, name)) for name in ("A", "D", "dt_bias")},
        **fields,
    )
    if case.workspace:
        size = device.library.workspace("selective_scan", params)
        params.workspace_size = size
        params.workspace = device.scratch(size).pointer if size else None
    device.run("selective_scan", params)
    raw_y = y.read()
    untouched = raw_y[:, :, width:].copy().view(np.uint8)
    assert (untouched == POISON).all(), "the kernel wrote between the rows of y"
    raw_y = raw_y[:, :, :width].reshape(inputs.x.shape)
    raw_state = state_out.read()
    return ScanOutputs(decode(raw_y), decode(raw_state), raw_y, raw_state)


def _constant(device: Device, values: Array | None) -> int | None:
    return None if values is None else device.array(values, FLOAT32).pointer
