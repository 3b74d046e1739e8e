"""What a measured bundle's figures are of and what else was found, in lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .bench_energy import LEAST_READINGS, PERIOD
from .bench_figures import PARTS
from .cuda import megabytes

# With fewer runs the 99th percentile by nearest rank is the slowest of them.
_ENOUGH_FOR_P99 = 100


def head(found: Mapping[str, Any]) -> list[str]:
    """The bundle, what ran it, and on what."""
    bundle, backend, machine = found["bundle"], found["backend"], found["machine"]
    sampling = ", ".join(f"{name} {value}" for name, value in found["settings"]["sampling"].items())
    lines = [
        f"bundle: {bundle['name']}, {bundle['lowering']}, {bundle['precision']}, states {bundle['state_dtype']}"
        f"{_states(bundle)}, digest {bundle['digest'][:12]}",
        f"backend: {backend['description']}",
        f"machine: {machine['cpu']}, {machine['cpu_count']} processors, {machine['platform']}",
    ]
    if machine["gpu"]:
        kernel = f", kernel driver {machine['kernel_driver']}" if machine["kernel_driver"] else ""
        lines.append(
            f"GPU: {machine['gpu']} ({machine['sm']}), {megabytes(machine['device_memory'])}, driver for CUDA "
            f"{machine['cuda_driver']}{kernel}"
        )
    engines = backend["engines"]
    if engines is not None:
        lines.append(
            f"engines: {engines['target']}, {engines['precision']}, {', '.join(engines['flags']) or 'no flags'}"
        )
    return [*lines, f"sampling: {sampling}"]


def _states(bundle: Mapping[str, Any]) -> str:
    size = bundle.get("state_bytes_per_image")  # a report from before they were told has none
    return "" if size is None else f" of {megabytes(size)} an image of {bundle['dims']['num_tokens']} codes"


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What the table of figures does not hold: what did not run first."""
    for one in found["batches"]:
        if one["not_run"]:
            yield f"batch {one['batch']} not run: {one['not_run']}"
    yield from _baseline(found)
    repeats = found["settings"]["repeats"]
    if repeats < _ENOUGH_FOR_P99:
        yield f"p99 of {repeats} runs is the slowest of them"
    yield from _first_image(found)
    yield _floor(found)
    yield from _energy(found)
    for one in found["batches"]:
        yield from _batch(one)


def _baseline(found: Mapping[str, Any]) -> Iterator[str]:
    baseline = found["baseline"]
    if baseline is not None:
        yield f"to baseline: this over {baseline['file']}; below 1 is less time, or fewer images a second"
        for warning in baseline["warnings"]:
            yield f"warning: not measured alike: {warning}"


def _first_image(found: Mapping[str, Any]) -> Iterator[str]:
    first = found["first_image"]
    if first is not None:
        ratio = (found["baseline"] or {"first_image": None})["first_image"]
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in first["parts"].items())
        more = "" if ratio is None else f" ({ratio:.2f}x to baseline)"
        runs = ", ".join(f"{seconds:.2f}" for seconds in first["samples"])
        yield f"first image of a new process: {first['median']:.2f} s{more}: {parts}; runs: {runs}"


def _floor(found: Mapping[str, Any]) -> str:
    bandwidth = found["bandwidth"]
    if bandwidth is None:
        return f"no floor: {found['floor_reason']}"
    return (
        f"floor: {megabytes(bandwidth['weight_bytes'])} of weights a step and "
        f"{megabytes(bandwidth['state_bytes_per_row'])} of state read and written a row (two rows an image"
        f"{', in the mean over all positions' if found['bundle'].get('family') == 'gpt' else ''}), at "
        f"{bandwidth['bytes_per_second'] / 1e12:.3f} TB/s, which copies of {megabytes(bandwidth['copy_bytes'])} reach "
        "here"
    )


def _energy(found: Mapping[str, Any]) -> Iterator[str]:
    energy = found.get("energy")
    if energy is None:  # a report from before energy was measured
        return
    if energy["reason"]:
        yield f"energy: not measured: {energy['reason']}"
        return
    yield f"energy: {energy['source']}, its mean over the runs, times their median"
    for one in found["batches"]:
        short = [part for part in PARTS if one[part] is not None and "energy" not in one[part]]
        if short:
            yield (
                f"batch {one['batch']}: energy of {', '.join(short)}: not measured: the runs were too short for "
                f"{LEAST_READINGS} readings of power, {1 / PERIOD:.0f} a second; --repeats makes them longer"
            )


def _batch(one: Mapping[str, Any]) -> Iterator[str]:
    where, least, memory, profile = f"batch {one['batch']}", one["floor"], one["memory"], one["profile"]
    if least is not None:
        yield (
            f"{where}: floor {1e6 * least['step_seconds']:.1f} us/step, "
            f"{1e3 * least['batch_seconds'] / one['batch']:.2f} ms an image, {least['images_per_second']:.4g} images/s"
        )
    if one["graph_nodes"]:
        graphs = (", ".join(f"{count} {kind}" for kind, count in nodes.items()) for nodes in one["graph_nodes"])
        yield f"{where}: nodes of the CUDA graphs of a step: {'; '.join(dict.fromkeys(graphs))}"
    if memory is not None:
        uses = [f"{use} {megabytes(size)}" for use, size in memory["by_use"].items()]
        if "device_free" in memory:
            uses.append(f"free {megabytes(memory['device_free'])} of {megabytes(memory['device_total'])} of the device")
        if memory["host_peak"] is not None:
            uses.append(f"peak of host memory up to here {megabytes(memory['host_peak'])}")
        yield f"{where}: memory: {', '.join(uses) or 'not known'}"
    if profile is not None and profile["reason"]:
        yield f"{where}: no profile: {profile['reason']}"
