"""ONNX Runtime, on the CPU or through its CUDA provider: options, engines, the image tokenizer's graphs."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..checks import check_integer
from ..contract import TensorSpec
from ..errors import BackendMissingError, BundleError, EngineError
from ..images import Image8, to_uint8
from . import BACKENDS
from .ort_session import OrtSession

_PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}
_THREADS = "AIM_EDGE_ORT_THREADS"
_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "int32": "tensor(int32)"}
# Images decoded at once: the tokenizer's activations are far larger than the decoder's state.
_VQ_BATCH = 16
_OPTIMIZATION = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
                 "all": "ORT_ENABLE_ALL"}  # fmt: skip


@dataclass(frozen=True)
class OrtOptions:
    """Options of the ONNX Runtime backends.

    threads: for one operator's work; 0 takes $AIM_EDGE_ORT_THREADS, and without it lets ONNX Runtime choose (one a
        physical core, which wait in a loop for their next work: too many where processes share a machine).
    optimization: "none", "basic", "extended" or "all" of its graph rewrites.
    device_id: CUDA device (ort-cuda only).
    custom_ops: libaim_edge_onnxruntime.so, for bundles of the plugin lowerings (ort-cuda only); "" runs the
        operators' bodies.
    """

    threads: int = 0
    optimization: str = "all"
    device_id: int = 0
    custom_ops: str = ""

    def __post_init__(self) -> None:
        check_integer("threads", self.threads, 0, 1024)
        check_integer("device_id", self.device_id, 0, 1024)
        if self.optimization not in _OPTIMIZATION:
            raise ValueError(f"optimization is {self.optimization!r}; allowed: {list(_OPTIMIZATION)}")


OPTIONS = OrtOptions


def _told_threads() -> int:
    """What the environment says; 0 where it says nothing. Raises ValueError."""
    text = os.environ.get(_THREADS, "")
    if text and not text.isdecimal():
        raise ValueError(f"the environment's {_THREADS} is {text!r}; allowed: 0..1024")
    return check_integer(f"the environment's {_THREADS}", int(text or 0), 0, 1024)


def check(name: str) -> str:
    """See `backends.check_backend`."""
    ort = _library(name)
    return f"onnxruntime {ort.__version__}, {_PROVIDERS[name]}"


def open_backend(name: str, bundle: Bundle, options: OrtOptions) -> OrtBackend:
    """See `backends.open_backend`."""
    return OrtBackend(name, bundle, options)


def _library(name: str) -> Any:
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendMissingError(f"{name} needs onnxruntime ({error}); {BACKENDS[name][1]}") from error
    available = ort.get_available_providers()
    if _PROVIDERS[name] not in available:
        found = f"onnxruntime {ort.__version__} here has {available}"
        raise BackendMissingError(f"{name} needs the {_PROVIDERS[name]}; {found}; {BACKENDS[name][1]}")
    return ort


class OrtBackend:
    """A bundle's graphs as ONNX Runtime sessions, each loaded when first used."""

    vq_batch = _VQ_BATCH

    def __init__(self, name: str, bundle: Bundle, options: OrtOptions) -> None:
        self.name = name
        self.contract = bundle.manifest.contract
        self.ort = _library(name)
        self.device = ("cuda", options.device_id) if name == "ort-cuda" else ("cpu", 0)
        if options.custom_ops and name != "ort-cuda":
            raise ValueError(f"{name}: custom_ops is {options.custom_ops!r}; the library is for ort-cuda only")
        self._bundle = bundle
        self._options = options
        self._threads = options.threads or _told_threads()
        self._engines: dict[str, Any] = {}

    def engine(self, graph: str) -> Any:
        """The InferenceSession of a graph of the contract.

        Raises:
            EngineError: ONNX Runtime cannot load it.
            BundleError: its inputs or outputs are not the contract's.
            BackendMissingError: the provider could not start.
        """
        if graph not in self._engines:
            self._engines[graph] = self._load(graph)
        return self._engines[graph]

    def _load(self, graph: str) -> Any:
        path, ort, provider = self._graph_path(graph), self.ort, _PROVIDERS[self.name]
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.graph_optimization_level = getattr(
            ort.GraphOptimizationLevel, _OPTIMIZATION[self._options.optimization]
        )
        options.log_severity_level = 3  # warnings tell of its own rewrites; errors are raised
        # The provider would multiply float32 in TF32, which loses three digits, without being asked.
        settings = {"device_id": self._options.device_id, "use_tf32": 0} if self.name == "ort-cuda" else {}
        try:
            if self._options.custom_ops:
                options.register_custom_ops_library(self._options.custom_ops)
            engine = ort.InferenceSession(str(path), options, providers=[(provider, settings)])
        except Exception as error:  # its exceptions share no base class
            raise EngineError(f"{path}: onnxruntime {ort.__version__} cannot load it: {error}") from error
        if engine.get_providers()[0] != provider:  # it falls back to the CPU with a warning only
            found = engine.get_providers()
            raise BackendMissingError(f"{self.name}: the {provider} did not start ({found}); {BACKENDS[self.name][1]}")
        engine.disable_fallback()
        spec = self.contract.graphs[graph]
        for kind, wanted, got in (("input", spec.inputs, engine.get_inputs()),
                                  ("output", spec.outputs, engine.get_outputs())):  # fmt: skip
            _check_ports(f"{path}: {kind}s", wanted, got)
        return engine

    def _graph_path(self, graph: str) -> Path:
        """With the library, the variant without bodies: none can be taken in place of a kernel unnoticed."""
        path = self._bundle.graph_path(graph)
        bodiless = path.with_suffix(".trt.onnx")
        use = self._options.custom_ops and bodiless.name in self._bundle.manifest.files
        return bodiless if use else path

    def session(self, batch: int) -> OrtSession:
        """See `Backend`."""
        return OrtSession(self, check_integer("batch", batch, 1, 1 << 20))

    def vq_decode(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Backend`."""
        result: NDArray[np.float32] = self.run("vq_decode", {"codes": codes})[0]
        return result

    def decode_images(self, codes: NDArray[np.int32]) -> Image8:
        """See `Backend`."""
        return to_uint8(self.vq_decode(codes))

    def vq_encode(self, images: NDArray[np.float32]) -> NDArray[np.int32]:
        """See `Backend`."""
        result: NDArray[np.int32] = self.run("vq_encode", {"image": images})[0]
        return result

    def run(self, graph: str, feeds: dict[str, Any]) -> Any:
        """Runs a graph on host arrays. Raises EngineError."""
        engine = self.engine(graph)
        return self.guarded(graph, lambda: engine.run(None, feeds))

    def guarded(self, graph: str, call: Any) -> Any:
        """Calls, and names the graph's file where ONNX Runtime fails."""
        try:
            return call()
        except Exception as error:
            raise EngineError(f"{self._bundle.graph_path(graph)}: onnxruntime failed: {error}") from error

    def memory(self) -> dict[str, int]:
        """See `Backend`. ONNX Runtime does not tell what it holds on a GPU."""
        return {}

    def describe(self) -> str:
        """See `Backend`."""
        provider = _PROVIDERS[self.name]
        where = provider if self.device[0] == "cpu" else f"{provider}, device {self.device[1]}"
        return f"onnxruntime {self.ort.__version__}, {where}, sampler on the host, no CUDA graphs"

    def close(self) -> None:
        """See `Backend`."""
        self._engines.clear()


def _check_ports(where: str, wanted: tuple[TensorSpec, ...], got: Any) -> None:
    """Compares a graph's ports with the contract: names, types, ranks and the sizes that are fixed on both sides."""
    want = {spec.name: (_TYPES[spec.dtype], list(spec.shape)) for spec in wanted}
    have = {port.name: (port.type, list(port.shape)) for port in got}
    bad = [
        f"{name} is {have.get(name, 'missing')}, expected {want.get(name, 'none of that name')}"
        for name in sorted(want.keys() | have.keys())
        if name not in want or name not in have or not _agree(want[name], have[name])
    ]
    if bad:
        raise BundleError(f"{where} are not the contract's: " + "; ".join(bad))


def _agree(want: tuple[str, list[Any]], have: tuple[str, list[Any]]) -> bool:
    if want[0] != have[0] or len(want[1]) != len(have[1]):
        return False
    pairs = zip(want[1], have[1], strict=True)
    return all(w == h for w, h in pairs if isinstance(w, int) and isinstance(h, int))
