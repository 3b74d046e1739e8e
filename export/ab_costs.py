"""What images cost on two measured bundles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .ab import Row, Side

HOURS_A_YEAR = 8760
_JOULES_A_KWH = 3.6e6


@dataclass(frozen=True)
class Prices:
    """What the user pays, in one currency.

    Attributes:
        gpu_hour: of one GPU for an hour, more than 0.
        load: images a second that must be served; None leaves out how many GPUs that takes.
        utilisation: share of the measured throughput that is reached in service, more than 0 and up to 1.
        watts: what one GPU draws, None or 0 and more; with kwh, and for where energy was not measured.
        kwh: price of a kilowatt-hour, where power is paid beside gpu_hour.
        switch_cost: paid once to go from A to B; None leaves out when it is earned back. Needs load.
        currency: as it is to be shown.

    Raises:
        ValueError: names every field that is out of range, and what is allowed.
    """

    gpu_hour: float
    load: float | None = None
    utilisation: float = 1.0
    watts: float | None = None
    kwh: float | None = None
    switch_cost: float | None = None
    currency: str = "USD"

    def __post_init__(self) -> None:
        bad = [
            f"{field.name} is {value}; expected a finite number of 0 and more"
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), (int, float))
            and not (math.isfinite(value) and value >= 0)
        ]
        bad += [f"{name} is 0; expected more" for name in ("gpu_hour", "load") if getattr(self, name) == 0]
        if not 0 < self.utilisation <= 1:
            bad.append(f"utilisation is {self.utilisation}; expected more than 0 and up to 1")
        if self.watts is not None and self.kwh is None:
            bad.append(f"watts is {self.watts} and kwh is None; power costs need both")
        if self.switch_cost is not None and self.load is None:
            bad.append(f"switch_cost is {self.switch_cost} and load is None; what is saved a year depends on the load")
        if bad:
            raise ValueError("; ".join(bad))


@dataclass(frozen=True)
class Cost:
    """Of one bundle at one batch.

    Attributes:
        thousand: of a thousand images.
        gpus: that the load takes; None without a load.
        yearly: their cost in a year.
    """

    thousand: float
    gpus: int | None
    yearly: float | None


@dataclass(frozen=True)
class CostRow:
    """Both bundles' at one batch."""

    batch: int
    a: Cost
    b: Cost

    def months_to_earn(self, switch_cost: float) -> float | None:
        """Months until what B saves has paid for the change; None where it never does."""
        if self.a.yearly is None or self.b.yearly is None or self.b.yearly >= self.a.yearly:
            return None
        return 12 * switch_cost / (self.a.yearly - self.b.yearly)


def cost_sheet(rows: Sequence[Row], prices: Prices) -> list[CostRow]:
    """The costs of rows of one number of codes.

    Raises:
        ValueError: a price of power and nothing to multiply it with.
    """
    unknown = [row.batch for row in rows if row.a.joules is None or row.b.joules is None]
    if prices.kwh is not None and prices.watts is None and unknown:
        raise ValueError(
            f"kwh is {prices.kwh} and watts is None; power costs need both, or energy measured in A and in B, which it "
            f"was not at batch {', '.join(map(str, unknown))}"
        )
    return [
        CostRow(row.batch, _cost(row.a, prices, not unknown), _cost(row.b, prices, not unknown)) for row in rows
    ]


def is_measured(rows: Sequence[Row]) -> bool:
    """Whether energy was measured on both sides of every row, so that costs are made with it."""
    return all(side.joules is not None for row in rows for side in (row.a, row.b))


def best(costs: Sequence[CostRow], side: str) -> CostRow:
    """The row with the cheapest images of a side, "a" or "b"."""
    return min(costs, key=lambda row: float(getattr(row, side).thousand))


def _cost(side: Side, prices: Prices, by_joules: bool) -> Cost:
    kwh, served = prices.kwh or 0.0, side.images_per_second * prices.utilisation
    gpus = None if prices.load is None else math.ceil(prices.load / served)
    # Power is paid by the image where its joules are known, and otherwise by the hour, busy or not.
    hour = prices.gpu_hour + (0.0 if by_joules else (prices.watts or 0.0) / 1000 * kwh)
    image = (side.joules or 0.0) / _JOULES_A_KWH * kwh if by_joules else 0.0
    yearly = None
    if gpus is not None and prices.load is not None:
        yearly = HOURS_A_YEAR * (gpus * hour + 3600 * prices.load * image)
    return Cost(1000 * (hour / (3600 * served) + image), gpus, yearly)
