"""The distances between two sets of features: torch-fidelity's own numbers, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aim_edge.export.quality_stats import Frechet, Kernel, coverage, frechet_distance, kernel_distance

# What torch-fidelity 0.4.0 gives for `two_sets`: FID, KID (one subset: all), precision and recall.
FIDELITY = (0.04823749500977237, 0.06581052107127405, 0.8966666460037231, 0.8700000047683716)

Floats = NDArray[np.float64]


def two_sets() -> tuple[Floats, Floats]:
    """Correlated features (300, 24) of two distributions that overlap; PCG64's stream is fixed by NumPy's promise."""
    rng = np.random.Generator(np.random.PCG64(7))
    mix = rng.random((24, 24))
    return rng.random((300, 24)) @ mix * 0.2, (rng.random((300, 24)) ** 1.1) @ mix * 0.2


def test_the_numbers_are_those_of_torch_fidelity_recorded() -> None:
    a, b = two_sets()
    found = coverage(a, b)
    numbers = (frechet_distance(a, b), kernel_distance(a, b), found.precision, found.recall)
    assert numbers == pytest.approx(FIDELITY, rel=1e-6)


def test_frechet_distance_of_moved_and_stretched_sets_is_known() -> None:
    a = np.random.default_rng(0).normal(size=(200, 6))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(6 * 4, rel=1e-9)
    # Covariance S and 9 S: tr(S + 9 S - 2 * 3 S) = 4 tr S, and the means part by 2 m.
    expected = 4 * np.trace(np.cov(a, rowvar=False)) + 4 * np.square(a.mean(0)).sum()
    assert frechet_distance(a, 3 * a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", [Frechet, Kernel])
def test_counts_are_repeated_rows(kind: type[Frechet] | type[Kernel]) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 4))
    counts = np.zeros((2, 30))
    counts[0, :10], counts[1, 10:] = rng.integers(1, 4, 10), 1
    (found,) = kind(rows).between(counts[:1], counts[1])
    repeated = np.repeat(np.arange(10), counts[0, :10].astype(int))
    one, two = rows[repeated], rows[10:]
    if kind is Frechet:
        assert found == pytest.approx(frechet_distance(one, two), rel=1e-9)
        return
    kernel = [(x @ y.T / 4 + 1) ** 3 for x, y in ((one, one), (two, two), (one, two))]
    others = repeated[:, None] != repeated[None]  # a repeat of an image is no other image
    within = kernel[0][others].mean() + kernel[1][~np.eye(20, dtype=bool)].mean()
    assert found == pytest.approx(within - 2 * kernel[2].mean(), rel=1e-9)


def test_coverage_tells_lost_variety_from_strange_images() -> None:
    rng = np.random.default_rng(2)
    real = np.concatenate([rng.normal(0, 0.1, (60, 2)), rng.normal(9, 0.1, (60, 2))])
    half = rng.normal(0, 0.1, (60, 2))  # one of the two kinds only
    strange = np.concatenate([real + 1e-4, rng.normal(-9, 0.1, (120, 2))])
    found = coverage(half, real)
    assert found.precision > 0.9 and found.recall < 0.6
    found = coverage(strange, real)
    assert found.precision == pytest.approx(1 / 2, abs=0.02) and found.recall > 0.95
    assert coverage(real, real).precision == coverage(real, real).recall == 1


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"first has shape \(1, 3\); expected \(N, F\)"),
        (np.zeros((5, 3)), np.zeros(5), r"second has shape \(5,\)"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "second holds NaN"),
        (np.zeros((5, 3)), np.zeros((5, 2)), "first has 3 features, second 2"),
    ],
)
def test_bad_features_are_refused(first: Floats, second: Floats, said: str) -> None:
    for measure in (frechet_distance, kernel_distance, coverage):
        with pytest.raises(ValueError, match=said):
            measure(first, second)


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"neighbours is 5; allowed: 1\.\.4"):
        coverage(np.zeros((5, 3)), np.zeros((9, 3)), 5)
