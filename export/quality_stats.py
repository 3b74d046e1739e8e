"""How far apart two sets of features are: Frechet distance, kernel distance, precision and recall; in float64.

The distances take the sets as counts of the rows of one pooled array: a bootstrap resample, a random regrouping
and the sets themselves are then the same call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DEGREE, _OFFSET = 3, 1.0
_BLOCK = 1024


def check_features(name: str, values: ArrayLike) -> Floats:
    """Features (N, F) as finite float64, N >= 2, F >= 1.

    Raises:
        ValueError: another shape, or NaN or infinity in them.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
        raise ValueError(f"{name} has shape {array.shape}; expected (N, F), N >= 2 images and F >= 1 features")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity; expected finite features")
    return array


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Squared Frechet distance of the normal distributions fitted to two sets; with Inception's features, FID.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), of means m and unbiased covariances S (Heusel et al. 2017,
    arXiv 1706.08500). A finite set's value lies above the distributions' own, the more the fewer the images.

    Args:
        first: (N, F) features.
        second: (M, F) features.

    Raises:
        ValueError: the features do not fit, or are not finite.
    """
    return Frechet.pooled(first, second)


def kernel_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Squared maximum mean discrepancy, unbiased, with kernel (x.y / F + 1)^3; with Inception's features, KID.

    Binkowski et al. 2018, arXiv 1801.01401. Its expectation is 0 for sets of one distribution, so single values may
    be negative. All images are used at once, where KID averages over random subsets.

    Args and errors: as `frechet_distance`.
    """
    return Kernel.pooled(first, second)


class Distance(ABC):
    """A distance between two choices of the rows of `features` (N, F), float64."""

    def __init__(self, features: Floats) -> None:
        self.features = features

    @classmethod
    def pooled(cls, first: ArrayLike, second: ArrayLike) -> float:
        """The distance of two sets (N, F) and (M, F)."""
        one, two = check_features("first", first), check_features("second", second)
        if one.shape[1] != two.shape[1]:
            raise ValueError(f"first has {one.shape[1]} features, second {two.shape[1]}; expected as many")
        counts = np.zeros((2, len(one) + len(two)))
        counts[0, : len(one)] = counts[1, len(one) :] = 1
        return cls(np.concatenate([one, two])).between(counts[:1], counts[1])[0]

    @abstractmethod
    def between(self, sets: Floats, base: Floats) -> list[float]:
        """Distances of several sets to one.

        Args:
            sets: (K, N), how often each row is in each set.
            base: (N), how often each row is in the set that the others are compared with.
        """


class Frechet(Distance):
    """`frechet_distance` between choices of rows."""

    def between(self, sets: Floats, base: Floats) -> list[float]:
        """See `Distance.between`."""
        mean, covariance = self._moments(base)
        values, vectors = np.linalg.eigh(covariance)
        # The root of a symmetric matrix; rounding alone makes its eigenvalues negative.
        root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        found = []
        for counts in sets:
            other_mean, other = self._moments(counts)
            # sqrt(S1) S2 sqrt(S1) is symmetric and has the eigenvalues of S1 S2.
            cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other @ root), 0, None)).sum()
            apart = np.square(mean - other_mean).sum()
            found.append(float(apart + np.trace(covariance) + np.trace(other) - 2 * cross))
        return found

    def _moments(self, counts: Floats) -> tuple[Floats, Floats]:
        """Mean (F) and unbiased covariance (F, F) of the chosen rows."""
        chosen = np.flatnonzero(counts)
        weights, rows = counts[chosen], self.features[chosen]
        total = weights.sum()
        mean: Floats = weights @ rows / total
        centred = rows - mean
        covariance: Floats = (centred * weights[:, None]).T @ centred / (total - 1)
        return mean, covariance


