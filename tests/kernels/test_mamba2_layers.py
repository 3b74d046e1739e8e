"""mamba2_layers against the float64 reference: the kernel that stays for all layers, and the chain of operators.

The kernel's blocks wait for each other; the emulator runs twenty of them side by side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library, Mamba2LayersParams
from kernels.harness import POISON, Buffer, CudaMemory, Device, decode, encode, relative_error, rounded
from kernels.tolerances import BOUND, NAMES, state_bound
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPS = 1e-5
PRODUCTS = ("in_proj", "out_proj")


@dataclass(frozen=True)
class LayersCase:
    """headdim, d_state and nheads differ; the features are no multiple of a tile."""

    name: str = "base"
    rows: int = 2
    layers: int = 2
    d_model: int = 96
    nheads: int = 4
    headdim: int = 48
    d_state: int = 64
    ngroups: int = 1
    d_conv: int = 4
    dtype: int = FLOAT16
    weight_bits: int = 0
    conv_state_dtype: int = FLOAT32
    ssm_state_dtype: int = FLOAT32
    in_place: bool = True
    inactive: bool = False
    resident: bool = True  # where the device is of sm_90 or later
    exchange: bool = False

    @property
    def d_inner(self) -> int:
        return self.nheads * self.headdim

    @property
    def conv_dim(self) -> int:
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def work(self) -> int:
        inner = self.d_inner + self.conv_dim + self.nheads + self.d_inner
        return self.rows * self.layers * (self.d_inner * self.d_state + self.d_model * inner)

    def but(self, **changes: Any) -> LayersCase:
        told = ("dtype", "weight_bits", "resident")
        named = ",".join(f"{key}={value}" for key, value in changes.items() if key not in told)
        return dataclasses.replace(self, name=named or self.name, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{NAMES[self.dtype]}{'-int8' if self.weight_bits else ''}"


BASE = LayersCase()
AIM_B = LayersCase(
    name="aim_b", layers=24, d_model=768, nheads=24, headdim=64, d_state=128, conv_state_dtype=FLOAT16,
    ssm_state_dtype=FLOAT16,
)  # fmt: skip
AIM_XL = dataclasses.replace(AIM_B, name="aim_xl", layers=48, d_model=1536, nheads=48)
FACTORS: list[dict[str, Any]] = [
    {},
    *({"rows": value} for value in (1, 3, 4)),
    *({"layers": value} for value in (1, 5)),
    *({"d_model": value} for value in (32, 256)),
    *({"nheads": value} for value in (2, 14)),
    *({"headdim": value} for value in (16, 128)),
    *({"d_state": value} for value in (16, 48, 128)),
    *({"d_conv": value} for value in (2, 3)),
    {"ssm_state_dtype": FLOAT16, "conv_state_dtype": FLOAT16},
    {"d_state": 128, "ssm_state_dtype": FLOAT16, "conv_state_dtype": FLOAT16},
    {"in_place": False},
    {"inactive": True, "rows": 4},
    {"inactive": True, "in_place": False},
]
CHAIN: list[dict[str, Any]] = [
    {"ngroups": 2},
    {"d_model": 72},
    {"d_state": 144},
    {"ssm_state_dtype": FLOAT16},
    {"rows": 5},
    {"rows": 9, "inactive": True, "in_place": False},
    {"rows": 9, "ssm_state_dtype": FLOAT16, "conv_state_dtype": FLOAT16, "d_conv": 3},
]
# d_model and d_inner in steps of 64 go through the one kernel, in steps of 32 through the chain.
INT8 = dataclasses.replace(BASE, weight_bits=8, d_model=128)
INT8_FACTORS: list[dict[str, Any]] = [
    {},
    *({"rows": value} for value in (1, 3, 4)),
    *({"d_model": value} for value in (64, 192, 576)),
    *({"nheads": value, "headdim": 64} for value in (1, 3, 9)),
    *({"d_conv": value} for value in (2, 3)),
    {"d_state": 128, "ssm_state_dtype": FLOAT16, "conv_state_dtype": FLOAT16},
    {"inactive": True, "rows": 4},
    {"inactive": True, "in_place": False},
]
INT8_CHAIN: list[dict[str, Any]] = [
    {"d_model": 96},
    {"nheads": 2},
    {"ngroups": 2},
    {"rows": 5},
    {"rows": 9, "inactive": True, "in_place": False},
    {"dtype": BFLOAT16},
]
CASES = [
    *(BASE.but(**factor) for factor in FACTORS),
    *(INT8.but(**factor) for factor in INT8_FACTORS),
    *(INT8.but(resident=False, **factor) for factor in INT8_CHAIN),
    *(BASE.but(resident=False, **factor) for factor in CHAIN),
    *(BASE.but(dtype=dtype, resident=False, **factor) for factor in ({}, *CHAIN) for dtype in (BFLOAT16, FLOAT32)),
    *(AIM_B.but(rows=rows) for rows in (1, 2, 4)),
    AIM_B.but(rows=128, resident=False),
    *(AIM_XL.but(rows=rows) for rows in (2, 4)),
    *(case.but(weight_bits=8, rows=rows) for case in (AIM_B, AIM_XL) for rows in (1, 2, 4)),
    AIM_B.but(weight_bits=8, rows=128, resident=False),
]


def draw_weights(case: LayersCase, rng: np.random.Generator) -> dict[str, Array]:
    """By name; of integers their codes, and their scales as `NAME_scale`."""
    step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (case.layers, case.nheads)))
    width = case.d_inner + case.conv_dim + case.nheads

    def normal(*shape: int, scale: float = 1.0, dtype: int = FLOAT32) -> Array:
        return rounded(rng.standard_normal((case.layers, *shape)) * scale, dtype)

    weights = {
        "norm_weight": normal(case.d_model),
        "in_proj": normal(width, case.d_model, scale=case.d_model**-0.5, dtype=case.dtype),
        "conv_weight": normal(case.conv_dim, case.d_conv),
        "conv_bias": normal(case.conv_dim),
        "A": rounded(-rng.uniform(1.0, 16.0, (case.layers, case.nheads)), FLOAT32),
        "D": normal(case.nheads),
        "dt_bias": rounded(step + np.log(-np.expm1(-step)), FLOAT32),
        "gated_norm_weight": normal(case.d_inner),
        "out_proj": normal(case.d_model, case.d_inner, scale=case.d_inner**-0.5, dtype=case.dtype),
    }
    for name in PRODUCTS if case.weight_bits else ():
        layers, features, inputs = weights[name].shape
        weights[name] = rng.integers(-127, 128, weights[name].shape).astype(np.float64)  # every code occurs
        scale = rng.uniform(0.5, 1.5, (layers, features)) * (73.0**-1 * inputs**-0.5)
        weights[f"{name}_scale"] = rounded(scale, FLOAT32)
    return weights


@dataclass
class Placed:
    """A step on the device and the same in float64."""

    case: LayersCase
    weights: dict[str, Array]
    modulation: Array
    conv: Array
    ssm: Array
    residual: Buffer
    residual_out: Buffer
    conv_out: Buffer
    ssm_out: Buffer
    params: Mamba2LayersParams
    exchange: Buffer | None = None

    def advance(self, residual: Array) -> Array:
        """The reference's step; keeps its states."""
        out, self.conv, self.ssm = reference.mamba2_layers(
            residual, self.modulation, self.weights, self.conv, self.ssm, EPS
        )
        return out


