"""Measured bundles side by side, by number of codes and batch: how fast each is, and which is the faster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
# What a request waits for comes first: a report without pixels is compared by its tokens.
_PARTS = ("generate", "tokens")
_COVERAGE = 0.95
_PIXELS = ("image_channels", "image_height", "image_width")


@dataclass(frozen=True)
class Interval:
    """An interval of a median; `coverage` is the probability with which it holds it."""

    low: float
    high: float
    coverage: float


def median_interval(samples: Sequence[float]) -> Interval | None:
    """The interval between two order statistics that holds the median of what the samples are drawn from.

    It assumes nothing of how they are distributed: the narrowest one of 95% or more, or where they are too few for that
    (below 6) from the smallest to the largest. None for a single one.
    """
    ordered, n = sorted(samples), len(samples)
    if n < 2:
        return None

    def coverage(left_out: int) -> float:
        return 1 - sum(math.comb(n, i) for i in range(left_out + 1)) / 2.0 ** (n - 1)

    left_out = max([i for i in range((n - 1) // 2 + 1) if coverage(i) >= _COVERAGE], default=0)
    return Interval(ordered[left_out], ordered[n - 1 - left_out], coverage(left_out))


@dataclass(frozen=True)
class Side:
    """One bundle at one batch.

    Attributes:
        seconds: median of a batch.
        interval: of that median; None where there was one run.
        images_per_second: of one GPU, as measured.
        device_bytes: in use on the device; 0 where it was not measured.
        joules: that an image took of the GPU's energy; None where it was not measured.
    """

    seconds: float
    interval: Interval | None
    images_per_second: float
    device_bytes: int
    joules: float | None


@dataclass(frozen=True)
class Row:
    """Both bundles of `codes` codes an image at one batch; `part` says what was timed ("generate" or "tokens")."""

    codes: int
    batch: int
    part: str
    a: Side
    b: Side

    @property
    def speedup(self) -> float:
        """B's throughput over A's."""
        return self.b.images_per_second / self.a.images_per_second

    @property
    def apart(self) -> bool | None:
        """Whether the intervals do not overlap; None where a side has none."""
        if self.a.interval is None or self.b.interval is None:
            return None
        return self.a.interval.high < self.b.interval.low or self.b.interval.high < self.a.interval.low

    @property
    def faster(self) -> str | None:
        """ "a" or "b"; None where the intervals overlap, so that it cannot be told."""
        if self.apart is False or self.speedup == 1:
            return None
        return "b" if self.speedup > 1 else "a"


@dataclass(frozen=True)
class Lengths:
    """Two sides' bundles by number of codes.

    Attributes:
        pairs: (codes, A's index, B's index), by codes.
        alone: (side, codes) of those that have no counterpart, by codes; a side is "A" or "B".
    """

    pairs: tuple[tuple[int, int, int], ...]
    alone: tuple[tuple[str, int], ...]


def family_of(bundle: Mapping[str, Any]) -> str:
    """The family of a report's bundle, "aim" or "gpt"; reports from before there were two do not say it."""
    return str(bundle.get("family") or "aim")


def pair_lengths(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> Lengths:
    """Pairs bundles by their number of codes.

    Args:
        a: what the reports of A call "bundle": with "name", "dims" and, from a newer version, "family".
        b: of B.

    Raises:
        ValueError: a side has two of a length or of two families; a pair differs in its images' size or in its
            vocabulary, so that it would not be one task; no length is in both.
    """
    places: list[dict[int, int]] = []
    for side, bundles in (("A", a), ("B", b)):
        at: dict[int, int] = {}
        for i, bundle in enumerate(bundles):
            codes = bundle["dims"]["num_tokens"]
            if codes in at:
                raise ValueError(
                    f"{side} has {codes} codes twice: {bundles[at[codes]]['name']} and {bundle['name']}; expected one "
                    "bundle a number of codes"
                )
            at[codes] = i
        families = sorted({family_of(bundle) for bundle in bundles})
        if len(families) > 1:
            raise ValueError(f"{side} has bundles of the families {' and '.join(families)}; expected one family a side")
        places.append(at)
    ours, theirs = places
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError(f"codes: {sorted(ours)} in A and {sorted(theirs)} in B; no number of codes is in both")
    for codes in shared:
        one, other = a[ours[codes]]["dims"], b[theirs[codes]]["dims"]
        found = [[dims[key] for key in _PIXELS] for dims in (one, other)]
        if found[0] != found[1]:
            raise ValueError(
                f"images of {codes} codes: {found[0]} in A and {found[1]} in B; only bundles with images of one size "
                "compare"
            )
        if one["vocab_size"] != other["vocab_size"]:
            raise ValueError(
                f"vocabulary at {codes} codes: {one['vocab_size']} in A and {other['vocab_size']} in B; only bundles "
                "that draw codes of one tokenizer compare"
            )
    alone = [("A", n) for n in ours if n not in theirs] + [("B", n) for n in theirs if n not in ours]
    return Lengths(
        tuple((n, ours[n], theirs[n]) for n in shared), tuple(sorted(alone, key=lambda one: (one[1], one[0])))
    )


def compare_speed(a: Sequence[Report], b: Sequence[Report]) -> list[Row]:
    """The numbers of codes and batches that both sides were measured at, by codes and batch.

    All rows are of one part, so that they compare: what gives rows at the most lengths, class ids to pixels first.

    Args:
        a: what `aim-edge bench --json` wrote for the bundles in use, one a number of codes.
        b: for those that may take their place.

    Raises:
        ValueError: as `pair_lengths`; other GPUs, or nothing that was measured in both.
    """
    lengths = pair_lengths([one["bundle"] for one in a], [one["bundle"] for one in b])
    gpus = [(side, one["machine"]["gpu"]) for side, reports in (("A", a), ("B", b)) for one in reports]
    if len({gpu for _, gpu in gpus}) > 1:
        said = " and ".join(f"{gpu!r} in {side}" for side, gpu in dict.fromkeys(gpus))
        raise ValueError(f"GPU: {said}; only reports of the same compare")
    of_part = {part: [row for n, i, j in lengths.pairs for row in _rows(n, a[i], b[j], part)] for part in _PARTS}
    rows = max(of_part.values(), key=lambda rows: len({row.codes for row in rows}))
    if not rows:
        batches = [
            "; ".join(f"{[one['batch'] for one in side[i]['batches']]} at {n} codes" for n, i in places)
            for side, places in ((a, [(n, i) for n, i, _ in lengths.pairs]), (b, [(n, j) for n, _, j in lengths.pairs]))
        ]
        raise ValueError(f"no batch was measured in both: A has {batches[0]}, B has {batches[1]}")
    return rows


def _rows(codes: int, a: Report, b: Report, part: str) -> list[Row]:
    before = {one["batch"]: one for one in a["batches"]}
    pairs = [(before[one["batch"]], one) for one in b["batches"] if one["batch"] in before]
    rows = [
        Row(codes, x["batch"], part, _side(x, part), _side(y, part))
        for x, y in pairs
        if x[part] is not None and y[part] is not None
    ]
    return sorted(rows, key=lambda row: row.batch)


def _side(measured: Mapping[str, Any], part: str) -> Side:
    timed = measured[part]
    return Side(
        seconds=float(timed["median"]),
        interval=median_interval(timed["samples"]),
        images_per_second=float(timed["images_per_second"]),
        device_bytes=int(sum((measured.get("memory") or {}).get("by_use", {}).values())),
        joules=float(timed["energy"]["joules_per_image"]) if "energy" in timed else None,
    )
