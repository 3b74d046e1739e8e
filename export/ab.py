"""Two measured bundles side by side: speed, memory, and what images cost on each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

HOURS_A_YEAR = 8760
_JOULES_A_KWH = 3.6e6
# What a request waits for comes first: a report without pixels is compared by its tokens.
_PARTS = ("generate", "tokens")


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
class Side:
    """One bundle at one batch.

    Attributes:
        seconds: median of a batch.
        images_per_second: of one GPU, as measured.
        device_bytes: in use on the device; 0 where it was not measured.
        joules: that an image took of the GPU's energy; None where it was not measured.
        thousand: cost of a thousand images.
        gpus: that the load takes; None without a load.
        yearly: their cost in a year.
    """

    seconds: float
    images_per_second: float
    device_bytes: int
    joules: float | None
    thousand: float
    gpus: int | None
    yearly: float | None


@dataclass(frozen=True)
class Row:
    """Both bundles at one batch; `part` says what was timed ("generate" or "tokens")."""

    batch: int
    part: str
    a: Side
    b: Side

    @property
    def speedup(self) -> float:
        """B's throughput over A's."""
        return self.b.images_per_second / self.a.images_per_second

    def months_to_earn(self, switch_cost: float) -> float | None:
        """Months until what B saves has paid for the change; None where it never does."""
        if self.a.yearly is None or self.b.yearly is None or self.b.yearly >= self.a.yearly:
            return None
        return 12 * switch_cost / (self.a.yearly - self.b.yearly)


def refuse_other_images(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises ValueError where two models' dims say that their images are of other sizes."""
    found = [[dims[key] for key in ("image_channels", "image_height", "image_width")] for dims in (a, b)]
    if found[0] != found[1]:
        raise ValueError(f"images: {found[0]} in A and {found[1]} in B; only bundles with images of one size compare")


def compare_costs(a: Mapping[str, Any], b: Mapping[str, Any], prices: Prices) -> list[Row]:
    """The batches that both reports have.

    Args:
        a: what `aim-edge bench --json` wrote for the bundle in use.
        b: for the one that may take its place.
        prices: of both.

    Raises:
        ValueError: other image sizes or GPUs, no batch and part that both have, or a price of power and nothing to
            multiply it with.
    """
    refuse_other_images(a["bundle"]["dims"], b["bundle"]["dims"])
    gpus = [side["machine"]["gpu"] for side in (a, b)]
    if gpus[0] != gpus[1]:
        raise ValueError(f"GPU: {gpus[0]!r} in A and {gpus[1]!r} in B; only reports of the same compare")
    before = {one["batch"]: one for one in a["batches"]}
    pairs = [(before[one["batch"]], one) for one in b["batches"] if one["batch"] in before]
    part = next((p for p in _PARTS if any(x[p] is not None and y[p] is not None for x, y in pairs)), None)
    pairs = [(x, y) for x, y in pairs if part is not None and x[part] is not None and y[part] is not None]
    if part is None or not pairs:
        batches = [[one["batch"] for one in side["batches"]] for side in (a, b)]
        raise ValueError(f"no batch was measured in both: A has {batches[0]}, B has {batches[1]}")
    unknown = [x["batch"] for x, y in pairs if "energy" not in x[part] or "energy" not in y[part]]
    if prices.kwh is not None and prices.watts is None and unknown:
        raise ValueError(
            f"kwh is {prices.kwh} and watts is None; power costs need both, or energy measured in A and in B, which it "
            f"was not at batch {', '.join(map(str, unknown))}"
        )
    rows = [
        Row(x["batch"], part, _side(x[part], x, prices, not unknown), _side(y[part], y, prices, not unknown))
        for x, y in pairs
    ]
    return sorted(rows, key=lambda row: row.batch)


def is_measured(rows: list[Row]) -> bool:
    """Whether energy was measured on both sides of every row, so that costs are made with it."""
    return all(side.joules is not None for row in rows for side in (row.a, row.b))


def best(rows: list[Row], side: str) -> Row:
    """The row with the cheapest images of a side, "a" or "b"."""
    return min(rows, key=lambda row: float(getattr(row, side).thousand))


def _side(timed: Mapping[str, Any], measured: Mapping[str, Any], prices: Prices, by_joules: bool) -> Side:
    rate, kwh = float(timed["images_per_second"]), prices.kwh or 0.0
    served, used = rate * prices.utilisation, (measured.get("memory") or {}).get("by_use", {})
    gpus = None if prices.load is None else math.ceil(prices.load / served)
    joules = float(timed["energy"]["joules_per_image"]) if "energy" in timed else None
    # Power is paid by the image where its joules are known, and otherwise by the hour, busy or not.
    hour = prices.gpu_hour + (0.0 if by_joules else (prices.watts or 0.0) / 1000 * kwh)
    image = (joules or 0.0) / _JOULES_A_KWH * kwh if by_joules else 0.0
    yearly = None
    if gpus is not None and prices.load is not None:
        yearly = HOURS_A_YEAR * (gpus * hour + 3600 * prices.load * image)
    return Side(
        seconds=float(timed["median"]),
        images_per_second=rate,
        device_bytes=int(sum(used.values())),
        joules=joules,
        thousand=1000 * (hour / (3600 * served) + image),
        gpus=gpus,
        yearly=yearly,
    )