def place_weight(device: Device, case: LayersCase, name: str, values: Array) -> Buffer:
    if name in PRODUCTS and case.weight_bits:
        buffer = device.plain(values.shape, np.int8)
        buffer.fill(values.astype(np.int8))
        return buffer
    return device.array(values, case.dtype if name in PRODUCTS else FLOAT32)


def place(device: Device, case: LayersCase, seed: int, active: NDArray[np.bool_] | None = None) -> Placed:
    rng = np.random.default_rng(seed)
    weights = draw_weights(case, rng)
    pointers = {name: place_weight(device, case, name, values).pointer for name, values in weights.items()}
    for name in PRODUCTS if case.weight_bits else ():
        weights[name] *= weights.pop(f"{name}_scale")[..., None]
    modulation = rounded(0.3 * rng.standard_normal((case.rows, 3 * case.layers, case.d_model)), FLOAT32)
    conv = rng.standard_normal((case.rows, case.layers, case.conv_dim, case.d_conv - 1))
    ssm = rng.standard_normal((case.rows, case.layers, case.nheads, case.headdim, case.d_state))
    conv, ssm = rounded(conv, case.conv_state_dtype), rounded(ssm, case.ssm_state_dtype)
    conv_in, ssm_in = device.array(conv, case.conv_state_dtype), device.array(ssm, case.ssm_state_dtype)
    conv_out = conv_in if case.in_place else device.empty(conv.shape, case.conv_state_dtype)
    ssm_out = ssm_in if case.in_place else device.empty(ssm.shape, case.ssm_state_dtype)
    residual = device.empty((case.rows, case.d_model), FLOAT32)
    residual_out = residual if case.in_place else device.empty(residual.shape, FLOAT32)
    params = Mamba2LayersParams(
        **{name: getattr(case, name) for name in ("rows", "layers", "d_model", "nheads", "headdim", "d_state")},
        **{name: getattr(case, name) for name in ("ngroups", "d_conv", "dtype", "conv_state_dtype", "ssm_state_dtype")},
        **pointers,
        weight_bits=case.weight_bits,
        eps=EPS,
        residual=residual.pointer,
        residual_out=residual_out.pointer,
        modulation=device.array(modulation, FLOAT32).pointer,
        conv_state_in=conv_in.pointer,
        conv_state_out=conv_out.pointer,
        ssm_state_in=ssm_in.pointer,
        ssm_state_out=ssm_out.pointer,
        active=None if active is None else device.mask(active).pointer,
    )
    size = device.library.workspace("mamba2_layers", params)
    params.workspace, params.workspace_size = device.scratch(size).pointer, size
    placed = Placed(case, weights, modulation, conv, ssm, residual, residual_out, conv_out, ssm_out, params)
    if case.exchange:
        exchange_from(device, placed)
    return placed


