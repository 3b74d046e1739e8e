"""Whether two sets of images come from one distribution: a faster precision costs no quality only if they do.

What "same", "worse", "better", "different" and "can't tell" mean is said once, at `Verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aim_edge.runtime.checks import check_integer
from aim_edge.runtime.images import Image8

from .quality_stats import Distance, Floats, Frechet, Kernel, check_features, coverage

Verdict = Literal["same", "worse", "better", "different", "can't tell"]
"""How B compares with A.

With a reference R, of each statistic d: D = d(B, R) - d(A, R), how much farther from R B is than A. Its 95% interval is
by bootstrap: images of A, of B and of R are drawn with replacement, of pairs both or neither, and R's are the same for
both distances. The margin is tolerance * d(A, R), or one standard deviation of the resampled d(A, R) where that is
more: as much as another draw of the images changes d(A, R) itself. (Where A is as good as the reference, d(A, R) is
about 0, and no share of it would be wide enough.)

- "same": the interval lies within [-margin, margin];
- else "worse": it lies above 0; "better": it lies below 0;
- else "can't tell".

Without one: the images of A and B are put together and parted at random into two halves, again and again. Each half is
then another draw of the same distribution, and the distance of the two halves is what chance gives at this n.

- "same": d(A, B) is not above 95% of those: B is as near to A as another draw of A's own would be;
- else "different". Which is better is not said: that needs a reference.

"same" says then that no difference can be seen with so many images; one that is seen only with more may be there.
`Row.chance` is how large a distance would have gone unseen. For pairs the rule is the same: that they are nearer to
each other than chance gives is no reason to call them different.

