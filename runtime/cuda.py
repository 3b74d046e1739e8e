"""As much of the CUDA driver as a decode loop needs, by ctypes: devices, memory, one stream, captured graphs.

The driver is on every machine with a GPU; the toolkit and CUDA's Python packages may not be. The device's primary
context is used, which engines' runtimes use too. A context is current in one thread at a time by its own act: whoever
goes on in another thread calls `Device.make_current` first.

Everything that is allocated here is freed by its `close`, or by that of its device. `__del__` does the same, so that
an object that was dropped on the way holds nothing, but no code of ours relies on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_ubyte, c_uint64, c_void_p
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .cuda_driver import DRIVER_HELP, CudaError, Driver, count_nodes, load_library
from .errors import BackendMissingError, EngineError

Array = NDArray[Any]
Item = TypeVar("Item")

ALIGNMENT = 512  # of device memory, as engines want their scratch memory

_OUT_OF_MEMORY = 2
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76  # CUdevice_attribute
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: the default stream's work of others is not waited for
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: an engine may ask the driver things while it is captured


class DeviceMemoryError(EngineError):
    """Device memory ran out; what was being made has given back all that it had.

    Attributes:
        asked: bytes that were asked for; 0 where the engine's library asked and does not tell.
        free: bytes that were free then.
        total: bytes that the device has.
    """

    def __init__(self, what: str, asked: int, free: int, total: int) -> None:
        self.asked, self.free, self.total = asked, free, total
        needs = f"{what} needs {megabytes(asked)}" if asked else what
        super().__init__(
            f"out of device memory: {needs}; {megabytes(free)} of {megabytes(total)} are free; "
            "a smaller batch needs less"
        )


def megabytes(size: int) -> str:
    """A size in bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size} bytes"


class Device:
    """One GPU. Its primary context is taken when it is first made current, and kept for the rest of the process:
    engines' runtimes and kernel libraries have state of their own in it.

    Attributes:
        ordinal: its number.
        name: such as "NVIDIA H100 80GB HBM3".
        sm: its architecture, such as "sm90".
        driver_version: of CUDA, such as "12.8".

    Raises:
        BackendMissingError: no driver, no GPU, or none of that number.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._context: c_void_p | None = None
        self._closed = False
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()
        self.driver = driver = Driver(load_library())
        if code := driver.status("cuInit", 0):
            raise BackendMissingError(f"the CUDA driver finds no usable GPU ({driver.text(code)}); {DRIVER_HELP}")
        count = driver.integer("cuDeviceGetCount")
        if ordinal >= count:
            raise BackendMissingError(f"device_id is {ordinal}; the CUDA driver finds {count} GPUs, numbered from 0")
        version = driver.integer("cuDriverGetVersion")
        self.driver_version = f"{version // 1000}.{version % 1000 // 10}"
        self.ordinal = driver.integer("cuDeviceGet", ordinal)
        name = ctypes.create_string_buffer(256)
        driver.call("cuDeviceGetName", name, len(name), self.ordinal)
        self.name = name.value.decode(errors="replace")
        kinds = (_COMPUTE_MAJOR, _COMPUTE_MINOR)
        self.sm = "sm{}{}".format(*(driver.integer("cuDeviceGetAttribute", kind, self.ordinal) for kind in kinds))

    def make_current(self) -> None:
        """Lets the calling thread use the device. Raises RuntimeError where it was closed."""
        if self._closed:
            raise RuntimeError("the device is closed; open the backend again")
        if self._context is None:
            context = c_void_p()
            self.driver.call("cuDevicePrimaryCtxRetain", byref(context), self.ordinal)
            self._context = context
        self.driver.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = c_size_t(), c_size_t()
        self.make_current()
        self.driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def alloc(self, size: int, what: str) -> DeviceMemory:
        """Device memory, not zeroed.

        Args:
            size: bytes.
            what: it is for, for the message.

        Raises:
            DeviceMemoryError: there is not enough.
        """
        self.make_current()
        pointer = c_uint64()
        code = self.driver.status("cuMemAlloc_v2", byref(pointer), max(size, 1))
        if code == _OUT_OF_MEMORY:
            raise DeviceMemoryError(what, size, *self.memory())
        if code:
            raise CudaError(f"cuMemAlloc_v2: error {code}: {self.driver.text(code)}")
        return self.own(DeviceMemory(self, pointer.value, size))

    def pinned(self, size: int) -> PinnedMemory:
        """Host memory that the device copies to and from at full speed. Raises CudaError."""
        self.make_current()
        pointer = c_void_p()
        self.driver.call("cuMemAllocHost_v2", byref(pointer), max(size, 1))
        return self.own(PinnedMemory(self, int(pointer.value or 0), size))

    def stream(self) -> Stream:
        """A new stream."""
        self.make_current()
        handle = c_void_p()
        self.driver.call("cuStreamCreate", byref(handle), _NON_BLOCKING)
        return self.own(Stream(self, int(handle.value or 0)))

    def own(self, item: Item) -> Item:
        """Closes `item` when the device is closed."""
        self._live.add(item)
        return item

    def release(self, name: str, handle: int) -> None:
        """Calls what frees a handle."""
        self.driver.call("cuCtxSetCurrent", self._context)
        self.driver.call(name, handle)

    def close(self) -> None:
        """Frees all that is left of what was made on it. May be called again."""
        for item in list(self._live):
            item.close()
        self._closed = True

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class _Handle:
    """What is freed once, by its `close`."""

    _free = ""

    def __init__(self, device: Device, handle: int) -> None:
        self.device = device
        self._value = handle

    @property
    def handle(self) -> int:
        """As the driver knows it. Raises RuntimeError where it was closed."""
        if not self._value:
            raise RuntimeError(f"{type(self).__name__} is closed")
        return self._value

    def close(self) -> None:
        """Frees it. May be called again."""
        handle, self._value = self._value, 0
        if handle:
            self.device.release(self._free, handle)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class DeviceMemory(_Handle):
    """`size` bytes on the device at `handle`."""

    _free = "cuMemFree_v2"

    def __init__(self, device: Device, handle: int, size: int) -> None:
        super().__init__(device, handle)
        self.size = size


class PinnedMemory(_Handle):
    """`size` bytes of the host at `handle`. Nobody may hold `view`s when it is closed."""

    _free = "cuMemFreeHost"

    def __init__(self, device: Device, handle: int, size: int) -> None:
        super().__init__(device, handle)
        self.size = size

    def view(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The memory's beginning as an array."""
        memory = (c_ubyte * self.size).from_address(self.handle)
        view: Array = np.ctypeslib.as_array(memory)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return view[:size].view(dtype).reshape(shape)


