"""The tables of aim-edge bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_PART_NAMES = {"tokens": "tokens", "pixels": "pixels", "generate": "both"}
# Column -> figure.
_COLUMNS = (("median s", "median"), ("p90 s", "p90"), ("p99 s", "p99"), ("ms/step", "ms_per_step"),
            ("images/s", "images_per_second"))  # fmt: skip
_SLOWEST = 10


def figures_table(found: dict[str, Any]) -> Table:
    """A row for each part of each batch, and below it the ratios to the baseline."""
    from rich.table import Table

    from aim_edge.runtime.bench_figures import parts_of

    table = Table()
    columns = [column for column, _ in _COLUMNS]
    columns += [] if found["bandwidth"] is None else ["floor ms/step", "floor images/s", "x floor"]
    energy = any("energy" in (one[part] or ()) for one in found["batches"] for part in _PART_NAMES)
    columns += ["W", "J/image"] if energy else []
    for name in ("batch", "", *columns):
        table.add_column(name, justify="right" if name else "left")
    baseline = found["baseline"]
    for one in found["batches"]:
        ratios = {} if baseline is None else baseline["ratios"].get(str(one["batch"]), {})
        for part in parts_of(found):
            name = _PART_NAMES[part]
            if one[part] is None:
                table.add_row(str(one["batch"]), name, "not run")
                continue
            cells = [f"{one[part][key]:.4g}" if key in one[part] else "" for _, key in _COLUMNS]
            least = one["floor"] if part == "tokens" else None
            if least is not None:
                cells += [f"{1e3 * least['step_seconds']:.4g}", f"{least['images_per_second']:.4g}",
                          f"{least['measured_over_floor']:.1f}"]  # fmt: skip
            elif found["bandwidth"] is not None:
                cells += ["", "", ""]
            drawn = one[part].get("energy")
            cells += [] if drawn is None else [f"{drawn['watts']:.0f}", f"{drawn['joules_per_image']:.4g}"]
            table.add_row(str(one["batch"]), name, *cells)
            if part in ratios:
                over = (f"{ratios[part][key]:.2f}x" if key in ratios[part] else "" for _, key in _COLUMNS)
                table.add_row("", "  to baseline", *over)
        table.add_section()
    return table


def profile_tables(found: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """For each profiled batch the slowest kinds of operators and the slowest layers, each with a line above it."""
    from rich.table import Table

    from aim_edge.runtime.bench_figures import slowest

    for one in found["batches"]:
        profile = one["profile"]
        if profile is None or profile["reason"]:
            continue
        layers = profile["layers"]
        total = sum(us for _, us in layers)
        kinds = Table()
        kinds.add_column("kind", overflow="fold")
        for name in ("layers", "us", "share"):
            kinds.add_column(name, justify="right")
        for kind, count, us in profile["kinds"][:_SLOWEST]:
            kinds.add_row(kind, str(count), f"{us:.1f}", f"{us / total:.1%}" if total else "")
        yield (
            f"batch {one['batch']}: {len(layers)} layers of a step, {total:.0f} us launch by launch, so with the gaps "
            "between launches, and without the draw of codes",
            kinds,
        )
        single = Table()
        single.add_column("layer", overflow="fold")
        single.add_column("us", justify="right")
        for name, us in slowest(layers, _SLOWEST):
            single.add_row(name, f"{us:.1f}")
        yield f"batch {one['batch']}: the slowest layers", single
