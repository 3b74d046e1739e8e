"""Device memory and number formats for the kernel tests: NumPy in, NumPy out, nothing of a framework.

Every buffer starts as NaN in every element and carries guard bytes at both ends, so that an element that a kernel did
not write, or one that it should not have written, shows in the result.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_void_p
from typing import Protocol

import numpy as np
from kernels import toolkit
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, Library, Params
from numpy.typing import NDArray

GUARD = 256  # bytes at either end of a buffer; keeps its start aligned
POISON = 0xFF  # repeated, a NaN in float32, float16 and bfloat16
STORAGE: dict[int, type[np.generic]] = {FLOAT32: np.float32, FLOAT16: np.float16, BFLOAT16: np.uint16}


def encode(values: NDArray[np.float64], dtype: int) -> NDArray[np.generic]:
    """To the bits that a kernel reads; bfloat16, which NumPy lacks, as uint16, rounded to nearest even."""
    if dtype != BFLOAT16:
        return values.astype(STORAGE[dtype])
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode(stored: NDArray[np.generic]) -> NDArray[np.float64]:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def rounded(values: NDArray[np.float64], dtype: int) -> NDArray[np.float64]:
    return decode(encode(values, dtype))


def relative_error(out: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """||out - ref|| / ||ref||. NaN, where something was not written, stays NaN and passes no bound."""
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


class Memory(Protocol):
    def allocate(self, size: int) -> int: ...
    def free(self, address: int) -> None: ...
    def upload(self, address: int, data: NDArray[np.uint8]) -> None: ...
    def download(self, address: int, size: int) -> NDArray[np.uint8]: ...
    def synchronize(self) -> None: ...


class HostMemory:
    """For the emulator, whose device is the CPU."""

    def __init__(self) -> None:
        self._blocks: dict[int, NDArray[np.uint8]] = {}

    def allocate(self, size: int) -> int:
        block = np.empty(size + 256, np.uint8)
        address = (block.ctypes.data + 255) // 256 * 256
        self._blocks[address] = block
        return address

    def free(self, address: int) -> None:
        del self._blocks[address]

    def upload(self, address: int, data: NDArray[np.uint8]) -> None:
        ctypes.memmove(address, data.ctypes.data, data.nbytes)

    def download(self, address: int, size: int) -> NDArray[np.uint8]:
        data = np.empty(size, np.uint8)
        ctypes.memmove(data.ctypes.data, address, size)
        return data

    def synchronize(self) -> None:
        pass


def _find_cudart() -> str:
    """The CUDA runtime of $AIM_CUDART, the dynamic linker, the toolkit that nvcc is from, or a wheel."""
    candidates = [os.environ.get("AIM_CUDART", ""), "libcudart.so.13", "libcudart.so.12", "libcudart.so"]
    candidates += toolkit.runtime_libraries()
    for candidate in filter(None, candidates):
        try:
            ctypes.CDLL(candidate)
            return candidate
        except OSError:
            continue
    raise RuntimeError(f"no CUDA runtime among {candidates}; name one in AIM_CUDART")


class CudaMemory:
    """The CUDA runtime through ctypes. Every return code is checked."""

    def __init__(self) -> None:
        self.runtime = ctypes.CDLL(_find_cudart())
        self.runtime.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int()
        self.check("cudaGetDeviceCount", ctypes.byref(count))
        if count.value < 1:
            raise RuntimeError("no CUDA device; the gpu tests need one")

    def check(self, name: str, *arguments: object) -> None:
        code = getattr(self.runtime, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} returned {code}: {self.runtime.cudaGetErrorString(code).decode()}")

    @contextmanager
    def captured(self, library: Library, name: str, params: Params) -> Iterator[Callable[[], None]]:
        """A CUDA graph of an operator's call; what is yielded replays it and waits."""
        stream, graph, instance = c_void_p(), c_void_p(), c_void_p()
        self.check("cudaStreamCreate", ctypes.byref(stream))
        self.check("cudaStreamBeginCapture", stream, 2)  # relaxed: the default stream is in use by others
        library.call(name, params, stream.value or 0)
        self.check("cudaStreamEndCapture", stream, ctypes.byref(graph))
        self.check("cudaGraphInstantiate", ctypes.byref(instance), graph, ctypes.c_ulonglong(0))

        def replay() -> None:
            self.check("cudaGraphLaunch", instance, stream)
            self.check("cudaStreamSynchronize", stream)

        yield replay
        self.check("cudaGraphExecDestroy", instance)
        self.check("cudaGraphDestroy", graph)
        self.check("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> int:
        address = c_void_p()
        self.check("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        self.check("cudaFree", c_void_p(address))

    def upload(self, address: int, data: NDArray[np.uint8]) -> None:
        self.check("cudaMemcpy", c_void_p(address), c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes), 1)

    def download(self, address: int, size: int) -> NDArray[np.uint8]:
        data = np.empty(size, np.uint8)
        self.check("cudaMemcpy", c_void_p(data.ctypes.data), c_void_p(address), ctypes.c_size_t(size), 2)
        return data

    def synchronize(self) -> None:
        self.check("cudaDeviceSynchronize")
        self.check("cudaGetLastError")


class Buffer:
    """A block of device memory of one element type, between guards."""

    def __init__(
        self, memory: Memory, shape: tuple[int, ...], storage: type[np.generic], poisoned: bool = True
    ) -> None:
        self._memory = memory
        self.poisoned = poisoned
        self.shape = shape
        self.dtype = np.dtype(storage)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self._address = memory.allocate(self.nbytes + 2 * GUARD)
        if poisoned:
            memory.upload(self._address, np.full(self.nbytes + 2 * GUARD, POISON, np.uint8))
        self.pointer = self._address + GUARD

    def at(self, element: int) -> int:
        return self.pointer + element * self.dtype.itemsize

    def fill(self, stored: NDArray[np.generic]) -> None:
        assert stored.shape == self.shape and stored.dtype == self.dtype, (stored.shape, stored.dtype, self.shape)
        self._memory.upload(self.pointer, np.ascontiguousarray(stored).view(np.uint8).reshape(-1))

    def read(self) -> NDArray[np.generic]:
        everything = self._memory.download(self._address, self.nbytes + 2 * GUARD)
        guards = np.concatenate([everything[:GUARD], everything[GUARD + self.nbytes :]])
        assert (guards == POISON).all(), "a kernel wrote outside its output"
        return everything[GUARD : GUARD + self.nbytes].view(self.dtype).reshape(self.shape)


class Device:
    """A library, the memory it works on, and the buffers of one test, which go when the test is over."""

    def __init__(self, library: Library, memory: Memory, emulated: bool) -> None:
        self.library = library
        self.memory = memory
        self.emulated = emulated
        self._buffers: list[Buffer] = []

    def empty(self, shape: tuple[int, ...], dtype: int) -> Buffer:
        buffer = Buffer(self.memory, shape, STORAGE[dtype])
        self._buffers.append(buffer)
        return buffer

    def plain(self, shape: tuple[int, ...], storage: type[np.generic]) -> Buffer:
        """Of any NumPy type: codes, positions, pixels."""
        buffer = Buffer(self.memory, shape, storage)
        self._buffers.append(buffer)
        return buffer

    def scratch(self, size: int) -> Buffer:
        """Workspace of `size` bytes. For initcheck it is not even poisoned: that would count as written."""
        buffer = Buffer(self.memory, (size,), np.uint8, poisoned="AIM_KERNELS_INITCHECK" not in os.environ)
        self._buffers.append(buffer)
        return buffer

    def array(self, values: NDArray[np.float64], dtype: int) -> Buffer:
        buffer = self.empty(values.shape, dtype)
        buffer.fill(encode(values, dtype))
        return buffer

    def mask(self, active: NDArray[np.bool_]) -> Buffer:
        buffer = Buffer(self.memory, active.shape, np.int32)
        self._buffers.append(buffer)
        buffer.fill(active.astype(np.int32))
        return buffer

    def run(self, name: str, params: Params) -> None:
        self.library.call(name, params)
        self.memory.synchronize()
        for buffer in self._buffers:
            if buffer.dtype == np.uint8 and buffer.poisoned:
                buffer.read()  # for its guards

    def release(self) -> None:
        for buffer in self._buffers:
            self.memory.free(buffer._address)
        self._buffers.clear()
