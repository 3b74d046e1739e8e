"""Philox4x32-10 against Random123's known-answer vectors, and the uniform number's definition."""

from __future__ import annotations

import numpy as np
import pytest

from aim_edge.runtime.philox import philox4x32, uniform

# Random123 1.14, tests/kat_vectors, "philox4x32 10": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_known_answers_one_by_one_and_together() -> None:
    for counter, key, expected in KNOWN:
        column = np.array(words(counter), np.uint32)[:, None]
        low, high = words(key)
        np.testing.assert_array_equal(philox4x32(np.repeat(column, 5, axis=1), (low, high)).T, [words(expected)] * 5)


def test_uniform_is_its_definition() -> None:
    seed, index, step = 0x0123456789ABCDEF, 2**40 + 7, 255
    counter = np.array([step, 7, 2**8, 0], np.uint32)[:, None]
    w0, w1 = (int(w) for w in philox4x32(counter, (0x89ABCDEF, 0x01234567))[:2, 0])
    expected = ((w0 >> 5) * 2**26 + (w1 >> 6)) / 2**53
    assert uniform(seed, np.array([index], np.uint64), step)[0] == expected


def test_uniform_depends_on_the_image_not_on_its_batch() -> None:
    together = uniform(3, np.arange(100, dtype=np.uint64), 17)
    alone = [uniform(3, np.array([i], np.uint64), 17)[0] for i in range(100)]
    np.testing.assert_array_equal(together, alone)
    assert len(set(together)) == 100


def test_uniform_lies_in_the_unit_interval_evenly() -> None:
    values = uniform(2**64 - 1, np.arange(100_000, dtype=np.uint64), 0)
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 148  # chi-square of 99 degrees, p = 0.001


@pytest.mark.parametrize(("seed", "step", "stream"), [(-1, 0, 0), (2**64, 0, 0), (0, -1, 0), (0, 2**32, 0), (0, 0, -1)])
def test_out_of_range_is_refused(seed: int, step: int, stream: int) -> None:
    with pytest.raises(ValueError, match="allowed: 0"):
        uniform(seed, np.zeros(1, np.uint64), step, stream)
