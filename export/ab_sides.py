"""All that the report of two sides is made from, in one piece, and that as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .ab import Report, Row, compare_speed, family_of, pair_lengths
from .ab_costs import CostRow, Prices, cost_sheet

if TYPE_CHECKING:
    from .quality import QualityReport

FORMAT, VERSION = "aim-edge-ab", 1


@dataclass(frozen=True)
class Ab:
    """Two sides, measured.

    Attributes:
        a, b: their reports, as `aim-edge bench --json` wrote them, one a number of codes.
        files: names of the files that those lie in, to be told: A's and B's; () where there are none.
        rows: of `compare_speed`.
        alone: (side, codes) of bundles that the other side has no counterpart to.
        codes: of the pair whose costs, and quality, are told.
        costs: of that pair.
        prices: that they were made with.
        quality: of that pair's images; None where it was not asked for.
    """

    a: tuple[Report, ...]
    b: tuple[Report, ...]
    files: tuple[tuple[str, ...], tuple[str, ...]]
    rows: tuple[Row, ...]
    alone: tuple[tuple[str, int], ...]
    codes: int
    costs: tuple[CostRow, ...]
    prices: Prices
    quality: QualityReport | None = None

    @property
    def lengths(self) -> list[int]:
        """The numbers of codes that are compared, ascending."""
        return sorted({row.codes for row in self.rows})

    @property
    def sides(self) -> tuple[tuple[str, tuple[Report, ...]], ...]:
        """("A", its reports) and ("B", its reports)."""
        return ("A", self.a), ("B", self.b)

    def at(self, codes: int) -> list[Row]:
        """The rows of one number of codes."""
        return [row for row in self.rows if row.codes == codes]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what the report says in figures; the reports themselves are files of their own."""
        verdicts = [
            asdict(row) | {"speedup": row.speedup, "faster": row.faster, "apart": row.apart} for row in self.rows
        ]
        return {
            "format": FORMAT, "schema_version": VERSION,
            "sides": {
                side: [
                    {"name": one["bundle"]["name"], "family": family_of(one["bundle"]),
                     "codes": one["bundle"]["dims"]["num_tokens"], "file": file}
                    for one, file in zip(reports, names or [None] * len(reports), strict=True)
                ]
                for (side, reports), names in zip(self.sides, self.files, strict=True)
            },
            "rows": verdicts, "alone": [list(one) for one in self.alone], "codes": self.codes,
            "costs": [asdict(row) for row in self.costs], "prices": asdict(self.prices),
            "quality": None if self.quality is None else self.quality.to_dict(),
        }  # fmt: skip


def compare_sides(
    a: Sequence[Report], b: Sequence[Report], prices: Prices, *, codes: int | None = None,
    files: tuple[Sequence[str], Sequence[str]] = ((), ()), alone: Sequence[tuple[str, int]] | None = None,
    quality: QualityReport | None = None,
) -> Ab:  # fmt: skip
    """Compares two sides.

    Args:
        a: reports of the bundles in use, one a number of codes.
        b: of those that may take their place.
        prices: of both.
        codes: of the pair whose costs are told; None takes the first of A's that is compared.
        files: names of the reports' files, of A and of B.
        alone: bundles without a counterpart; None finds them among the reports.
        quality: of the pair's images.

    Raises:
        ValueError: as `compare_speed` and `cost_sheet`; `codes` was not compared.
    """
    rows = compare_speed(a, b)
    lengths = [one["bundle"]["dims"]["num_tokens"] for one in a]
    compared = [n for n in lengths if any(row.codes == n for row in rows)]
    chosen = compared[0] if codes is None else codes
    if chosen not in compared:
        raise ValueError(f"codes is {codes}; compared are {', '.join(map(str, sorted(compared)))}")
    costs = cost_sheet([row for row in rows if row.codes == chosen], prices)
    if alone is None:
        alone = pair_lengths([one["bundle"] for one in a], [one["bundle"] for one in b]).alone
    return Ab(
        tuple(a), tuple(b), (tuple(files[0]), tuple(files[1])), tuple(rows), tuple(alone), chosen, tuple(costs), prices,
        quality,
    )  # fmt: skip