Where several statistics decide, each has an interval of 1 - 0.05 / (how many there are) (Bonferroni): "worse" or
"different" if one says so and none "better"; "better" if one says so and none "worse"; "same" if all do; else
"can't tell". Below `FEW` images a side it is "can't tell" whatever the figures are.
"""

FEW = 100
BIASED = 500
NEIGHBOURS = 3
MAX_IMAGES = 3000  # a side: the kernel of all pairs of three such sets takes 650 MB
_LEVEL = 0.05
_STATISTICS: dict[str, type[Distance]] = {"frechet": Frechet, "kernel": Kernel}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """How sets are compared. Every field is checked: TypeError, ValueError.

    Attributes:
        resamples: bootstrap resamples, and random halves; 40 at least.
        seed: of both; the same seed gives the same report.
        tolerance: share of d(A, R) that B may differ by and still be "same"; see `Verdict`.
        statistics: those that decide, of "frechet" and "kernel".
    """

    resamples: int = 200
    seed: int = 0
    tolerance: float = 0.05
    statistics: tuple[str, ...] = ("frechet", "kernel")

    def __post_init__(self) -> None:
        check_integer("resamples", self.resamples, 40, 100_000)
        check_integer("seed", self.seed, 0, 2**64 - 1)
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance is {self.tolerance}; allowed: 0 up to, not including, 1")
        if not self.statistics or set(self.statistics) - set(_STATISTICS):
            raise ValueError(f"statistics is {self.statistics!r}; allowed: one or more of {list(_STATISTICS)}")


@dataclass(frozen=True)
class Figure:
    """A number and the ends of its interval; the interval is None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One statistic.

    Attributes:
        name: such as "vq-frechet".
        figures: name -> figure; with a reference "A-R", "B-R" and "difference", else "A-B".
        chance: without a reference, the largest distance that is still "same"; else None.
        margin: with one, the largest difference either way that is "same"; else None.
        verdict: of this statistic, or None where it does not decide.
    """

    name: str
    figures: dict[str, Figure]
    chance: float | None = None
    margin: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Paired:
    """How far apart the two images of a pair are.

    Attributes:
        pairs: how many.
        identical: pairs without any pixel that differs.
        pixel_rms: root mean square of the difference of a pair's pixels, 0..255: median, 95th percentile, largest.
        feature_ratio: mean distance of a pair's features, by that of images that are no pair (0: the same, 1: as far).
    """

    pairs: int
    identical: int
    pixel_rms: tuple[float, float, float]
    feature_ratio: float


@dataclass(frozen=True)
class QualityReport:
    """What a comparison found.

    Attributes:
        verdict: B against A; see `Verdict`.
        reason: why, in a sentence.
        n: images a side.
        reference_n: images of the reference, or None.
        rows: a row for each statistic.
        paired: of pairs, or None.
        warnings: what to bear in mind, each a sentence.
        settings: of the comparison.
    """

    verdict: Verdict
    reason: str
    n: int
    reference_n: int | None
    rows: tuple[Row, ...]
    paired: Paired | None
    warnings: tuple[str, ...]
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return asdict(self)


def compare_sets(
    first: Floats, second: Floats, reference: Floats | None = None, *, label: str = "vq", paired: Paired | None = None,
    settings: Settings | None = None, progress: Progress | None = None,
) -> QualityReport:  # fmt: skip
    """Compares set B with set A.

    Args:
        first: (N, F) features of A.
        second: (N, F) features of B; of pairs, in A's order.
        reference: (M, F) features of images that A and B should look like, or None.
        label: what the statistics' names start with: the features' name.
        paired: of pairs (`measure_pairs`); images i of A and B are then resampled together. None: no pairs.
        settings: None takes the defaults.
        progress: called with (what, done, total).

    Raises:
        ValueError: features that do not fit, sets of different sizes or too few images for any figure.
    """
    settings = settings or Settings()
    a, b = check_features("first", first), check_features("second", second)
    if a.shape != b.shape:
        raise ValueError(f"first has shape {a.shape}, second {b.shape}; expected as many images of as many features")
    sets = [a, b]
    if reference is not None:
        r = check_features("reference", reference)
        if r.shape[1] != a.shape[1]:
            raise ValueError(f"reference has {r.shape[1]} features; expected {a.shape[1]}, as first has")
        sets.append(r)
    least = min(map(len, sets))
    if least <= NEIGHBOURS:
        raise ValueError(f"a set has {least} images; expected more than {NEIGHBOURS}, which precision and recall need")
    pooled = np.concatenate(sets)
    level = _LEVEL / len(settings.statistics)
    rows = []
    for name in _STATISTICS:
        distance = _STATISTICS[name](pooled) if name in settings.statistics else None
        if distance is not None:
            judge = _against_each_other if reference is None else _against_reference
            what = f"{label}-{name}"
            rows.append(judge(what, distance, len(a), paired is not None, settings, level, progress))
    rows += _coverage_rows(label, a, b, None if reference is None else sets[2], settings)
    verdict, reason = _overall(rows, least, reference is not None)
    return QualityReport(verdict, reason, len(a), None if reference is None else len(sets[2]), tuple(rows), paired,
                         tuple(_warnings(settings, least, label)), settings)  # fmt: skip


def measure_pairs(first: Image8, second: Image8, a: Floats, b: Floats) -> Paired:
    """How far apart pairs are.

    Args:
        first: (N, H, W, 3) uint8, of A.
        second: the same of B, in the same order.
        a: (N, F) features of A.
        b: (N, F) features of B.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape or a.shape != b.shape or len(a) != len(first):
        raise ValueError(f"images {first.shape} and {second.shape}, features {a.shape} and {b.shape}; expected pairs")
    # One by one: all in float would take eight times the images' memory.
    rms = np.array([
        np.sqrt(np.square(one.astype(np.float64) - two).mean()) for one, two in zip(first, second, strict=True)
    ])  # fmt: skip
    near = np.linalg.norm(a - b, axis=1).mean()
    far = np.linalg.norm(a - np.roll(b, 1, axis=0), axis=1).mean()
    median, most, largest = (float(value) for value in np.quantile(rms, (0.5, 0.95, 1)))
    return Paired(len(a), int((rms == 0).sum()), (median, most, largest), float(near / far) if far else 0.0)


def _against_reference(
    name: str, distance: Distance, n: int, pairs: bool, settings: Settings, level: float, progress: Progress | None
) -> Row:
    """The row of a statistic: rows 0..n-1 of the features are A, n..2n-1 B, the others the reference."""
    rng, total = np.random.default_rng(settings.seed), len(distance.features)
    whole = _counts(total, np.arange(n), np.arange(n, 2 * n), np.arange(2 * n, total))
    of_a, of_b = distance.between(whole[:2], whole[2])
    drawn = np.empty((settings.resamples, 3))
    for i in range(settings.resamples):
        one = rng.integers(0, n, n)
        other = one if pairs else rng.integers(0, n, n)
        counts = _counts(total, one, n + other, rng.integers(2 * n, total, total - 2 * n))
        near, far = distance.between(counts[:2], counts[2])
        drawn[i] = near, far, far - near
        if progress is not None:
            progress(f"resampling {name}", i + 1, settings.resamples)
    figures = {
        key: _interval(value, drawn[:, i], level)
        for i, (key, value) in enumerate((("A-R", of_a), ("B-R", of_b), ("difference", of_b - of_a)))
    }
    margin = max(settings.tolerance * of_a, float(np.nanstd(drawn[:, 0], ddof=1)))
    found = figures["difference"]
    low, high = found.low or 0.0, found.high or 0.0
    verdict: Verdict = "can't tell"
    if -margin <= low and high <= margin:
        verdict = "same"
    elif low > 0 or high < 0:
        verdict = "worse" if low > 0 else "better"
    return Row(name, figures, margin=margin, verdict=verdict)


