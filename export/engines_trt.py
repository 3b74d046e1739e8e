"""TensorRT builds an engine of a graph on the GPU at hand: the only file here that loads its library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from aim_edge.runtime import BackendMissingError
from aim_edge.runtime.cuda import Device
from aim_edge.runtime.engines import TENSORRT

from .engines_common import (
    Built,
    EngineBuildError,
    Job,
    Tell,
    add_profiles,
    check_ports,
    make_log,
    make_monitor,
    parse,
    shape_of,
    type_names,
)
from .engines_plugins import HOW, PluginLibrary, describe_plugin_library, find_plugin_library
from .engines_trt_cache import TimingCache
from .engines_trt_inspect import Inspection, find_problems, read_inspection
from .engines_trt_options import TrtOptions
from .engines_trt_types import Wanted, constrain, read_plugins
from .engines_trt_versions import Dialect

INSTALL = 'pip install "aim-edge[tensorrt]", or on Jetson the TensorRT of JetPack'
_THEIR_PLUGINS = "_TRT"  # how the names of TensorRT's own end
_TICK = 10.0  # seconds between two words of a build that does not tell how far it is


class TrtBuilder:
    """Builds engines for the GPU at hand; see `Maker`. One builder makes all: the first takes long to start.

    Args:
        options: how to build.
        device: the GPU.
        plugins: whether the graphs need the plugin library; where they do not, one that is found is taken along.
        say: called with what it does while it starts, and with what it could not do.

    Raises:
        BackendMissingError: TensorRT is not installed, or does not load.
        ValueError: an option that this version does not have, or a plugin library that is needed and not there.
        EngineBuildError: the version is too old, or the plugin library does not load.
    """

    library: str = TENSORRT

    def __init__(self, options: TrtOptions, device: Device, plugins: bool, say: Callable[[str], None]) -> None:
        self._options, self._device, self._say = options, device, say
        path = find_plugin_library(options.plugins)
        if plugins and path is None:
            raise ValueError(f"the bundle's graphs use plugins, and no library of them is found; {HOW}")
        trt = _load()
        self._dialect = Dialect(trt)
        self._dialect.check(options)
        self.version = self._dialect.version
        self.folder = "trt-{}.{}".format(*self._dialect.release)
        self.facts: dict[str, Any] = {
            "gpu": device.name, "driver": device.driver_version, "flags": options.flags(), "level": -1,
        }  # fmt: skip
        self._log = make_log(trt)
        say(f"starting TensorRT {self.version} on {device.name}")
        try:
            self._builder, self._runtime = trt.Builder(self._log), trt.Runtime(self._log)
        except TypeError as error:  # what its constructors raise where they fail
            raise EngineBuildError(f"TensorRT {self.version} does not start: {self._log.why()}") from error
        if options.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such an engine brings its runtime along
        self.plugin = None if path is None else self._load_plugins(path)
        self._cache = TimingCache(options.timing_cache, self.version, device.name, say)

    def _load_plugins(self, path: Path) -> PluginLibrary:
        self._dialect.load_plugins(path)
        found = describe_plugin_library(path)
        if not found.told:
            self._say(f"{path}: has no aim_version(); it is older than this aim-edge")
        return found

    def build(self, job: Job, tell: Tell) -> Built:
        """One engine, each layer in the type that the graph gives it; checked as it was built.

        Args:
            job: what to build, for the GPU at hand.
            tell: called with the share that is done, or the seconds gone by; what it raises ends the build.

        Raises:
            EngineBuildError: the file does not parse or is not the contract's, no engine comes of it, or one that is
                not what was asked for.
            OSError: the timing cache that was given cannot be written.
        """
        dialect = self._dialect
        check_faults(job, dialect.release, self.version)
        self._log.clear()
        network = dialect.network(self._builder)
        parser = dialect.parser(network, self._log)
        parse(dialect.trt, parser, job.path, f"{TENSORRT} {self.version}")
        self._check_network(job, network)
        config = self._builder.create_builder_config()
        dialect.configure(config, self._options)
        wanted = self._want(job, network, config)
        add_profiles(self._builder, config, job)
        self._cache.use(config)
        self.facts["level"] = int(getattr(config, "builder_optimization_level", -1))
        plan = self._plan(job, network, config, tell)
        self._cache.save(config)
        return self._examine(job, memoryview(plan), wanted)

    def _check_network(self, job: Job, network: Any) -> None:
        """The inputs in full; of outputs the names, as their types may be settled only when the engine is built."""
        types = type_names(self._dialect.trt)
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        found = {t.name: (types.get(t.dtype, str(t.dtype)), tuple(t.shape)) for t in inputs}
        check_ports(job.path, found, job.spec.inputs)
        made = {network.get_output(i).name for i in range(network.num_outputs)}
        want = {tensor.name for tensor in job.spec.outputs}
        if made != want:
            raise EngineBuildError(f"{job.path}: its outputs are {sorted(made)}; the contract's are {sorted(want)}")

    def _want(self, job: Job, network: Any, config: Any) -> Wanted:
        """Sets what each layer is to compute in, and checks that the plugins are there."""
        if self._dialect.typed or "float16" not in (job.precision, job.state_dtype):
            wanted = read_plugins(self._dialect, network)
        else:
            self._dialect.allow_half(config, self._options.prefer_precision)
            wanted = constrain(self._dialect, network, job.state_dtype)
            # The condition graph computes in float32 throughout.
            halves = wanted.counts["float16"] + wanted.counts["float16 plugins"]
            if job.precision == "float16" and job.graph != "condition" and not halves:
                raise EngineBuildError(
                    f"{job.path}: no layer of it computes in float16, but the bundle does: {dict(wanted.counts)}"
                )
        foreign = ", ".join(sorted({name for _, name in wanted.plugins if name.endswith(_THEIR_PLUGINS)}))
        if foreign and self._dialect.without_sources(self._options):
            raise EngineBuildError(
                f"{job.path}: of some operators TensorRT {self.version} makes plugins of its own ({foreign}), which "
                "call cuDNN; export the bundle again with this aim-edge, or give --tactic-sources default"
            )
        if job.plugins and job.graph in ("step", "scan") and not wanted.plugins:
            raise EngineBuildError(
                f"{job.path}: TensorRT {self.version} made no plugin of its operators; export the bundle again"
            )
        return wanted

    def _plan(self, job: Job, network: Any, config: Any, tell: Tell) -> Any:
        monitor = None
        if self._dialect.has_monitor(config):
            monitor = config.progress_monitor = make_monitor(self._dialect.trt, tell)
        try:
            with _ticking(tell) if monitor is None else _nothing():
                plan = self._builder.build_serialized_network(network, config)
        except (MemoryError, RuntimeError) as error:
            raise EngineBuildError(self._why_not(job, config, str(error) or type(error).__name__)) from error
        if monitor is not None and monitor.raised is not None:
            raise monitor.raised
        if plan is None:
            raise EngineBuildError(self._why_not(job, config, self._log.why()))
        return plan

    def _why_not(self, job: Job, config: Any, reason: str) -> str:
        """Why no engine came of it, with what memory there was."""
        said = "; ".join(line for line in self._log.memory if line not in reason)
        free, total = self._device.memory()
        limit = self._dialect.workspace(config)
        lines = [
            f"{job.path}: TensorRT {self.version} builds no engine for {job.sm}: {reason}",
            *([f"of memory it says: {said}"] if said else []),
            f"workspace limit {limit / 2**20:.0f} MiB; {free / 2**20:.0f} of {total / 2**20:.0f} MiB of device memory "
            "are free",
        ]
        told = f"{reason} {said}".lower()
        if "memory" in reason.lower() or "out of memory" in told:
            lines.append("with a smaller --workspace or a smaller largest --batch it takes less")
        elif "workspace" in told:
            lines.append("a layer may need more workspace than it may take: raise --workspace")
        if "implementation" in reason and not (self._dialect.typed or self._options.prefer_precision):
            lines.append("with --prefer-precision a layer may have another type than the graph's")
        return "; ".join(lines)

    def _examine(self, job: Job, plan: memoryview, wanted: Wanted) -> Built:
        """Loads the plan as a runtime would, and holds it to the contract and to what was asked for."""
        dialect, types = self._dialect, type_names(self._dialect.trt)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineBuildError(f"{job.path}: the engine that was built does not load: {self._log.why()}")
        found = {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            dtype = engine.get_tensor_dtype(name)
            found[name] = (types.get(dtype, str(dtype)), tuple(engine.get_tensor_shape(name)))
        check_ports(job.path, found, (*job.spec.inputs, *job.spec.outputs), built=True)
        inspection = read_inspection(self._inspect(job, engine), wanted)
        mixed = job.graph == "condition" or (job.precision, job.state_dtype) == ("float32", "float16")
        half = None if mixed and "float16" in (job.precision, job.state_dtype) else job.precision == "float16"
        if problems := find_problems(inspection, wanted, half, ordered=not self._options.prefer_precision):
            raise EngineBuildError(f"{job.path}: the engine is not what was asked for: {'; '.join(problems)}")
        if not inspection.readable:
            self._say(f"{job.graph}: TensorRT {self.version} does not tell its layers' types in a form known here")
        detail = {
            "graph": job.graph, "library": TENSORRT, "version": self.version, "precision": job.precision,
            "state_dtype": job.state_dtype, "constrained": wanted.types, "layers": inspection.to_list(),
        }  # fmt: skip
        return Built(plan, inspection.counts(), _plugins(inspection, wanted), dialect.device_bytes(engine), detail)

    def _inspect(self, job: Job, engine: Any) -> str:
        """The inspector's JSON, for the first profile's best sizes: without any, it tells no types."""
        inspector = engine.create_engine_inspector()
        context = self._dialect.bare_context(engine)
        if context is not None:
            best = job.batch[0][1], job.length[1]
            if all(context.set_input_shape(t.name, shape_of(t, *best)) for t in job.spec.inputs):
                inspector.execution_context = context
        return str(inspector.get_engine_information(self._dialect.trt.LayerInformationFormat.JSON))


def check_faults(job: Job, release: tuple[int, ...], version: str) -> None:
    """Raises EngineBuildError for a graph of which this TensorRT is known to make an engine that computes wrongly."""
    cached = any(tensor.name.startswith("k_cache") for tensor in job.spec.inputs)
    # Seen with 8.6.0: right logits from the scan engine, wrong ones from the step's at its first position.
    if release < (9,) and job.graph == "step" and cached and not job.plugins:
        raise EngineBuildError(
            f"{job.path}: TensorRT {version} makes of a Transformer's step in standard operators an engine whose "
            "logits are wrong; export the bundle with --lowering plugin-fused or plugin"
        )


def _plugins(inspection: Inspection, wanted: Wanted) -> dict[str, int]:
    return inspection.plugins(wanted) if inspection.readable else {}


def _load() -> Any:
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:  # the package without its libraries raises either
        raise BackendMissingError(f"building engines for tensorrt needs TensorRT ({error}); {INSTALL}") from error
    return trt


@contextmanager
def _ticking(tell: Tell) -> Iterator[None]:
    """Tells the seconds gone by from a thread. What `tell` raises is raised at the end: nothing stops TensorRT 8."""
    done, raised, begin = Event(), list[BaseException](), time.monotonic()

    def tick() -> None:
        while not done.wait(_TICK):
            try:
                tell(0.0, f", {time.monotonic() - begin:.0f} s")
            except BaseException as error:
                raised.append(error)
                return

    thread = Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if raised:
        raise raised[0]


@contextmanager
def _nothing() -> Iterator[None]:
    yield
