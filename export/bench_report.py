"""A measured bundle as one HTML file: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from aim_edge.runtime.bench_figures import parts_of, slowest
from aim_edge.runtime.bench_text import head, notes

from .bench_svg import bars, batch_plot

TEMPLATE = Path(__file__).with_name("bench.html.jinja")
_SHOWN = 10
_PARTS = {"tokens": "tokens", "pixels": "pixels", "both": "generate"}


def render_bench(found: Mapping[str, Any]) -> str:
    """The whole page: what was measured on what, figures, charts, profiles.

    Args:
        found: as `runtime.bench.run_bench` gives it, with "baseline" as `bench_figures.compare` gives it, or None.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        head=[line.partition(": ")[::2] for line in head(found)],
        notes=list(notes(found)),
        rows=_rows(found),
        energy=any("energy" in (one[part] or ()) for one in found["batches"] for part in _PARTS.values()),
        plots=_plots(found),
        profiles=[(one["batch"], _profile(one)) for one in found["batches"] if _profile(one)],
        samples=[
            (one["batch"], name, ", ".join(f"{seconds:.4g}" for seconds in one[part]["samples"]))
            for one in found["batches"]
            for name, part in _PARTS.items()
            if one[part] is not None
        ],
    )


def _asked(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: part for name, part in _PARTS.items() if part in parts_of(found)}


def _rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each part of each batch; "timing" is None where it was not run."""
    ratios = {} if found["baseline"] is None else found["baseline"]["ratios"]
    return [
        {"batch": one["batch"], "name": name, "timing": one[part],
         "ratios": ratios.get(str(one["batch"]), {}).get(part), "floor": one["floor"] if part == "tokens" else None}
        for one in found["batches"]
        for name, part in _asked(found).items()
    ]  # fmt: skip


def _plots(found: Mapping[str, Any]) -> list[str]:
    ran = [one for one in found["batches"] if one["tokens"] is not None]
    batches = [one["batch"] for one in ran]
    seconds = {name: [_figure(one[part], "median") for one in ran] for name, part in _asked(found).items()}
    speed = {name: [_figure(one[part], "images_per_second") for one in ran] for name, part in _asked(found).items()}
    speed.pop("pixels", None)
    if found["bandwidth"] is not None:
        speed["floor of tokens"] = [_figure(one["floor"], "images_per_second") for one in ran]
    return [
        batch_plot("Seconds a batch of images, median", batches, seconds),
        batch_plot("Images a second", batches, speed, "floor of tokens"),
    ]


def _figure(figures: Mapping[str, Any] | None, name: str) -> float | None:
    return None if figures is None else figures[name]


def _profile(one: Mapping[str, Any]) -> list[str]:
    """Charts of a batch's layers; none where there is no profile."""
    profile = one["profile"]
    if profile is None or profile["reason"]:
        return []
    kinds = [(f"{kind} ({count})", us) for kind, count, us in profile["kinds"][:_SHOWN]]
    return [
        bars("Kinds of operators (layers of the kind)", kinds, "us"),
        bars("Slowest layers", slowest(profile["layers"], _SHOWN), "us"),
    ]
