"""As much of the CUDA driver as the proof needs, by ctypes: the driver is on every GPU host, the toolkit may not be."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class CudaError(RuntimeError):
    """A call of the driver that did not succeed."""


class Cuda:
    """Memory and one stream on the first device, in the primary context, which TensorRT's runtime uses too."""

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, 256, device)
        self.device = name.value.decode()
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self._stream = stream
        self._memory: dict[int, int] = {}

    @property
    def stream(self) -> int:
        return int(self._stream.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            raise CudaError(f"{name}: error {code}: {(text.value or b'unknown').decode()}")

    def alloc(self, size: int) -> int:
        """Zeroed device memory."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        self._memory[pointer.value] = size
        self.zero(pointer.value)
        return pointer.value

    def zero(self, pointer: int) -> None:
        size = ctypes.c_size_t(max(self._memory[pointer], 1))
        self._call("cuMemsetD8Async", ctypes.c_uint64(pointer), ctypes.c_ubyte(0), size, self._stream)
        self.synchronize()

    def free_all(self) -> None:
        for pointer in self._memory:
            self._call("cuMemFree_v2", ctypes.c_uint64(pointer))
        self._memory.clear()

    def upload(self, pointer: int, array: Array) -> None:
        data = np.ascontiguousarray(array)
        source, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), source, size, self._stream)
        self.synchronize()

    def download(self, pointer: int, shape: tuple[int, ...], dtype: str) -> Array:
        data = np.empty(shape, dtype)
        target, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(pointer), size, self._stream)
        self.synchronize()
        return data

    def synchronize(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    @contextmanager
    def captured(self) -> Iterator[list[ctypes.c_void_p]]:
        """Records what is enqueued inside; on leaving, the list holds the graph that `launch` takes."""
        made: list[ctypes.c_void_p] = []
        self._call("cuStreamBeginCapture_v2", self._stream, 2)  # relaxed: TensorRT may ask the driver things
        yield made
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        made.append(executable)

    def launch(self, graph: ctypes.c_void_p) -> None:
        self._call("cuGraphLaunch", graph, self._stream)