class Kernel(Distance):
    """`kernel_distance` between choices of rows; holds the kernel of all pairs, 8 N^2 bytes.

    Pairs of an image with itself are left out wherever a set holds it more than once, as they are in the unbiased
    estimate: a bootstrap's repeats would otherwise count as likeness.
    """

    def __init__(self, features: Floats) -> None:
        super().__init__(features)
        self._kernel = features @ features.T
        self._kernel /= features.shape[1]
        self._kernel += _OFFSET
        for start in range(0, len(features), _BLOCK):  # in place: no second matrix of this size
            part = self._kernel[start : start + _BLOCK]
            np.multiply(part, part**(_DEGREE - 1), out=part)
        self._own = self._kernel.diagonal().copy()

    def between(self, sets: Floats, base: Floats) -> list[float]:
        """See `Distance.between`."""
        toward = self._kernel @ base
        within_base = self._within(base, toward)
        return [
            float(self._within(counts, self._kernel @ counts) + within_base
                  - 2 * (counts @ toward) / (counts.sum() * base.sum()))
            for counts in sets
        ]  # fmt: skip

    def _within(self, counts: Floats, toward: Floats) -> float:
        """Mean kernel of two different images of a set; `toward` (N) is the kernel times the counts."""
        repeats = np.square(counts)
        different = float(counts.sum() ** 2 - repeats.sum())
        # A resample of a few images may be one image alone: its distance is not known.
        return float(counts @ toward - repeats @ self._own) / different if different else float("nan")


@dataclass(frozen=True)
class Coverage:
    """Which images lie within the other set's neighbourhoods (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    A set's neighbourhoods are the balls about its images that reach their k-th nearest other image.

    Attributes:
        within: (N) bool, of the first set's images: precision is their mean.
        covered: (M) bool, of the second set's images within the first's neighbourhoods: recall is their mean.
    """

    within: NDArray[np.bool_]
    covered: NDArray[np.bool_]

    @property
    def precision(self) -> float:
        """Share of the first set that looks like the second."""
        return float(self.within.mean())

    @property
    def recall(self) -> float:
        """Share of the second set that the first could have drawn."""
        return float(self.covered.mean())


def coverage(first: ArrayLike, second: ArrayLike, neighbours: int = 3) -> Coverage:
    """Precision and recall of a first (drawn) set against a second (real) one.

    Args:
        first: (N, F) features.
        second: (M, F) features.
        neighbours: k, >= 1 and less than N and M.

    Raises:
        ValueError: the features do not fit, or there are too few images for k.
    """
    one, two = check_features("first", first), check_features("second", second)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"first has {one.shape[1]} features, second {two.shape[1]}; expected as many")
    if not 1 <= neighbours < min(len(one), len(two)):
        raise ValueError(f"neighbours is {neighbours}; allowed: 1..{min(len(one), len(two)) - 1}, fewer than images")
    return Coverage(_within_reach(one, two, neighbours), _within_reach(two, one, neighbours))


def _within_reach(points: Floats, centres: Floats, neighbours: int) -> NDArray[np.bool_]:
    """Whether each point (N, F) is in a ball about a centre (M, F)."""
    # The nearest of all is the image itself.
    reach = np.concatenate([
        np.partition(_squares(centres[i : i + _BLOCK], centres, i), neighbours, axis=1)[:, neighbours]
        for i in range(0, len(centres), _BLOCK)
    ])  # fmt: skip
    return np.concatenate([
        (_squares(points[i : i + _BLOCK], centres) <= reach).any(axis=1) for i in range(0, len(points), _BLOCK)
    ])  # fmt: skip


def _squares(points: Floats, centres: Floats, own: int | None = None) -> Floats:
    """Squared distances (N, M); `own`: point i is centre own + i, at distance 0 whatever the rounding."""
    squares: Floats = (
        np.square(points).sum(1)[:, None] + np.square(centres).sum(1)[None] - 2 * points @ centres.T
    ).clip(0)
    if own is not None:
        rows = np.arange(len(points))
        squares[rows, own + rows] = 0
    return squares
