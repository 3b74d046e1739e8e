"""The figures of a measured bundle: percentiles, operators' kinds, and the ratios to an earlier measurement."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

FORMAT, VERSION = "aim-edge-bench", 1
PARTS = ("tokens", "pixels", "generate")
FIGURES = ("median", "p50", "p90", "p99", "ms_per_step", "images_per_second")
# The numbers that tell equal layers apart: MatMul_23, /layers.3/Conv, __myl_Mul_myl0_7; not those of Conv2d or fp16.
_NUMBER = re.compile(r"[._\s]\d+(?![A-Za-z0-9])|(?<=my[el])\d+")


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that `percent` of all do not exceed (nearest rank): of few samples the largest for 99."""
    if not samples or not 0 < percent <= 100:
        raise ValueError(f"{len(samples)} samples, percent {percent}; expected one or more, and 0 < percent <= 100")
    return sorted(samples)[max(math.ceil(percent / 100 * len(samples)), 1) - 1]


def timing(samples: Sequence[float], batch: int, steps: int | None = None) -> dict[str, Any]:
    """JSON-ready figures of runs of one batch.

    Args:
        samples: seconds of each.
        batch: images of each.
        steps: codes of an image, where a step's time is asked for.

    Returns:
        "samples", "repeats", "median", "p50", "p90", "p99" (seconds), "images_per_second" and "ms_per_step", which
        follow from the median.
    """
    middle = median(samples)
    found = {
        "samples": list(samples), "repeats": len(samples), "median": middle,
        **{f"p{percent}": percentile(samples, percent) for percent in (50, 90, 99)},
        "images_per_second": batch / middle,
    }  # fmt: skip
    return found if steps is None else found | {"ms_per_step": 1e3 * middle / steps}


def parts_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Of PARTS those that a measurement was asked for: tokens alone where pixels were left out."""
    return PARTS if found["settings"].get("pixels", True) else PARTS[:1]


def operator_kind(layer: str) -> str:
    """A layer's name without its numbers: MatMul_23 is MatMul."""
    return _NUMBER.sub("", layer).strip() or layer


def group_kinds(layers: Iterable[tuple[str, float]]) -> list[tuple[str, int, float]]:
    """(kind, layers, microseconds in all), the slowest kind first."""
    kinds: dict[str, list[float]] = {}
    for name, microseconds in layers:
        kinds.setdefault(operator_kind(name), []).append(microseconds)
    return sorted(((kind, len(all_), sum(all_)) for kind, all_ in kinds.items()), key=lambda k: -k[2])


def slowest(layers: Iterable[Sequence[Any]], count: int = 10) -> list[tuple[str, float]]:
    """(layer, microseconds) of the slowest layers, the slowest first."""
    return sorted(((name, us) for name, us in layers), key=lambda layer: -layer[1])[:count]


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A measurement, as `run_bench` gave it and --json wrote it.

    Raises:
        ValueError: no such measurement, or another version's.
        OSError: it cannot be read.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    found = (read.get("format"), read.get("schema_version")) if isinstance(read, dict) else (None, None)
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{path}: format {found[0]!r}, schema version {found[1]!r}; expected {FORMAT!r}, {VERSION}: expected what "
            f"`aim-edge bench --json` writes, of schema version {VERSION}"
        )
    report: dict[str, Any] = read
    return report


def read_baseline(path: str | os.PathLike[str], batches: Iterable[int]) -> dict[str, Any]:
    """An earlier measurement to compare with.

    Args:
        path: the file.
        batches: those that are to be measured now.

    Raises:
        ValueError: no such measurement, another version's, or one that has none of these batches.
        OSError: it cannot be read.
    """
    read = read_report(path)
    asked, there = list(batches), [b["batch"] for b in read["batches"] if b["tokens"] is not None]
    if not set(asked) & set(there):
        raise ValueError(f"{path}: has batches {there}; {asked} are asked for; at least one must be in both")
    return read


def compare(found: Mapping[str, Any], earlier: Mapping[str, Any], file: str) -> dict[str, Any]:
    """This measurement over an earlier one, JSON-ready.

    Returns:
        "file", "warnings" (what was not the same), "ratios": by batch (as text), part and figure, this one divided by
        the earlier one; "first_image": the ratio, or null.
    """
    before = {b["batch"]: b for b in earlier["batches"]}
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for now in found["batches"]:
        then = before.get(now["batch"])
        for part in PARTS:
            if then is not None and now[part] is not None and then[part] is not None:
                ratios.setdefault(str(now["batch"]), {})[part] = {
                    name: now[part][name] / then[part][name] for name in FIGURES if name in now[part]
                }
    first = None
    if found["first_image"] is not None and earlier["first_image"] is not None:
        first = found["first_image"]["median"] / earlier["first_image"]["median"]
    return {"file": file, "warnings": _differences(found, earlier), "ratios": ratios, "first_image": first}


def _differences(found: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """What both must share for their ratio to be of one thing."""
    kinds = {
        "GPU": ("machine", "gpu"),
        "backend": ("backend", "description"),
        "weights' precision": ("backend", "precision"),
        "states": ("bundle", "state_dtype"),
        "checkpoint": ("bundle", "checkpoint"),
        "lowering": ("bundle", "lowering"),
        "sampling": ("settings", "sampling"),
    }
    if not found["machine"]["gpu"] and not earlier["machine"]["gpu"]:
        kinds["CPU"] = ("machine", "cpu")
    pairs = {name: (found[group][key], earlier[group][key]) for name, (group, key) in kinds.items()}
    return [
        f"{name}: {_text(now)} here, {_text(then)} in the baseline"
        for name, (now, then) in pairs.items()
        if now != then
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value) or "none"
