"""TensorRT and TensorRT-RTX: options, which engines of a bundle are taken, and what sessions share.

A backend's engines are loaded when first used and shared by its sessions; what runs them (contexts, streams, memory)
is each session's own. Opening engines and sessions is for one thread at a time; sessions may then run in several.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..checks import check_integer, check_integers
from ..cuda import Device
from ..errors import EngineError
from ..images import Image8, to_uint8
from ..manifest import EngineRecord
from .trt_api import Engine, Library, Runtime, open_library
from .trt_images import ImageGraph
from .trt_kernels import Kernels, library_version, load_library
from .trt_memory import Sizes, choose_profile
from .trt_record import find_library, pick_record
from .trt_session import TrtSession

_SAMPLERS = ("device", "host")
_GRAPHS = ("auto", "on", "off")


@dataclass(frozen=True)
class TrtOptions:
    """Options of the TensorRT backends.

    device_id: which GPU.
    target: of the recorded engines; "" takes those of this GPU, such as "trt:sm90".
    library: the kernel library; "" takes the one that lies beside the engines.
    sampler: "device" draws the codes there, with the kernel library; "host" draws with NumPy, a copy each step.
    cuda_graph: "auto" replays a step as a CUDA graph where it can be captured, "on" refuses where it cannot, "off".
    """

    device_id: int = 0
    target: str = ""
    library: str = ""
    sampler: str = "device"
    cuda_graph: str = "auto"

    def __post_init__(self) -> None:
        check_integer("device_id", self.device_id, 0, 1024)
        for name, allowed in (("sampler", _SAMPLERS), ("cuda_graph", _GRAPHS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {list(allowed)}")


OPTIONS = TrtOptions


def check(name: str) -> str:
    """See `backends.check_backend`."""
    library, device = open_library(name), Device()
    try:
        driver = f"driver for CUDA {device.driver_version}"
        return f"{library.name} {library.version} on {device.name} ({device.sm}), {driver}"
    finally:
        device.close()


def open_backend(name: str, bundle: Bundle, options: TrtOptions) -> TrtBackend:
    """See `backends.open_backend`."""
    return TrtBackend(name, bundle, options)


class TrtBackend:
    """A bundle's engines on one GPU.

    Attributes:
        record: the engines that were taken, as the manifest has them.
        device: the GPU.
        kernels: what draws codes on the device, or None where the sampler is on the host.
        graphs_reason: why the last session replays no CUDA graphs ("": it does); None: there was no session yet.

    Raises:
        BackendMissingError: no library, driver or GPU.
        BundleError: no engines that these can run, or another kernel library than theirs.
        EngineError: the kernel library does not load, or there is none for the sampler on the device.
    """

    def __init__(self, name: str, bundle: Bundle, options: TrtOptions) -> None:
        self.name = name
        self.contract = bundle.manifest.contract
        self.options = options
        self.kernels: Kernels | None = None
        self.graphs_reason: str | None = None
        self._bundle = bundle
        self._engines: dict[str, Engine] = {}
        self._images: dict[str, ImageGraph] = {}
        self._sessions: weakref.WeakSet[TrtSession] = weakref.WeakSet()
        self._engine_bytes = 0
        self._runtime: Runtime | None = None
        self._library: Library = open_library(name)
        self.device = Device(options.device_id)
        try:
            self.record: EngineRecord = pick_record(bundle, self._library, self.device, options.target)
            path = find_library(bundle, self.record, options.library)
            self._runtime = Runtime(self._library, self.device)
            self.kernels = self._open_kernels(self._runtime, path)
        except BaseException:
            self.close()
            raise

    def _open_kernels(self, runtime: Runtime, path: Path | None) -> Kernels | None:
        on_device = self.options.sampler == "device"
        if path is None:
            if on_device:
                raise EngineError(
                    f"{self._bundle.path}: no kernel library lies beside the engines of {self.record.target!r}, and "
                    "sampler='device' draws with it; name one with library= (aim-edge plugins build makes it), or give "
                    "sampler='host'"
                )
            return None
        library = _load_once(runtime, path, self.record)
        plugin, version = self.record.plugin, library_version(library)
        if plugin is not None and version is not None and version != plugin.version:
            raise EngineError(
                f"{path}: aim_version() is {version}; {plugin.version} is recorded; build the engines again"
            )
        return Kernels(path, library) if on_device else None

    def engine(self, graph: str) -> Engine:
        """A graph's engine, loaded when first asked for.

        Raises:
            EngineError: there is none, or it does not load.
            BundleError: its tensors are not the contract's.
        """
        if graph not in self._engines:
            if self._runtime is None:
                raise RuntimeError("this backend is closed; open the bundle again")
            record = self.record
            if graph not in record.graphs:
                raise EngineError(
                    f"{self._bundle.path}: the engines of {record.target!r} have no {graph}; build it with: "
                    f"aim-edge build --graph {graph}"
                )
            free = self.device.memory()[0]
            compatible = "version-compatible" in record.flags
            path = self._bundle.path / record.graphs[graph].file
            self._engines[graph] = self._runtime.load_engine(path, graph, self.contract.graphs[graph], compatible)
            self._engine_bytes += max(0, free - self.device.memory()[0])
        return self._engines[graph]

    def updated_in_place(self) -> set[str]:
        """Outputs of states that the step's operators write in their inputs' places, whether the engine says so or not.

        CachedAttention writes one position of a cache. Where input and output have one address, that is all that is
        moved, also below TensorRT 10, which knows of no aliases; were they two, each step would copy the whole cache.
        Mamba2LazyStep likewise writes little of a history and seldom a state.
        """
        step = self.record.graphs.get("step")
        operator = "CachedAttention" if self.contract.family == "gpt" else "Mamba2LazyStep"
        # Records of before count an engine's layers once for every profile.
        layers, each = 0 if step is None else step.plugins.get(operator, 0), self.contract.dims.n_layer
        return {state.output for state in self.contract.states} if layers and layers % each == 0 else set()

    def batches(self, engine: Engine) -> list[Sizes]:
        """Smallest, best and largest number of images in each profile of an engine."""
        name = self.contract.graphs[engine.graph].inputs[0].name
        return [(low[0], best[0], high[0]) for low, best, high in engine.profiles(name)]

    def session(self, batch: int) -> TrtSession:
        """See `Backend`.

        Raises:
            ValueError: no profile holds the batch.
            DeviceMemoryError: it does not fit; a smaller one may.
            EngineError: an engine does not load or run.
        """
        made = TrtSession(self, check_integer("batch", batch, 1, 1 << 20))
        self._sessions.add(made)
        return made

    @property
    def vq_batch(self) -> int:
        """See `Backend`."""
        return self._image_graph("vq_decode").largest

    def _image_graph(self, graph: str) -> ImageGraph:
        if graph not in self._images:
            self._images[graph] = ImageGraph(self, graph)
        return self._images[graph]

    def vq_decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Backend`."""
        return self._image_graph("vq_decode").run(self._check_codes(codes))

    def decode_images(self, codes: NDArray[np.int32]) -> Image8:
        """See `Backend`."""
        graph, given = self._image_graph("vq_decode"), self._check_codes(codes)
        return to_uint8(graph.run(given)) if self.kernels is None else graph.run_to_pixels(given, self.kernels)

    def vq_encode(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """See `Backend`."""
        dims = self.contract.dims
        shape = (dims.image_channels, dims.image_height, dims.image_width)
        if images.ndim != 4 or images.shape[1:] != shape or not len(images):
            raise ValueError(f"images have shape {images.shape}; expected (B, {', '.join(map(str, shape))})")
        return self._image_graph("vq_encode").run(images)

    def _check_codes(self, codes: NDArray[np.int32]) -> NDArray[np.int32]:
        dims = self.contract.dims
        checked = check_integers("codes", codes, (None, dims.grid_height, dims.grid_width), dims.vocab_size)
        if not len(checked):
            raise ValueError("codes are empty; expected those of one image or more")
        return checked

    def profile_step(self, batch: int, repeats: int = 20) -> list[tuple[str, float]]:
        """The step engine's layers in execution order, with the median microseconds of `repeats` runs."""
        check_integer("repeats", repeats, 1, 10_000)
        session = TrtSession(self, check_integer("batch", batch, 1, 1 << 20), loop=False)
        try:
            runs = session.profile_layers(repeats)
        finally:
            session.close()
        if any([name for name, _ in run] != [name for name, _ in runs[0]] for run in runs) or not runs[0]:
            raise EngineError(f"{self.engine('step').path}: the runs do not report the same layers; no profile")
        return [(layers[0][0], 1e3 * median(ms for _, ms in layers)) for layers in zip(*runs, strict=True)]

    def profile_of(self, batch: int) -> int:
        """The optimisation profile that a session of this batch takes. Raises ValueError."""
        return choose_profile(self.batches(self.engine("step")), batch)

    def memory(self) -> dict[str, int]:
        """See `Backend`. "engines" is by how much free memory shrank when they were loaded."""
        used = {"engines": self._engine_bytes}
        parts: list[TrtSession | ImageGraph] = [*self._sessions, *self._images.values()]
        for part in parts:
            for use, size in part.memory().items():
                used[use] = used.get(use, 0) + size
        return used

    def describe(self) -> str:
        """See `Backend`."""
        library = f"{self._library.name} {self._library.version}"
        where = "host" if self.kernels is None else "device"
        if self.kernels is None:
            graphs = "no CUDA graphs, which need the sampler on the device"
        elif self.graphs_reason is None:
            graphs = f"CUDA graphs {self.options.cuda_graph}"
        else:
            graphs = f"no CUDA graphs: {self.graphs_reason}" if self.graphs_reason else "CUDA graphs"
        return f"{library} on {self.device.name} ({self.device.sm}), sampler on the {where}, {graphs}"

    def close(self) -> None:
        """See `Backend`. Its sessions are closed too. May be called again."""
        parts: list[TrtSession | ImageGraph | Engine] = [*self._sessions, *self._images.values()]
        for part in (*parts, *self._engines.values()):
            part.close()
        self._images.clear()
        self._engines.clear()
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = None
        self.device.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


# The plugin library that a process gave to a TensorRT: its digest, path and handle. Another cannot follow it, as the
# operators are registered by name.
_loaded: dict[str, tuple[str, Path, Any]] = {}
_loading = threading.Lock()


def _load_once(runtime: Runtime, path: Path, record: EngineRecord) -> Any:
    """The kernel library; where engines were built with it, its operators are registered too. Raises EngineError."""
    plugin, name = record.plugin, runtime.library.name
    if plugin is None:
        return load_library(path)
    with _loading:
        if name not in _loaded:
            operators = sorted({operator for file in record.graphs.values() for operator in file.plugins})
            runtime.load_plugins(path, operators)
            _loaded[name] = (plugin.sha256, path, load_library(path))
        digest, earlier, library = _loaded[name]
    if digest != plugin.sha256:
        raise EngineError(
            f"{path}: this process has loaded {earlier} already, with SHA-256 {digest}; {plugin.sha256} expected; "
            "run this bundle in a process of its own"
        )
    return library
