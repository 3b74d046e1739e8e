"""mamba2_step against the float64 reference: mamba2_layers' cases, and what varies at a step's two ends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernels import reference, test_mamba2_layers
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library, Mamba2LayersParams, Mamba2StepParams
from kernels.harness import Buffer, CudaMemory, Device, decode, encode, relative_error, rounded
from kernels.test_mamba2_layers import AIM_B, AIM_XL, EPS, LayersCase, Placed
from kernels.tolerances import BOUND, state_bound
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class StepCase:
    """The layers' sizes, and the ends'. `images`: as many rows follow each token as it takes."""

    layers: LayersCase = test_mamba2_layers.BASE
    images: int = 1
    vocab_size: int = 100
    num_positions: int = 9
    position_offset: int = 1
    name: str = "base"

    @property
    def work(self) -> int:
        return self.layers.work + self.layers.rows * self.vocab_size * self.layers.d_model

    def but(self, layers: dict[str, Any] | None = None, **changes: Any) -> StepCase:
        given = {"layers": self.layers.but(**layers)} if layers else {}
        named = ",".join([*(f"{key}={value}" for key, value in changes.items()), *([self.name] * (not changes))])
        return dataclasses.replace(self, name=named, **given, **changes)

    def __str__(self) -> str:
        return f"{self.name}-{self.layers}"


BASE = StepCase()
WHOLE_B = StepCase(AIM_B, vocab_size=16384, num_positions=257, name="aim_b")
WHOLE_XL = StepCase(AIM_XL.but(layers=4), vocab_size=16384, num_positions=257, name="aim_xl")
FACTORS: list[dict[str, Any]] = [
    {},
    {"vocab_size": 13},
    {"position_offset": 0},
    {"num_positions": 2},
    {"images": 2},
    {"layers": {"rows": 4}, "images": 2},
    {"layers": {"rows": 3}, "images": 3},
    *({"layers": {"d_model": value}} for value in (32, 256)),
    {"layers": {"nheads": 14}},
    {"layers": {"ssm_state_dtype": FLOAT16, "conv_state_dtype": FLOAT16}},
    {"layers": {"rows": 4, "inactive": True}},
    {"layers": {"exchange": True}},
    {"layers": {"exchange": True, "rows": 4, "inactive": True}, "images": 2},
]
# The head's features: one, several units of a block, more than there are threads to sum at once.
HEADS: list[dict[str, Any]] = [
    *({"vocab_size": value} for value in (1, 1000)),
    {"vocab_size": 2701, "layers": {"layers": 1}},
    {"vocab_size": 1402, "layers": {"rows": 4, "layers": 1}, "images": 2},
]
INT8: list[dict[str, Any]] = [
    {"layers": {"d_model": 128, "weight_bits": 8}, "vocab_size": 1000},
    {"layers": {"d_model": 192, "weight_bits": 8, "rows": 4, "layers": 1}, "vocab_size": 1402, "images": 2},
    {"layers": {"d_model": 64, "weight_bits": 8, "inactive": True}, "position_offset": 0},
    {"layers": {"d_model": 64, "weight_bits": 8, "rows": 3, "exchange": True}, "images": 3},
]
CHAIN: list[dict[str, Any]] = [
    {"layers": {"ngroups": 2}},
    {"layers": {"rows": 6}, "images": 3, "position_offset": 0},
    {"layers": {"rows": 128, "d_model": 32, "nheads": 2, "headdim": 16, "d_state": 16}, "images": 64},
]


def chain(case: StepCase, dtype: int) -> StepCase:
    layers = dataclasses.replace(case.layers, dtype=dtype, resident=False, exchange=False)
    return dataclasses.replace(case, layers=layers)


CASES = [
    *(BASE.but(**factor) for factor in [*FACTORS, *HEADS, *INT8]),
    chain(BASE.but({"d_model": 96, "weight_bits": 8}), FLOAT16),
    chain(BASE.but({"d_model": 96, "weight_bits": 8, "rows": 20}, images=10), BFLOAT16),
    *(chain(BASE.but(**factor), FLOAT16) for factor in CHAIN),
    *(chain(BASE.but(**factor), dtype) for factor in [*FACTORS, *CHAIN] for dtype in (BFLOAT16, FLOAT32)),
    *(WHOLE_B.but({"rows": rows}, images=rows // 2) for rows in (2, 4)),
    *(WHOLE_XL.but({"rows": rows}, images=rows // 2) for rows in (2, 4)),
    *(case.but({"rows": rows, "weight_bits": 8}, images=rows // 2) for case in (WHOLE_B, WHOLE_XL) for rows in (2, 4)),
    *(WHOLE_B.but({"rows": rows, "exchange": True}, images=rows // 2) for rows in (2, 4)),
    chain(WHOLE_B.but({"rows": 128}, images=64), FLOAT16),
]


@dataclass
class Whole:
    """A step on the device, and what the reference needs of its ends."""

    case: StepCase
    placed: Placed
    token: Buffer
    position: Buffer
    logits: Buffer
    embedding: dict[str, Array]
    head: dict[str, Array]
    params: Mamba2StepParams

    def expected(self, token: Ints, position: Ints) -> Array:
        """The reference's logits; keeps its states."""
        residual = reference.step_embedding(
            token, position, **self.embedding, position_offset=self.case.position_offset
        )
        return reference.step_head(self.placed.advance(residual), **self.head, eps=EPS)


