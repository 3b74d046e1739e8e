"""aim_sample draws the very codes that runtime.sampler draws. Each row of the table changes one factor of a base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels import sample_case
from kernels.harness import Device
from kernels.sample_case import POISONED, SampleCase

BASE = SampleCase()
# Up to 1024 logits are ranked whole. Beyond, up to 16384, a bound of fours leaves few to rank, where it does; else, and
# past 16384, the k-th is searched for.
ALL = BASE.but(top_k=0)
CASES = [
    BASE.but(cpu_steps=20),
    *(BASE.but(vocab_size=value) for value in (1, 7, 100, 1023, 1024, 1025, 4097, 16383, 16385, 65536)),
    *(BASE.but(vocab_size=value) for value in (1028, 2048, 2052, 8192, 16380)),
    BASE.but(batch=1),
    BASE.but(batch=64, cpu_steps=1, steps=4),
    *(BASE.but(top_k=value) for value in (0, 1, 5, 1023, 1024, 1025, 5000, 16383, 16384, 20000, 2**31 - 1)),
    *(BASE.but(top_p=value) for value in (1.0, 0.999999, 0.5, 0.05, 1e-6, 1e-37)),
    *(BASE.but(temperature=value) for value in (1.0, 2.0, 0.01)),
    *(BASE.but(guidance_scale=value) for value in (0.0, 1.0, 7.5)),
    *(BASE.but(logits=name, vocab_size=value) for name in sample_case.LOGITS for value in (16383, 16384)),
    BASE.but(seed=0),
    BASE.but(seed=2**64 - 1),
    BASE.but(seed=2**32, first_image=2**32 - 5),
    BASE.but(first_image=2**64 - 100),
    BASE.but(first_position=1000),
    BASE.but(inactive=True),
    # Without top-k, or with one beyond what a block sorts.
    *(ALL.but(top_p=value, top_k=0) for value in (1.0, 0.999999, 0.5, 1e-6)),
    *(ALL.but(logits=name, top_k=0, vocab_size=value) for name in sample_case.LOGITS for value in (16383, 16384)),
    *(ALL.but(logits=name, top_k=0, top_p=1.0) for name in sample_case.LOGITS),
    *(ALL.but(vocab_size=value, top_k=0) for value in (1, 7, 100, 1024, 1025, 16385, 65535, 65536)),
    ALL.but(vocab_size=65536, top_k=0, top_p=1.0),
    ALL.but(vocab_size=65536, top_k=3000),
    ALL.but(vocab_size=65535, top_k=600),
    ALL.but(vocab_size=7, top_k=3, logits="ties"),
    ALL.but(vocab_size=100, top_k=40, logits="ties", top_p=0.5),
    # Guidance of 0 leaves the null row's zeros of both signs, which lie at the k-th place and are equal.
    BASE.but(vocab_size=1000, top_k=500, top_p=1.0, logits="ties", guidance_scale=0.0, cpu_steps=10),
    BASE.but(top_k=8000, top_p=1.0, logits="ties", guidance_scale=0.0, cpu_steps=5),
    ALL.but(top_k=3000, logits="ties", top_p=0.5),
    ALL.but(top_k=3000, logits="-inf", top_p=1.0),
    ALL.but(top_k=8000, logits="-inf"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_the_codes_of_the_host(device: Device, case: SampleCase) -> None:
    steps = case.cpu_steps if device.emulated else case.steps
    logits = sample_case.draw_logits(case)
    found = sample_case.run(device, case, logits, steps)
    wanted = sample_case.expected(case, logits, steps)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.token, wanted.token)
    np.testing.assert_array_equal(found.position, wanted.position)
    np.testing.assert_array_equal(found.status, wanted.status)


def guided(label: float, null: float = 0.0) -> dict[str, Any]:
    return {"label": np.float32(label), "null": np.float32(null)}


@pytest.mark.parametrize("vocab_size", [7, 1025, 2052])
@pytest.mark.parametrize(
    "value",
    [guided(np.nan), guided(-np.nan), guided(np.inf), guided(3e38), guided(-np.inf, -np.inf), guided(0, np.nan)],
    ids=["nan", "-nan", "inf", "overflow", "-inf less -inf", "null nan"],
)
def test_what_is_not_finite_sets_the_status(device: Device, vocab_size: int, value: dict[str, np.float32]) -> None:
    case = BASE.but(vocab_size=vocab_size, first_position=5, top_k=0)
    logits = sample_case.draw_logits(case)
    logits[1, vocab_size // 2], logits[case.batch + 1, vocab_size // 2] = value["label"], value["null"]
    found = sample_case.run(device, case, logits, steps=2)
    healthy = logits.copy()
    healthy[[1, case.batch + 1]] = 0
    wanted = sample_case.expected(case, healthy, steps=2)
    # Of the second step's failure nothing is told: the first is what went wrong.
    assert found.status.tolist() == [0, 1 + 8, 0]
    assert found.position.tolist() == [7, 10, 13]
    assert found.tokens[1].tolist() == [0 if column in (8, 9) else POISONED for column in range(found.tokens.shape[1])]
    np.testing.assert_array_equal(found.tokens[[0, 2]], wanted.tokens[[0, 2]])
    assert found.token.tolist() == [wanted.token[0], 0, wanted.token[2]]


@pytest.mark.parametrize("vocab_size", [7, 1025, 2052])
def test_a_row_of_minus_infinity_sets_the_status(device: Device, vocab_size: int) -> None:
    case = BASE.but(vocab_size=vocab_size, batch=1)
    logits = np.zeros((2, vocab_size), np.float32)
    logits[0] = -np.inf
    found = sample_case.run(device, case, logits, steps=1)
    assert (found.status.tolist(), found.token.tolist(), found.position.tolist()) == ([1], [0], [1])


def test_a_position_outside_writes_no_column(device: Device) -> None:
    case = BASE.but(vocab_size=100, batch=2, first_position=2)
    logits = sample_case.draw_logits(case)
    found = sample_case.run(device, case, logits, steps=2, num_tokens=3)
    wanted = sample_case.expected(case, logits, steps=2)
    np.testing.assert_array_equal(found.tokens, wanted.tokens[:, :3])
    np.testing.assert_array_equal(found.token, wanted.token)
    assert found.position.tolist() == [4, 7]


@pytest.mark.parametrize(
    "changes",
    [{"top_k": -1}, {"top_p": 0.0}, {"top_p": -3.0}, {"top_p": 1e300}, {"top_p": float("nan")}, {"top_p": -1e300}],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [100, 1100, 1101])
def test_settings_that_no_host_allows_draw_a_code(device: Device, vocab_size: int, changes: dict[str, Any]) -> None:
    """Settings are read on the device, where nothing can refuse them."""
    case = BASE.but(vocab_size=vocab_size, batch=1, top_k=0)
    logits = sample_case.draw_logits(case)
    like = {"top_k": 0} if "top_k" in changes else {"top_p": 1e-9 if changes["top_p"] <= 0 else 1.0}
    found = sample_case.run(device, case.but(**changes), logits, steps=2)
    wanted = sample_case.expected(case.but(**like), logits, steps=2)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


@pytest.mark.parametrize("field", ["guidance_scale", "temperature"])
def test_a_setting_that_is_nan_sets_the_status(device: Device, field: str) -> None:
    case = BASE.but(vocab_size=100, batch=1, **{field: float("nan")})
    found = sample_case.run(device, case, sample_case.draw_logits(case), steps=1)
    assert (found.status.tolist(), found.token.tolist()) == ([1], [0])
