"""TensorRT's Python API as the runtime uses it: the one file that knows how versions 8.6 to 11 and TensorRT-RTX differ.

| | 8.6 | 10 | 11, TensorRT-RTX |
|---|---|---|---|
| context without memory | create_execution_context_without_device_memory | both | create_execution_context(strategy) |
| its memory | context.device_memory | both | context.set_device_memory |
| how much | engine.device_memory_size | ..._for_profile, ..._v2 | get_device_memory_size_for_profile_v2 |
| plugin creators | get_plugin_creator | both | get_creator |
| output in its input's place | | | engine.get_aliased_input_tensor |
"""

from __future__ import annotations

import importlib
import mmap
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import GraphSpec, StateSpec
from ..cuda import Device, DeviceMemoryError, Stream
from ..errors import BackendMissingError, BundleError, EngineError
from . import BACKENDS

# Backend -> (the library's name, its modules in the order they are tried). The lean and dispatch runtimes are not among
# them: they run version-compatible engines only.
LIBRARIES = {
    "tensorrt": ("TensorRT", ("tensorrt",)),
    "tensorrt-rtx": ("TensorRT-RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings")),
}
_OLDEST = {"TensorRT": (8, 6), "TensorRT-RTX": (1, 0)}
_NO_MEMORY = ("outofmemory", "cudaerror2:", "cudaerrormemoryallocation")
_REMEMBERED = 8  # lines of the log that a message may show

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Library:
    """A loaded TensorRT.

    Attributes:
        name: "TensorRT" or "TensorRT-RTX".
        version: of the module, in full.
        module: itself.
    """

    name: str
    version: str
    module: Any


def open_library(backend: str) -> Library:
    """Imports a backend's library. Raises BackendMissingError where it is missing, broken or too old."""
    name, modules = LIBRARIES[backend]
    found = []
    for module in modules:
        try:
            library = Library(name, "", importlib.import_module(module))
            break
        except Exception as error:  # a package without its shared libraries raises whatever its loader raises
            found.append(f"{module}: {error}")
    else:
        raise BackendMissingError(f"{backend} needs {name} ({'; '.join(found)}); {BACKENDS[backend][1]}")
    version = str(getattr(library.module, "__version__", "0"))
    if version_numbers(version)[:2] < _OLDEST[name]:
        oldest = ".".join(map(str, _OLDEST[name]))
        raise BackendMissingError(
            f"{backend} needs {name} {oldest} or later; {version} is here; {BACKENDS[backend][1]}"
        )
    return Library(name, version, library.module)


def version_numbers(version: str) -> tuple[int, ...]:
    """ "10.3.0.26" as numbers; what follows a part that is no number is left out."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


class Runtime:
    """Loads engines and plugin libraries, and keeps what the library logs as errors.

    Args:
        library: of `open_library`.
        device: is current; without a GPU the library's own runtime would crash.
    """

    def __init__(self, library: Library, device: Device) -> None:
        self.library = library
        self._lines: deque[str] = deque(maxlen=_REMEMBERED)
        self._log = _make_log(library.module, self._lines)
        self._device = device
        device.make_current()
        self._runtime = library.module.Runtime(self._log)

    def errors(self) -> str:
        """What was logged as errors since the last call, for a message."""
        text = "; ".join(self._lines) or "the library's log says no more"
        self._lines.clear()
        return text

    def failure(self, what: str) -> EngineError:
        """What to raise where the library gave nothing: its log tells why."""
        text = self.errors()
        if any(sign in text.lower().replace(" ", "") for sign in _NO_MEMORY):
            return DeviceMemoryError(f"{what}: {text}", 0, *self._device.memory())
        return EngineError(f"{what}: {text}")

    def load_plugins(self, path: Path, operators: Sequence[str]) -> None:
        """Registers a plugin library with TensorRT.

        Args:
            path: of the library.
            operators: names of operators that the engines use: where they are registered already, by whoever built
                the engines in this process, the library is not loaded again.

        Raises:
            EngineError: TensorRT does not take it.
        """
        registry = self.library.module.get_plugin_registry()
        find = getattr(registry, "get_creator", None) or registry.get_plugin_creator
        if operators and all(find(name, "1", "") is not None for name in operators):
            return
        self._lines.clear()
        if registry.load_library(str(path)) is None:
            raise EngineError(f"{path}: {self.library.name} {self.library.version} does not take it as a plugin "
                              f"library: {self.errors()}")  # fmt: skip

    def load_engine(self, path: Path, graph: str, spec: GraphSpec, host_code: bool) -> Engine:
        """Loads a graph's engine.

        Args:
            path: of the engine.
            graph: of the contract.
            spec: its inputs and outputs.
            host_code: the engine is a version-compatible one, which brings code of its own.

        Raises:
            EngineError: it does not load.
            BundleError: its tensors are not the contract's.
        """
        self._lines.clear()
        if host_code:
            self._runtime.engine_host_code_allowed = True
        try:
            # Mapped, not read: on a machine that shares its memory with the GPU there is no room for a second copy.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                engine = self._runtime.deserialize_cuda_engine(plan)
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"{path}: cannot be read: {error}") from error
        if engine is None:
            raise self.failure(f"{path}: {self.library.name} {self.library.version} cannot load it")
        loaded = Engine(self, engine, path, graph)
        loaded.check(spec)
        return loaded

    def close(self) -> None:
        """Lets go of the library's runtime, after its engines."""
        self._runtime = None


def _make_log(module: Any, lines: deque[str]) -> Any:
    """An ILogger of the module that keeps errors. Its base class is known only here."""
    errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 wants it by name

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                lines.append(message.strip())

    return Log()