def place(device: Device, case: StepCase, seed: int, active: NDArray[np.bool_] | None = None) -> Whole:
    placed = test_mamba2_layers.place(device, case.layers, seed, active)
    rng = np.random.default_rng(seed + 1000)
    rows, d_model, dtype = case.layers.rows, case.layers.d_model, case.layers.dtype

    def normal(*shape: int, scale: float = 1.0, of: int = FLOAT32) -> Array:
        return rounded(scale * rng.standard_normal(shape), of)

    embedding = {
        "class_embedding": normal(rows, d_model),
        "table": normal(case.vocab_size, d_model, of=dtype),
        "position_table": normal(case.num_positions, d_model, of=dtype),
    }
    norms = {
        "final_modulation": normal(rows, 2, d_model, scale=0.3),
        "norm_f": normal(d_model),
        "norm_final": normal(d_model),
    }
    pointers = {
        name: device.array(values, dtype if name in ("table", "position_table") else FLOAT32).pointer
        for name, values in (embedding | norms).items()
    }
    head, pointers["head"] = embedding["table"], pointers["table"]
    if case.layers.weight_bits:
        codes = rng.integers(-127, 128, head.shape)
        scale = rounded(rng.uniform(0.5, 1.5, case.vocab_size) / 73, FLOAT32)
        stored, head = device.plain(codes.shape, np.int8), codes * scale[:, None]
        stored.fill(codes.astype(np.int8))
        pointers |= {"head": stored.pointer, "head_scale": device.array(scale, FLOAT32).pointer}
    layers = Mamba2LayersParams.from_buffer_copy(placed.params)
    layers.residual = layers.residual_out = None
    token, position = (device.plain((case.images,), np.int32) for _ in range(2))
    logits = device.empty((rows, case.vocab_size), FLOAT32)
    params = Mamba2StepParams(
        layers=layers, positions=case.images, token=token.pointer, position=position.pointer, logits=logits.pointer,
        **{name: getattr(case, name) for name in ("vocab_size", "num_positions", "position_offset")}, **pointers,
    )  # fmt: skip
    size = device.library.workspace("mamba2_step", params)
    params.layers.workspace, params.layers.workspace_size = device.scratch(size).pointer, size
    return Whole(case, placed, token, position, logits, embedding, norms | {"head": head}, params)


def draw_step(case: StepCase, step: int) -> tuple[Ints, Ints]:
    """Tokens and positions: of one image 0 at first, later past the table's end; tokens that no table has, too."""
    rng = np.random.default_rng(step)
    token = rng.integers(-3, case.vocab_size + 3, case.images).astype(np.int32)
    position = (step + np.arange(case.images)).astype(np.int32)
    return token, position


