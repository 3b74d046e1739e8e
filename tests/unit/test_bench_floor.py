"""The floor of a step: bytes from the contract, and the bandwidth of copies on a fake driver."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_cuda import FakeCuda
from toy_bundle import DIMS, make_contract

from aim_edge.runtime.contract import ModelDims, build_contract, build_gpt_contract
from aim_edge.runtime.cuda import Device, DeviceMemoryError
from aim_edge.runtime.floor import StepBytes, floor, measure_bandwidth, state_bytes, step_bytes


def published(d_model: int, n_layer: int) -> ModelDims:
    d_inner = 2 * d_model
    return ModelDims(
        d_model=d_model, n_layer=n_layer, vocab_size=16384, num_classes=1000, num_tokens=256, adaln_factor=3,
        nheads=d_inner // 64, headdim=64, d_state=128, d_conv=4, conv_dim=d_inner + 2 * 128, image_channels=3,
        image_height=256, image_width=256, grid_height=16, grid_width=16,
    )  # fmt: skip


# Megabytes of weights and of state read and written a row; at 3.0 TB/s the microseconds of a step of one image, and
# the images a second of 64.
PUBLISHED = [(768, 24, 206, 18.9, 81, 286), (1024, 48, 666, 50.3, 255, 106), (1536, 48, 1454, 75.5, 535, 67)]


@pytest.mark.parametrize(("d_model", "n_layer", "weights", "state", "microseconds", "speed"), PUBLISHED)
def test_the_published_sizes(
    d_model: int, n_layer: int, weights: float, state: float, microseconds: float, speed: float
) -> None:
    found = step_bytes(build_contract(published(d_model, n_layer), state_dtype="float16"), "float16")
    assert found.weights / 1e6 == pytest.approx(weights, rel=0.01)
    assert found.state_per_row / 1e6 == pytest.approx(state, rel=0.003)
    assert floor(found, 3.0e12, 1, 256).step_seconds * 1e6 == pytest.approx(microseconds, rel=0.01)
    assert floor(found, 3.0e12, 64, 256).images_per_second == pytest.approx(speed, rel=0.01)


def test_the_toys_bytes_by_hand() -> None:
    # in_proj (6 + 7 + 2, 8), out_proj (8, 6), two layers, lm_head (23, 8); states (2, 3, 5), read and written.
    weights = 2 * (15 * 8 + 8 * 6) + 23 * 8
    assert step_bytes(make_contract("float32", False), "float32") == StepBytes(4 * weights, 2 * 4 * 2 * 30)
    assert step_bytes(make_contract("float16", True), "float32") == StepBytes(4 * weights, 2 * 2 * 2 * 30)


@pytest.mark.parametrize("codes", [4, 256, 4096])
def test_a_transformers_bytes_are_the_mean_over_its_positions(codes: int) -> None:
    own = {"adaln_factor": 0, "d_state": 0, "d_conv": 0, "conv_dim": 0, "nheads": 12, "num_tokens": codes}
    contract = build_gpt_contract(replace(published(768, 12), **own), state_dtype="float16")
    found = step_bytes(contract, "float32")
    assert found.weights == 4 * (12 * (4 * 768 * 768 + 3 * 768 * 2048) + 16384 * 768)
    line = 2 * 12 * 768 * 2  # keys and values of a position in 12 layers of 768, two bytes each
    assert found.state_per_row == sum(line * p + line for p in range(codes)) / codes
    assert state_bytes(contract) == 2 * line * codes


def test_a_floor_by_hand() -> None:
    least = floor(StepBytes(100, 10), 1000.0, 5, 4)
    assert (least.step_bytes, least.step_seconds, least.batch_seconds) == (200, 0.2, 0.8)
    assert least.images_per_second == pytest.approx(6.25)


def test_mamba_1_and_unknown_precisions_have_none() -> None:
    mamba1 = build_contract(replace(DIMS, headdim=1, nheads=6, conv_dim=6), state_dtype="float32")
    with pytest.raises(ValueError, match="Mamba-1"):
        step_bytes(mamba1, "float32")
    with pytest.raises(ValueError, match="precision is 'int8'"):
        step_bytes(make_contract("float32", False), "int8")


def test_bandwidth_counts_what_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr("aim_edge.runtime.cuda.load_library", lambda: cuda.library)
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 4096)
    ticks = iter(range(1000))
    monkeypatch.setattr("aim_edge.runtime.floor.time.perf_counter", lambda: 0.5 * next(ticks))
    found = measure_bandwidth(Device())
    assert found.samples == (2 * 4096 * found.copies / 0.5,) * 10  # the one that warms up is not among them
    assert found.bytes_per_second == found.samples[0]
    assert cuda.calls["cuMemcpyDtoDAsync_v2"] == 11 * found.copies
    assert cuda.is_clean


def test_bandwidth_gives_back_what_it_took_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(limit=6000)
    monkeypatch.setattr("aim_edge.runtime.cuda.load_library", lambda: cuda.library)
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 4096)
    with pytest.raises(DeviceMemoryError, match="bandwidth"):
        measure_bandwidth(Device())
    assert cuda.is_clean