class Engine:
    """A loaded engine. Several contexts may run it, each in its own thread."""

    def __init__(self, runtime: Runtime, engine: Any, path: Path, graph: str) -> None:
        self.path = path
        self.graph = graph
        self.runtime = runtime
        self._engine = engine

    def check(self, spec: GraphSpec) -> None:
        """Compares names, types, directions, ranks and fixed sizes with the contract's. Raises BundleError."""
        module, engine = self.runtime.library.module, self._engine
        types = {module.float32: "float32", module.float16: "float16", module.int32: "int32"}
        have = {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            kind = "input" if engine.get_tensor_mode(name) == module.TensorIOMode.INPUT else "output"
            dtype = types.get(engine.get_tensor_dtype(name), str(engine.get_tensor_dtype(name)))
            where = "" if engine.get_tensor_location(name) == module.TensorLocation.DEVICE else " in host memory"
            have[name] = (kind + where, dtype, tuple(engine.get_tensor_shape(name)))
        want = {
            tensor.name: (kind, tensor.dtype, tuple(-1 if isinstance(size, str) else size for size in tensor.shape))
            for kind, tensors in (("input", spec.inputs), ("output", spec.outputs))
            for tensor in tensors
        }
        bad = [
            f"{name} is {have.get(name, 'missing')}, expected {want.get(name, 'none of that name')}"
            for name in sorted(want.keys() | have.keys())
            if name not in want or name not in have or not _agree(want[name], have[name])
        ]
        if bad:
            raise BundleError(f"{self.path}: its tensors are not the contract's; build it again: " + "; ".join(bad))

    def profiles(self, tensor: str) -> list[Profile]:
        """Smallest, best and largest shape of an input in each optimisation profile."""
        engine = self._engine
        return [
            (tuple(low), tuple(best), tuple(high))
            for low, best, high in (
                engine.get_tensor_profile_shape(tensor, i) for i in range(engine.num_optimization_profiles)
            )
        ]

    def scratch_bytes(self, profile: int) -> int:
        """Device memory that a context needs in a profile."""
        engine = self._engine
        for name in ("get_device_memory_size_for_profile_v2", "get_device_memory_size_for_profile"):
            if hasattr(engine, name):
                return int(getattr(engine, name)(profile))
        return int(engine.device_memory_size)

    def aliased_outputs(self, states: Sequence[StateSpec]) -> set[str]:
        """Outputs of states that the engine writes in their inputs' places: the two must have one address."""
        ask = getattr(self._engine, "get_aliased_input_tensor", None)
        return set() if ask is None else {state.output for state in states if ask(state.output) == state.input}

    def context(self, profile: int, scratch: int, size: int, stream: Stream) -> Context:
        """A context that computes in a profile, in `size` bytes of device memory at `scratch`.

        Raises:
            EngineError: it cannot be made.
            DeviceMemoryError: not even the little that it allocates for itself is there.
        """
        module, engine = self.runtime.library.module, self._engine
        self.runtime.errors()
        if hasattr(module, "ExecutionContextAllocationStrategy"):
            context = engine.create_execution_context(strategy=module.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context_without_device_memory()
        if context is None:
            raise self.runtime.failure(f"{self.path}: no execution context")
        made = Context(self, context)
        if hasattr(context, "set_device_memory"):  # of the profile's size, so the profile comes first
            made.set_profile(profile, stream)
            context.set_device_memory(scratch, size)
        else:
            context.device_memory = scratch
            made.set_profile(profile, stream)
        return made

    def close(self) -> None:
        """Lets go of it, after its contexts."""
        self._engine = None


class Context:
    """An engine at work: shapes and addresses, and the queueing of runs. For one thread at a time."""

    def __init__(self, engine: Engine, context: Any) -> None:
        self.engine = engine
        self._context = context
        self._profiler: Any = None

    def set_profile(self, profile: int, stream: Stream) -> None:
        """Chooses the optimisation profile, and waits for that. Raises EngineError."""
        if self._context.active_optimization_profile == profile:
            return
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise self._refused(f"optimisation profile {profile} is refused; TensorRT below 10 lets sessions share a "
                                "profile only where PROFILE_SHARING was set when the engine was built")  # fmt: skip
        stream.synchronize()

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Sets an input's shape. Raises EngineError."""
        if not self._context.set_input_shape(name, shape):
            raise self._refused(f"{name}: shape {shape} is refused")

    def bind(self, name: str, address: int) -> None:
        """Says where a tensor lies on the device. Raises EngineError."""
        if not self._context.set_tensor_address(name, address):
            raise self._refused(f"{name}: its address is refused")

    def enqueue(self, stream: Stream) -> None:
        """Enqueues a run. Raises EngineError."""
        if not self._context.execute_async_v3(stream.handle):
            raise self._refused("a run could not be enqueued")

    def profile(self, report: Callable[[str, float], None]) -> None:
        """Calls `report` with each layer's name and milliseconds in the runs to come, which then are waited for."""
        module = self.engine.runtime.library.module

        class Profiler(module.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                module.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                report(layer_name, ms)

        self._profiler = Profiler()  # the context does not keep it
        self._context.profiler = self._profiler

    def _refused(self, what: str) -> EngineError:
        return EngineError(f"{self.engine.path}: {what}: {self.engine.runtime.errors()}")

    def close(self) -> None:
        """Lets go of it. May be called again."""
        self._context = None


def _agree(want: tuple[str, str, tuple[int, ...]], have: tuple[str, str, tuple[int, ...]]) -> bool:
    if want[:2] != have[:2] or len(want[2]) != len(have[2]):
        return False
    return all(w == h or -1 in (w, h) for w, h in zip(want[2], have[2], strict=True))