def run(device: Device, whole: Whole, step: int) -> Array:
    token, position = draw_step(whole.case, step)
    whole.token.fill(token)
    whole.position.fill(position)
    whole.logits.fill(np.full(whole.logits.shape, np.nan, np.float32))
    device.run("mamba2_step", whole.params)
    return whole.expected(token, position)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(device: Device, case: StepCase) -> None:
    active = np.ones(case.layers.rows, bool)
    if case.layers.inactive:
        active[0::2] = False
    whole = place(device, case, seed=1, active=active if case.layers.inactive else None)
    assert device.library.resident(whole.params) == case.layers.resident
    placed = whole.placed
    first = [(placed.conv_out, placed.conv, case.layers.conv_state_dtype),
             (placed.ssm_out, placed.ssm, case.layers.ssm_state_dtype)]  # fmt: skip
    # The states that later steps begin with are what they are stored in.
    bound = 2 * max(state_bound(case.layers.dtype, dtype) for _, _, dtype in first)
    # At position 0, between, and past the table.
    for step in (0, 1, case.num_positions + 1):
        expected = run(device, whole, step)
        assert relative_error(decode(whole.logits.read())[active], expected[active]) <= bound
    test_mamba2_layers.check_states(placed, active)
    for buffer, values, dtype in first:
        assert (buffer.read()[~active].view(np.uint8) == encode(values, dtype)[~active].view(np.uint8)).all()


def test_the_states_may_be_others(device: Device) -> None:
    whole = place(device, BASE.but({"in_place": False}), seed=2)
    expected = run(device, whole, 1)
    assert relative_error(decode(whole.logits.read()), expected) <= 2 * BOUND[FLOAT16]
    test_mamba2_layers.check_states(whole.placed, np.ones(whole.case.layers.rows, bool))


@pytest.mark.parametrize("case", [BASE, BASE.but({"rows": 4, "inactive": True}, images=2), BASE.but(**INT8[0]),
                                  BASE.but({"d_model": 32, "nheads": 2, "headdim": 16, "d_state": 16}), WHOLE_B],
                         ids=str)  # fmt: skip
def test_an_exchange_changes_no_bit(device: Device, case: StepCase) -> None:
    rows = case.layers.rows
    active = np.arange(rows) % 2 == 1 if case.layers.inactive else None
    plain, exchanging = (place(device, case, seed=5, active=active) for _ in range(2))
    test_mamba2_layers.exchange_from(device, exchanging.placed)
    exchanging.params.layers.exchange = exchanging.placed.params.exchange
    for step in range(3):
        for whole in (plain, exchanging):
            run(device, whole, step)
        assert (plain.logits.read() == exchanging.logits.read()).all()
        for name in ("conv_out", "ssm_out"):
            first, second = (getattr(whole.placed, name).read().view(np.uint8) for whole in (plain, exchanging))
            assert (first == second).all(), f"{name} of step {step}"


@pytest.mark.gpu
@pytest.mark.parametrize("exchange", (False, True))
@pytest.mark.parametrize("case", [WHOLE_B, WHOLE_XL.but({"rows": 4}, images=2)], ids=str)
def test_a_captured_step_gives_the_same_bits_each_time(
    gpu_library: Library, cuda_memory: CudaMemory, case: StepCase, exchange: bool
) -> None:
    device = Device(gpu_library, cuda_memory, emulated=False)
    whole = place(device, case.but({"in_place": False, "exchange": exchange}), seed=4)
    run(device, whole, 3)  # kernels load at their first launch, which a capture may not allow
    first = whole.logits.read().copy()
    with cuda_memory.captured(device.library, "mamba2_step", whole.params) as replay:
        for _ in range(200):
            whole.logits.fill(np.full_like(first, np.nan))
            replay()
            assert (whole.logits.read() == first).all()
    device.release()