class Graph(_Handle):
    """A captured graph, ready to launch.

    Attributes:
        nodes: how many nodes of which kind it has: "kernel", "memset", "alloc", "memcpy device to device", ...
    """

    _free = "cuGraphExecDestroy"

    def __init__(self, device: Device, handle: int, nodes: dict[str, int]) -> None:
        super().__init__(device, handle)
        self.nodes = nodes


class Stream(_Handle):
    """A queue of work on the device."""

    _free = "cuStreamDestroy_v2"

    def __init__(self, device: Device, handle: int) -> None:
        super().__init__(device, handle)
        self._sources: list[Array] = []  # a driver that can read ordinary memory may do so until it was waited for

    def copy_in(self, target: int, array: Array) -> None:
        """Enqueues a copy of a contiguous array to the device; it stays as it is until `synchronize`."""
        if not array.flags.c_contiguous:
            raise ValueError("array is not contiguous; expected one that is")
        self._sources.append(array)
        self.device.driver.call("cuMemcpyHtoDAsync_v2", target, array.ctypes.data, array.nbytes, self.handle)

    def copy_out(self, array: Array, source: int) -> None:
        """Enqueues a copy from the device into a contiguous array; it is there after `synchronize`."""
        if not array.flags.c_contiguous:
            raise ValueError("array is not contiguous; expected one that is")
        self.device.driver.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, source, array.nbytes, self.handle)

    def copy(self, target: int, source: int, size: int) -> None:
        """Enqueues a copy of `size` bytes within the device."""
        self.device.driver.call("cuMemcpyDtoDAsync_v2", target, source, size, self.handle)

    def zero(self, target: int, size: int) -> None:
        """Enqueues zeroing `size` bytes."""
        if size:
            self.device.driver.call("cuMemsetD8Async", target, 0, size, self.handle)

    def synchronize(self) -> None:
        """Waits for all that was enqueued. Raises CudaError where any of it failed."""
        self.device.driver.call("cuStreamSynchronize", self.handle)
        self._sources.clear()

    def launch(self, graph: Graph) -> None:
        """Enqueues a graph."""
        self.device.driver.call("cuGraphLaunch", graph.handle, self.handle)

    @contextmanager
    def captured(self) -> Iterator[list[Graph]]:
        """Records what is enqueued inside in place of running it; on leaving, the list holds the graph.

        Raises:
            CudaError: something inside cannot be captured. The stream is as before.
        """
        driver, made = self.device.driver, list[Graph]()
        driver.call("cuStreamBeginCapture_v2", self.handle, _RELAXED)
        graph, executable = c_void_p(), c_void_p()
        try:
            yield made
        except BaseException:
            driver.status("cuStreamEndCapture", self.handle, byref(graph))  # ends it, whatever it says
            if graph.value:
                driver.status("cuGraphDestroy", graph)
            raise
        driver.call("cuStreamEndCapture", self.handle, byref(graph))
        if not graph.value:
            raise CudaError("cuStreamEndCapture gave no graph: the capture was broken off")
        try:
            driver.call("cuGraphInstantiateWithFlags", byref(executable), graph, 0)
            made.append(self.device.own(Graph(self.device, int(executable.value or 0), {})))
            made[0].nodes.update(count_nodes(driver, graph))
        finally:
            driver.call("cuGraphDestroy", graph)
