"""The sampler against the published filter (sampler.npz), by exact probabilities and by its draws."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aim_edge.runtime import NonFiniteError, Sampler, SamplingConfig
from aim_edge.runtime.philox import uniform

GOLDEN = Path(__file__).parents[1] / "golden" / "sampler.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def twice(logits: np.ndarray) -> np.ndarray:
    """Rows of which the null half equals the other: guidance then changes nothing, exactly."""
    return np.concatenate([logits, logits])


def indices(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 1.0), (0, 0.9), (50, 0.9), (600, 0.98), (1, 1.0)])
def test_probabilities_are_the_published_ones(golden: dict[str, np.ndarray], top_k: int, top_p: float) -> None:
    logits, expected = golden["logits"], golden[f"probs_k{top_k}_p{top_p}"]
    sampler = Sampler(512, 6, SamplingConfig(top_k=top_k, top_p=top_p))
    found = sampler.probabilities(twice(logits))
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    np.testing.assert_array_equal(found > 0, expected > 0)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (50, 0.9)])
def test_200000_draws_follow_the_published_distribution(
    golden: dict[str, np.ndarray], top_k: int, top_p: float
) -> None:
    draws, batch = 200_000, 2000
    row = golden["logits"][1]
    expected = golden[f"probs_k{top_k}_p{top_p}"][1].astype(np.float64)
    sampler = Sampler(512, batch, SamplingConfig(top_k=top_k, top_p=top_p))
    logits = np.broadcast_to(row, (2 * batch, 512)).copy()
    counts = np.zeros(512)
    for block in range(draws // batch):
        index = np.arange(block * batch, (block + 1) * batch, dtype=np.uint64)
        counts += np.bincount(sampler.draw(logits, 2024, index, 7), minlength=512)
    assert counts.sum() == draws and not counts[expected == 0].any()
    # Codes expected fewer than 5 times are pooled, as the chi-square approximation asks.
    expected_counts = expected / expected.sum() * draws
    often = expected_counts >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected_counts[often], expected_counts[~often].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    # Wilson-Hilferty: the cube root of chi-square / degrees is close to normal. 3.09 is p = 0.001.
    z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    assert z < 3.09, f"chi-square {statistic:.0f} at {degrees} degrees"


def test_guidance_and_temperature() -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((4, 9), dtype=np.float32)
    guided = (logits[2:] + (logits[:2] - logits[2:]) * np.float32(3.5)) / np.float32(0.7)
    wanted = np.exp(guided.astype(np.float64))
    found = Sampler(9, 2, SamplingConfig(guidance_scale=3.5, temperature=0.7)).probabilities(logits)
    np.testing.assert_allclose(found, wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-6)


def test_top_k_keeps_ties_and_is_clamped() -> None:
    logits = np.array([[1, 3, 2, 2, 0]], np.float32)
    kept = Sampler(5, 1, SamplingConfig(top_k=2)).probabilities(twice(logits))[0] > 0
    np.testing.assert_array_equal(kept, [False, True, True, True, False])
    assert (Sampler(5, 1, SamplingConfig(top_k=99)).probabilities(twice(logits)) > 0).all()


def test_top_p_always_keeps_the_largest() -> None:
    logits = np.array([[1, 3, 2, 2, 0]], np.float32)
    for top_p in (1e-30, 1e-3):
        found = Sampler(5, 1, SamplingConfig(top_p=top_p)).probabilities(twice(logits))[0]
        np.testing.assert_array_equal(found, [0, 1, 0, 0, 0])


def test_draw_is_the_first_index_whose_cumulative_probability_exceeds_u() -> None:
    random = np.random.default_rng(2)
    logits = random.standard_normal((64, 33), dtype=np.float32)
    sampler = Sampler(33, 32, SamplingConfig(guidance_scale=1, top_k=9, top_p=0.95))
    index = np.arange(32, dtype=np.uint64)
    cumulative = sampler.probabilities(logits).cumsum(axis=1)
    u = uniform(5, index, 3)
    wanted = [int(np.argmax(cumulative[i] > u[i] * cumulative[i, -1])) for i in range(32)]
    tokens = sampler.draw(logits, 5, index, 3)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, wanted)


@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(top_k=40, top_p=0.9), SamplingConfig(top_p=0.9)])
def test_a_row_does_not_depend_on_its_batch(config: SamplingConfig) -> None:
    logits = np.random.default_rng(3).standard_normal((14, 1001), dtype=np.float32)
    together = Sampler(1001, 7, config)
    alone = Sampler(1001, 1, config)
    for step in range(20):
        tokens = together.draw(logits, 11, np.arange(7, dtype=np.uint64), step)
        for row in range(7):
            np.testing.assert_array_equal(alone.draw(logits[[row, row + 7]], 11, indices(row), step), tokens[row])


def test_draw_leaves_the_logits_and_allocates_nothing_of_their_size() -> None:
    vocabulary, batch = 16384, 4
    logits = np.random.default_rng(4).standard_normal((2 * batch, vocabulary), dtype=np.float32)
    before = logits.copy()
    for config in (SamplingConfig(), SamplingConfig(top_k=600, top_p=0.98), SamplingConfig(top_p=0.98)):
        sampler = Sampler(vocabulary, batch, config)
        sampler.draw(logits, 0, np.arange(batch, dtype=np.uint64), 0)
        tracemalloc.start()
        sampler.draw(logits, 0, np.arange(batch, dtype=np.uint64), 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < vocabulary * 4, config  # one row of float32
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_logits_are_refused(value: float) -> None:
    logits = np.zeros((4, 8), np.float32)
    logits[1, 3] = value
    with pytest.raises(NonFiniteError, match="row 1"):
        Sampler(8, 2, SamplingConfig(guidance_scale=1)).draw(logits, 0, indices(0, 1), 0)


def test_shapes_and_dtypes_are_checked() -> None:
    sampler = Sampler(8, 2, SamplingConfig())
    wrong: list[Any] = [np.zeros((2, 8), np.float32), np.zeros((4, 8), np.float64)]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"expected float32 \(4, 8\)"):
            sampler.draw(bad, 0, indices(0, 1), 0)
    with pytest.raises(ValueError, match="image_index"):
        sampler.draw(np.zeros((4, 8), np.float32), 0, indices(0), 0)


def test_config_reports_every_bad_field_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        SamplingConfig(guidance_scale=-1, temperature=0, top_k=-3, top_p=0)
    for name in ("guidance_scale", "temperature", "top_k", "top_p"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"temperature": float("nan")}, {"temperature": float("inf")}, {"temperature": 1e-60}, {"temperature": "1"},
     {"temperature": True}, {"guidance_scale": float("inf")}, {"guidance_scale": 1e300}, {"top_k": 1.5},
     {"top_k": True}, {"top_p": 1.01}, {"top_p": -0.1}],
)  # fmt: skip
def test_config_refuses(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        SamplingConfig(**values)  # type: ignore[arg-type]


def test_config_round_trip_and_override() -> None:
    config = SamplingConfig(guidance_scale=2, top_k=int(np.int64(5)))
    assert SamplingConfig.from_dict(config.to_dict()) == config
    assert config.override(top_p=0.5, top_k=None) == SamplingConfig(guidance_scale=2.0, top_k=5, top_p=0.5)
    with pytest.raises(ValueError, match="topk"):
        SamplingConfig.from_dict({"topk": 3})
