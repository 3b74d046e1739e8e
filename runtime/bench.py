"""Measures a bundle on the machine at hand: its token loop, its image decoder, both, and what they are up against.

Clocks are monotonic, warm-up is not counted, and everything that is timed ends with its result on the host, so that
nothing of it is still under way when the clock is read. What is found is one JSON-ready dictionary, described at
`run_bench`; `bench_figures` reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backends import Session
from .bench_cold import allowed_classes, measure_first_images
from .bench_energy import OpenMeter, Power, open_power
from .bench_figures import FORMAT, VERSION, group_kinds, timing
from .bench_machine import describe_machine, describe_versions, open_device, peak_memory
from .bundle import Bundle
from .contract import Contract
from .cuda import Device
from .errors import BackendMissingError, EngineError, NonFiniteError
from .floor import Floor, StepBytes, floor, measure_bandwidth, state_bytes, step_bytes
from .generator import Generator
from .provenance import bundle_digest

SEED = 0
TIMED = {
    "first_image": "a new process that draws one image, from its start to the PNG file; files may be in the page cache",
    "tokens": "Session.decode of all codes with the bundle's sampling defaults, guidance on (two rows an image); "
    "the condition is set and the state zeroed before",
    "pixels": "Generator.decode_tokens: codes on the host to uint8 pixels on the host",
    "generate": "Generator.generate: condition, zeroed state, tokens and pixels",
    "floor": "weights once and every ssm_state read and written once a step (of a Transformer's caches all positions "
    "before read and one written, in the mean over the positions), over the measured bandwidth of copies",
    "energy": "mean of the GPU's power during the timed runs of a part, times their median, an image",
    "profile": "the step engine's layers, launch by launch: gaps between launches are part of it, and no CUDA graph "
    "is replayed; the draw of codes is not in it",
}
_PROFILE_REPEATS = 20
_COLD_STARTS = 3
# What a batch that the engine or the device cannot hold raises; the other batches still run.
_NOT_RUN = (ValueError, EngineError, NonFiniteError, MemoryError)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    Attributes:
        batches: images at once, each measured by itself.
        repeats: timed runs of each part.
        warmup: runs before them that are not counted.
        profile: time the step engine's layers where the backend can.
        cold_start: time new processes to their first image, as often as `repeats` and three times at most.
        pixels: run the image decoder; without, tokens alone are measured, and no first image.

    Raises:
        ValueError: naming every field that is not what is allowed.
    """

    batches: tuple[int, ...] = (1, 8, 64)
    repeats: int = 5
    warmup: int = 1
    profile: bool = True
    cold_start: bool = True
    pixels: bool = True

    def __post_init__(self) -> None:
        bad = []
        whole = all(type(batch) is int and batch >= 1 for batch in self.batches)
        if not self.batches or not whole or len(set(self.batches)) != len(self.batches):
            bad.append(f"batches are {self.batches!r}; allowed: integers >= 1, each once")
        for name, low in (("repeats", 1), ("warmup", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                bad.append(f"{name} is {value!r}; allowed: an integer >= {low}")
        if bad:
            raise ValueError("; ".join(bad))


def run_bench(
    path: str | os.PathLike[str], backend: str, options: Mapping[str, Any], settings: BenchSettings,
    progress: Progress = lambda what, done, total: None, open_meter: OpenMeter | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measures a bundle.

    Args:
        path: its folder.
        backend: of `backends.BACKENDS`.
        options: the backend's own.
        settings: what to measure.
        progress: called with what is being done, how much of it is behind and how much there is; never while a clock
            runs.
        open_meter: gives what reads the GPU's power; None leaves energy out.

    Returns:
        JSON-ready: "format", "schema_version", "machine", "versions", "bundle", "backend", "settings", "timed" (what
        each figure is of), "first_image" (or null), "bandwidth", "floor_reason" ("": there is a floor), "energy" (what
        a reading is, and why there are none), and "batches", one each in the order asked for: "batch", "tokens",
        "pixels", "generate" (timings, seconds, with "energy" where it was measured; null where not run), "floor",
        "graph_nodes", "profile", "memory", and "not_run" ("" or what was in the way). "baseline" is null: what
        `bench_figures.compare` gives takes its place.

    Raises:
        BundleError, BackendMissingError: as `Generator.open`.
        EngineError: the process that draws the first image failed; its stderr is told.
        ValueError: a bad option; a policy that denies every class.
    """
    opened = Bundle.open(path)
    first = None
    if settings.cold_start and settings.pixels:  # first, while this process holds nothing of the device
        first = measure_first_images(path, backend, options, min(settings.repeats, _COLD_STARTS), progress)
    with Generator.open(opened, backend, **options) as generator:
        device, own = open_device(generator.backend)
        try:
            with open_power(open_meter, device, backend) as power:
                bench = _Bench(generator, device, settings, progress, power)
                bandwidth = bench.measure_floor()
                batches = [bench.measure_batch(batch) for batch in settings.batches]
            manifest = opened.manifest
            return {
                "format": FORMAT,
                "schema_version": VERSION,
                "machine": describe_machine(device),
                "versions": describe_versions(),
                "bundle": {
                    "path": str(opened.path), "name": opened.path.resolve().name, "digest": bundle_digest(manifest),
                    "checkpoint": asdict(manifest.checkpoint), "precision": manifest.precision,
                    "state_dtype": manifest.state_dtype, "lowering": manifest.lowering,
                    "weights": manifest.quantisation.weights if manifest.quantisation else bench.precision,
                    "dims": asdict(manifest.contract.dims), "family": manifest.family,
                    "state_bytes_per_image": state_bytes(manifest.contract),
                    "weight_bytes": _weight_bytes(manifest.contract, bench.precision),
                },
                "backend": {
                    "name": backend, "options": dict(options), "description": generator.backend.describe(),
                    "precision": bench.precision, "engines": _engines(generator),
                },
                "settings": asdict(settings) | {"seed": SEED, "sampling": asdict(manifest.sampling_defaults)},
                "timed": dict(TIMED),
                "first_image": first,
                "bandwidth": bandwidth,
                "floor_reason": bench.floor_reason,
                "energy": power.describe(),
                "batches": batches,
                "baseline": None,
            }  # fmt: skip
        finally:
            if own and device is not None:
                device.close()


def _weight_bytes(contract: Contract, precision: str) -> int | None:
    """Of the matrices that a step multiplies by, as they are run; None where that is not modelled."""
    try:
        return step_bytes(contract, precision).weights
    except ValueError:
        return None


def _engines(generator: Generator) -> dict[str, Any] | None:
    """What the manifest has of the engines that run, or None where the graphs themselves do."""
    record = getattr(generator.backend, "record", None)
    return None if record is None else asdict(record)


class _Bench:
    """One bundle being measured.

    Attributes:
        precision: of the weights as they are run: the engines' where there are engines.
        floor_reason: why there is no floor, or "".
    """

    def __init__(
        self, generator: Generator, device: Device | None, settings: BenchSettings, progress: Progress, power: Power
    ) -> None:
        self._generator = generator
        self._device = device
        self._settings = settings
        self._progress = progress
        self._power = power
        self._moved: StepBytes | None = None
        self._bandwidth = 0.0
        self._classes = allowed_classes(generator)
        record = getattr(generator.backend, "record", None)
        self.precision: str = generator.bundle.manifest.precision if record is None else record.precision
        self.floor_reason = ""

    def measure_floor(self) -> dict[str, Any] | None:
        """Bandwidth and bytes of a step, JSON-ready, or None with the reason kept."""
        if self._device is None:
            self.floor_reason = f"the floor is a GPU's; {self._generator.backend.name} runs on the CPU"
            return None
        try:
            manifest = self._generator.bundle.manifest
            self._moved = step_bytes(manifest.contract, self.precision, manifest.quantisation)
            self._progress("measuring memory bandwidth", 0, 1)
            found = measure_bandwidth(self._device)
        except (ValueError, EngineError) as error:
            self._moved, self.floor_reason = None, str(error)
            return None
        self._bandwidth = found.bytes_per_second
        return asdict(found) | {
            "bytes_per_second": found.bytes_per_second, "weight_bytes": self._moved.weights,
            "state_bytes_per_row": self._moved.state_per_row,
        }  # fmt: skip

    def measure_batch(self, batch: int) -> dict[str, Any]:
        """One batch, JSON-ready."""
        found: dict[str, Any] = {"batch": batch, "tokens": None, "pixels": None, "generate": None, "floor": None,
                                 "graph_nodes": None, "profile": None, "memory": None, "not_run": ""}  # fmt: skip
        labels = np.resize(self._classes, batch)
        steps = self._generator.dims.num_tokens
        tokens = np.zeros((batch, steps), np.int32)
        part = "tokens"
        try:
            with self._generator.borrow_session(labels) as session:  # the one that `generate` takes again
                found["tokens"] = self._time_tokens(session, batch, tokens)
                found["graph_nodes"] = _graph_nodes(session)
            if self._settings.pixels:
                part = "pixels"
                found["pixels"] = self._time(part, batch, lambda: self._generator.decode_tokens(tokens))
                part = "generate"
                found["generate"] = self._time(part, batch, lambda: self._generator.generate(labels, seed=SEED))
        except _NOT_RUN as error:
            found["not_run"] = f"{part}: {str(error) or type(error).__name__}"
        if found["tokens"] is not None:
            found["floor"] = self._floor(batch, found["tokens"])
            found["memory"] = self._memory()
            self._generator.release()  # the profile has a session of its own
            found["profile"] = self._profile(batch)
        return found

    def _time_tokens(self, session: Session, batch: int, tokens: NDArray[np.int32]) -> dict[str, Any]:
        sampling = self._generator.bundle.manifest.sampling_defaults
        index, steps = np.arange(batch, dtype=np.uint64), tokens.shape[1]

        def loop() -> None:
            for _ in session.decode(sampling, SEED, index, tokens, 0, steps):
                pass

        return self._time("tokens", batch, loop, steps, session.reset)

    def _time(
        self, part: str, batch: int, call: Callable[[], object], steps: int | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:  # fmt: skip
        """Figures of the runs. `before` comes before each and is not timed; it and `call` end when all is done."""
        total = self._settings.warmup + self._settings.repeats

        def run(i: int) -> float:
            self._progress(f"batch {batch}: {part}", i, total)
            before()
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin

        for i in range(self._settings.warmup):
            run(i)
        with self._power.watch() as watch:
            samples = [run(i) for i in range(self._settings.warmup, total)]
        found = timing(samples, batch, steps)
        return found | watch.figures(found["median"], batch)

    def _floor(self, batch: int, tokens: Mapping[str, Any]) -> dict[str, Any] | None:
        if self._moved is None:
            return None
        least: Floor = floor(self._moved, self._bandwidth, batch, self._generator.dims.num_tokens)
        return asdict(least) | {"measured_over_floor": tokens["median"] / least.batch_seconds}

    def _memory(self) -> dict[str, Any]:
        """Bytes, while a session of the batch is held."""
        found: dict[str, Any] = {"by_use": self._generator.backend.memory(), "host_peak": peak_memory()}
        if self._device is not None:
            found["device_free"], found["device_total"] = self._device.memory()
        return found

    def _profile(self, batch: int) -> dict[str, Any] | None:
        """Layers in execution order and by kind, or why that failed; None where it was not asked for or cannot be."""
        profile_step = getattr(self._generator.backend, "profile_step", None)
        if profile_step is None or not self._settings.profile:
            return None
        self._progress(f"batch {batch}: layers", 0, 1)
        try:
            layers = [(str(name), float(us)) for name, us in profile_step(batch, _PROFILE_REPEATS)]
        except (*_NOT_RUN, BackendMissingError) as error:
            return {"reason": str(error) or type(error).__name__}
        return {"reason": "", "repeats": _PROFILE_REPEATS, "layers": layers, "kinds": group_kinds(layers)}


def _graph_nodes(session: Session) -> list[dict[str, int]] | None:
    """Nodes by kind of each CUDA graph that the session replays; None where sessions do not tell."""
    tell = getattr(session, "graph_nodes", None)
    return None if tell is None else [dict(nodes) for nodes in tell()]
