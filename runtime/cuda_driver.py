"""The CUDA driver's functions by ctypes, and what a captured graph is made of."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any

from .errors import BackendMissingError, EngineError

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
DRIVER_HELP = "install NVIDIA's driver (on Jetson it is part of JetPack)"

_MEMORY_TYPE = 2  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE
_HOST, _UNIFIED = 1, 4  # CUmemorytype
_MEMCPY, _CHILD = 1, 4  # CUgraphNodeType
_NODES = ("kernel", "memcpy", "memset", "host", "graph", "empty", "wait event", "record event", "signal semaphore",
          "wait semaphore", "alloc", "free", "batch memory operation", "conditional")  # fmt: skip


class _Memcpy3D(ctypes.Structure):
    """CUDA_MEMCPY3D."""

    _fields_ = [
        *((f"src_{name}", c_size_t) for name in ("x", "y", "z", "lod")),
        ("src_type", c_int), ("src_host", c_void_p), ("src_device", c_uint64), ("src_array", c_void_p),
        ("reserved0", c_void_p), ("src_pitch", c_size_t), ("src_height", c_size_t),
        *((f"dst_{name}", c_size_t) for name in ("x", "y", "z", "lod")),
        ("dst_type", c_int), ("dst_host", c_void_p), ("dst_device", c_uint64), ("dst_array", c_void_p),
        ("reserved1", c_void_p), ("dst_pitch", c_size_t), ("dst_height", c_size_t),
        ("width", c_size_t), ("height", c_size_t), ("depth", c_size_t),
    ]  # fmt: skip


_INT, _POINTER, _SIZE = POINTER(c_int), POINTER(c_void_p), POINTER(c_size_t)
# What each call takes; all return a CUresult. Without these, ctypes would cut 64-bit pointers to 32.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDriverGetVersion": (_INT,),
    "cuDeviceGetCount": (_INT,),
    "cuDeviceGet": (_INT, c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetPCIBusId": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (_INT, c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_POINTER, c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (_SIZE, _SIZE),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemAllocHost_v2": (_POINTER, c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuPointerGetAttribute": (c_void_p, c_int, c_uint64),
    "cuStreamCreate": (_POINTER, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _POINTER),
    "cuGraphInstantiateWithFlags": (_POINTER, c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphGetNodes": (c_void_p, _POINTER, _SIZE),
    "cuGraphNodeGetType": (c_void_p, _INT),
    "cuGraphMemcpyNodeGetParams": (c_void_p, POINTER(_Memcpy3D)),
    "cuGraphChildGraphNodeGetGraph": (c_void_p, _POINTER),
}


class CudaError(EngineError):
    """A call of the CUDA driver that did not succeed: its name, the code and what the driver says of it."""


class Driver:
    """The driver's functions with their types set, each checked when called.

    Raises:
        BackendMissingError: a function is missing: the driver is older than CUDA 11.4.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, types in SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                message = f"the CUDA driver has no {name}: it is older than CUDA 11.4; {DRIVER_HELP}"
                raise BackendMissingError(message) from error
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function

    def status(self, name: str, *arguments: Any) -> int:
        """Calls and gives the driver's code."""
        return int(self._functions[name](*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        """Calls. Raises CudaError."""
        if code := self.status(name, *arguments):
            raise CudaError(f"{name}: error {code}: {self.text(code)}")

    def text(self, code: int) -> str:
        """What the driver says of a code."""
        text = c_char_p()
        self.status("cuGetErrorString", code, byref(text))
        return (text.value or b"unknown").decode(errors="replace")

    def integer(self, name: str, *arguments: Any) -> int:
        """Calls a function whose first argument takes an int out."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value


def load_library() -> Any:
    """The driver's library. Raises BackendMissingError."""
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise BackendMissingError(f"no CUDA driver here ({', '.join(LIBRARIES)} not found); {DRIVER_HELP}")


def count_nodes(driver: Driver, graph: c_void_p) -> Counter[str]:
    """The kinds of a graph's nodes, of those in child graphs too."""
    size = c_size_t()
    driver.call("cuGraphGetNodes", graph, None, byref(size))
    nodes = (c_void_p * max(size.value, 1))()
    driver.call("cuGraphGetNodes", graph, ctypes.cast(nodes, _POINTER), byref(size))
    kinds: Counter[str] = Counter()
    for node in nodes[: size.value]:
        found = c_int()
        driver.call("cuGraphNodeGetType", node, byref(found))
        kind = found.value
        if kind == _CHILD:
            child = c_void_p()
            driver.call("cuGraphChildGraphNodeGetGraph", node, byref(child))
            kinds += count_nodes(driver, child)
        else:
            name = _NODES[kind] if kind < len(_NODES) else f"kind {kind}"
            kinds[f"memcpy {_direction(driver, node)}" if kind == _MEMCPY else name] += 1
    return kinds


def _direction(driver: Driver, node: int | None) -> str:
    """From where to where a copy node goes."""
    copy = _Memcpy3D()
    if driver.status("cuGraphMemcpyNodeGetParams", node, byref(copy)):
        return "of unknown direction"
    ends = ((copy.src_type, copy.src_host, copy.src_device), (copy.dst_type, copy.dst_host, copy.dst_device))
    return " to ".join("host" if _is_host(driver, *end) else "device" for end in ends)


def _is_host(driver: Driver, kind: int, host: int | None, device: int) -> bool:
    if kind != _UNIFIED:
        return kind == _HOST
    found = c_uint()
    # Memory that the driver does not know is the host's own.
    unknown = driver.status("cuPointerGetAttribute", byref(found), _MEMORY_TYPE, device or host or 0)
    return bool(unknown) or found.value == _HOST