def _against_each_other(
    name: str, distance: Distance, n: int, pairs: bool, settings: Settings, level: float, progress: Progress | None
) -> Row:
    """As `_against_reference`, where there is none."""
    rng, total = np.random.default_rng(settings.seed), 2 * n
    whole = _counts(total, np.arange(n), np.arange(n, total))
    (value,) = distance.between(whole[:1], whole[1])
    drawn, halves = np.empty(settings.resamples), np.empty(settings.resamples)
    for i in range(settings.resamples):
        one = rng.integers(0, n, n)
        counts = _counts(total, one, n + (one if pairs else rng.integers(0, n, n)))
        (drawn[i],) = distance.between(counts[:1], counts[1])
        order = rng.permutation(total)
        parted = _counts(total, order[:n], order[n:])
        (halves[i],) = distance.between(parted[:1], parted[1])
        if progress is not None:
            progress(f"resampling {name}", i + 1, settings.resamples)
    chance = float(np.nanquantile(halves, 1 - level, method="higher"))
    return Row(name, {"A-B": _interval(value, drawn, level)}, chance=chance,
               verdict="same" if value <= chance else "different")  # fmt: skip


def _counts(total: int, *choices: NDArray[np.int64]) -> Floats:
    """How often each of `total` rows is in each choice: (choices, total)."""
    return np.stack([np.bincount(choice, minlength=total) for choice in choices]).astype(np.float64)


def _interval(value: float, drawn: Floats, level: float) -> Figure:
    """The basic bootstrap interval: a resample's value lies above the sample's by what the sample's lies above truth.

    Percentiles would count that bias, which the Frechet distance has, twice (Davison and Hinkley 1997, ch. 5.2).
    """
    low, high = np.nanquantile(drawn, (level / 2, 1 - level / 2))
    return Figure(value, float(2 * value - high), float(2 * value - low))


def _coverage_rows(label: str, a: Floats, b: Floats, reference: Floats | None, settings: Settings) -> list[Row]:
    """Precision and recall, which do not decide; their intervals are of the images, the neighbourhoods as they are."""
    rng = np.random.default_rng(settings.seed)
    against = [("B-A", b, a)] if reference is None else [("A-R", a, reference), ("B-R", b, reference)]
    figures: dict[str, dict[str, Figure]] = {"precision": {}, "recall": {}}
    for key, one, other in against:
        found = coverage(one, other, NEIGHBOURS)
        for name, hits in (("precision", found.within), ("recall", found.covered)):
            shares = rng.binomial(len(hits), hits.mean(), settings.resamples) / len(hits)  # resampled yes and no
            low, high = np.quantile(shares, (_LEVEL / 2, 1 - _LEVEL / 2))
            figures[name][key] = Figure(float(hits.mean()), float(low), float(high))
    return [Row(f"{label}-{name}", found) for name, found in figures.items()]


def _overall(rows: Sequence[Row], least: int, referenced: bool) -> tuple[Verdict, str]:
    said = {row.name: row.verdict for row in rows if row.verdict is not None}
    if least < FEW:
        return "can't tell", f"a set has {least} images; below {FEW} nothing is said"
    verdicts = set(said.values())
    verdict: Verdict = "can't tell"
    if verdicts == {"same"}:
        verdict = "same"
    elif "different" in verdicts:
        verdict = "different"
    elif len(verdicts & {"worse", "better"}) == 1:
        verdict = "worse" if "worse" in verdicts else "better"
    each = ", ".join(f"{name} {word}" for name, word in said.items())
    why = {
        "same": "B is no farther from the reference than A, within the margin" if referenced
        else "B is as near to A as another draw of A would be",
        "worse": "B is farther from the reference than A",
        "better": "B is nearer to the reference than A",
        "different": "B is farther from A than chance gives; whether it is worse only a reference tells",
        "can't tell": "the statistics disagree" if len(verdicts & {"worse", "better"}) == 2
        else "the interval of the difference holds 0 but reaches beyond the margin; more images narrow it",
    }  # fmt: skip
    return verdict, f"{why[verdict]} ({each})"


def _warnings(settings: Settings, least: int, label: str) -> list[str]:
    said = []
    if least < BIASED:
        said.append(f"a set has {least} images: below {BIASED} a Frechet distance is biased upwards by much; "
                    "compare it with none of another number of images")  # fmt: skip
    if label == "vq":
        said.append("vq-* are measured with the demo's tokenizer: they are no FID or KID and compare with none")
    if "frechet" not in settings.statistics:
        said.append("the Frechet distance has no interval here and does not decide; the kernel distance does")
    return said