def exchange_from(device: Device, placed: Placed, given: int = 0) -> None:
    """Gives the layers an exchange as calls left it that gave `given` tags, which may be more than 32 bits hold."""
    size = device.library.exchange(placed.params)
    assert (size > 0) == placed.case.resident
    placed.exchange = device.plain((size // 4,), np.uint32)
    placed.exchange.fill(np.full(size // 4, given % 2**32, np.uint32))  # a word's high half, its tag, and its low one
    placed.params.exchange = placed.exchange.pointer


def draw_residual(case: LayersCase, seed: int) -> Array:
    return rounded(np.random.default_rng(seed).standard_normal((case.rows, case.d_model)), FLOAT32)


def check(placed: Placed, expected: Array, active: NDArray[np.bool_]) -> None:
    bound = 2 * BOUND[placed.case.dtype]
    assert relative_error(decode(placed.residual_out.read())[active], expected[active]) <= bound
    check_states(placed, active)


def check_states(placed: Placed, active: NDArray[np.bool_]) -> None:
    case = placed.case
    ssm, conv = decode(placed.ssm_out.read()), decode(placed.conv_out.read())
    for i in range(case.layers):  # one by one: a layer that is wrong should not hide among the others
        bound = 2 * state_bound(case.dtype, case.ssm_state_dtype)
        assert relative_error(ssm[active, i], placed.ssm[active, i]) <= bound, f"ssm_state of layer {i}"
        bound = 2 * state_bound(case.dtype, case.conv_state_dtype)
        assert relative_error(conv[active, i], placed.conv[active, i]) <= bound, f"conv_state of layer {i}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: LayersCase) -> None:
    active = np.ones(case.rows, bool)
    if case.inactive:
        active[0::2] = False
    placed = place(device, case, seed=1, active=active if case.inactive else None)
    assert device.library.resident(placed.params) == case.resident
    residual = draw_residual(case, seed=2)
    placed.residual.fill(encode(residual, FLOAT32))
    device.run("mamba2_layers", placed.params)
    before = [(placed.conv_out, placed.conv, case.conv_state_dtype), (placed.ssm_out, placed.ssm, case.ssm_state_dtype)]
    check(placed, placed.advance(residual), active)
    for buffer, values, dtype in before:
        untouched = encode(values, dtype)[~active].view(np.uint8)
        if not case.in_place:
            untouched = np.full_like(untouched, POISON)
        assert (buffer.read()[~active].view(np.uint8) == untouched).all()


@pytest.mark.parametrize("rows", (2, 9))
def test_the_states_carry_over_steps(device: Device, rows: int) -> None:
    case = BASE.but(rows=rows)
    placed = place(device, case, seed=3)
    for step in range(4 if device.emulated else 256):
        residual = draw_residual(case, seed=100 + step)
        placed.residual.fill(encode(residual, FLOAT32))
        device.run("mamba2_layers", placed.params)
        expected = placed.advance(residual)
    check(placed, expected, np.ones(rows, bool))


EXCHANGES = [
    *(BASE.but(rows=rows) for rows in (1, 2, 3, 4)),
    BASE.but(rows=4, inactive=True),
    BASE.but(d_model=32, nheads=2, headdim=16, d_state=16),  # blocks without features, and some without lines
    INT8.but(rows=3),
    AIM_B.but(rows=2),
    AIM_B.but(rows=4, weight_bits=8),
]
# The first call's last tag is 2^31 - 1, the second's go past it; the second call's tags go past 2^32, or the first's.
GIVEN = (0, 2**31 - 3, 2**32 - 3, 2**32 - 1)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("case", EXCHANGES, ids=str)
def test_an_exchange_changes_no_bit(device: Device, case: LayersCase, given: int) -> None:
    if given and device.emulated and case != BASE.but(rows=2):
        pytest.skip("tags past their end: by one case")
    active = np.arange(case.rows) % 2 == 1 if case.inactive else np.ones(case.rows, bool)
    plain, exchanging = (place(device, case, seed=6, active=active if case.inactive else None) for _ in range(2))
    exchange_from(device, exchanging, given)
    assert exchanging.exchange is not None
    device.memory.upload(exchanging.params.workspace, np.full(exchanging.params.workspace_size, POISON, np.uint8))
    for step in range(3 if device.emulated else 10):
        residual = encode(draw_residual(case, seed=7 + step), FLOAT32)
        for placed in (plain, exchanging):
            placed.residual.fill(residual)
            device.run("mamba2_layers", placed.params)
        for name in ("residual_out", "conv_out", "ssm_out"):
            first, second = getattr(plain, name).read(), getattr(exchanging, name).read()
            assert (first.view(np.uint8) == second.view(np.uint8)).all(), f"{name} of step {step}"
        stored = exchanging.exchange.read()
        width = case.d_inner + case.conv_dim + case.nheads
        words = case.rows * (width + (case.d_inner + case.d_model) // 2)
        last = (given + (step + 1) * case.layers) % 2**32
        assert (stored[-2 * words :].view(np.uint64) >> 32 == last).all(), "a word that a call did not write"
        assert stored[0] == last and np.isin(stored[: -2 * words], (last, given % 2**32)).all(), "what the blocks count"
    workspace = device.memory.download(exchanging.params.workspace, exchanging.params.workspace_size)
    assert (workspace == POISON).all(), "the workspace was written"


@pytest.mark.parametrize("case", [BASE.but(ngroups=2, resident=False), BASE.but(rows=5, resident=False)], ids=str)
def test_the_chain_has_no_use_for_an_exchange(device: Device, case: LayersCase) -> None:
    assert device.library.exchange(place(device, case, seed=8).params) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("exchange", (False, True))
@pytest.mark.parametrize("weight_bits", (0, 8))
def test_a_captured_step_gives_the_same_bits_each_time(
    gpu_library: Library, cuda_memory: CudaMemory, weight_bits: int, exchange: bool
) -> None:
    device = Device(gpu_library, cuda_memory, emulated=False)
    case = AIM_B.but(in_place=False, weight_bits=weight_bits, exchange=exchange)
    placed = place(device, case, seed=4)
    residual = encode(draw_residual(case, seed=5), FLOAT32)
    placed.residual.fill(residual)
    device.run("mamba2_layers", placed.params)  # kernels load at their first launch, which a capture may not allow
    first = placed.residual_out.read().copy()
    with cuda_memory.captured(device.library, "mamba2_layers", placed.params) as replay:
        for _ in range(200):
            placed.residual_out.fill(np.full_like(first, np.nan))
            replay()
            assert (placed.residual_out.read() == first).all()
    device.release()
