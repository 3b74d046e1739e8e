"""A CUDA driver in host memory: what the runtime's own ctypes calls reach in tests.

Its functions are ctypes callbacks of the very signatures that the runtime declares, so that a pointer that would be
cut or a value of the wrong type fails here too. Work runs when it is enqueued; a captured graph is a list of Python
callables. Memory is filled with 0xCD when it is handed out: whoever reads what nobody wrote is found out.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from aim_edge.runtime.cuda_driver import SIGNATURES

OUT_OF_MEMORY, INVALID, CAPTURE_INVALID, FAILED = 2, 1, 901, 719
KINDS = {"kernel": 0, "memcpy": 1, "memset": 2}
TEXTS = {OUT_OF_MEMORY: b"out of memory", INVALID: b"invalid argument", CAPTURE_INVALID: b"capture was invalidated",
         FAILED: b"unspecified launch failure"}  # fmt: skip
MEMCPY = ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2")
ALLOCATIONS = ("cuMemAlloc_v2", "cuMemAllocHost_v2")


class FakeCuda:
    """The driver.

    Attributes:
        limit: bytes that the device has.
        calls: how often each function was called.
        memory, pinned: what is allocated, by address.
        fail: function name -> code that it returns from now on.
    """

    def __init__(self, *, sm: tuple[int, int] = (9, 0), devices: int = 1, limit: int = 1 << 30) -> None:
        self.sm, self.devices, self.limit = sm, devices, limit
        self.calls: Counter[str] = Counter()
        self.memory: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[tuple[str, Callable[[], None]]] | None] = {}
        self.broken: set[int] = set()
        self.graphs: dict[int, list[tuple[str, Callable[[], None]]]] = {}
        self.executables: dict[int, list[tuple[str, Callable[[], None]]]] = {}
        self.contexts = 0
        self.current: int | None = None
        self.fail: dict[str, int] = {}
        self._handles = iter(range(0x7F00_0000_1000, 0x7FFF_0000_0000, 16))  # as long as a real pointer
        self._nodes: dict[int, str] = {}
        self.library = SimpleNamespace(**{name: self._export(name, types) for name, types in SIGNATURES.items()})

    def _export(self, name: str, types: tuple[Any, ...]) -> Any:
        def call(*arguments: Any) -> int:
            self.calls[name] += 1
            if name in self.fail:
                return self.fail[name]
            try:
                return getattr(self, name)(*arguments) or 0
            except Exception as error:  # a callback cannot raise
                self.error = error
                return FAILED

        # A callback gets a char pointer as bytes, which it could not write to.
        given = [ctypes.c_void_p if kind is ctypes.c_char_p else kind for kind in types]
        return ctypes.CFUNCTYPE(ctypes.c_int, *given)(call)

    @property
    def used(self) -> int:
        return sum(len(block) for block in self.memory.values())

    @property
    def is_clean(self) -> bool:
        """Whether everything that was made was freed; the primary context stays."""
        left = (self.memory, self.pinned, self.streams, self.graphs, self.executables)
        return not any(left)

    def enqueue(self, stream: int, kind: str, work: Callable[[], None]) -> None:
        """Runs work, or records it where the stream is being captured."""
        recorded = self.streams[stream]
        if recorded is None:
            work()
        else:
            recorded.append((kind, work))

    def is_capturing(self, stream: int) -> bool:
        return self.streams[stream] is not None

    def check(self, address: int, size: int) -> None:
        """Raises where `size` bytes at an address are not all in one allocation."""
        if not any(start <= address and address + size <= start + len(block) for start, block in self.memory.items()):
            raise ValueError(f"{size} bytes at {address:#x} are not device memory")

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Device memory as an array that shares it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.check(address, size)
        return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)

    # The driver's functions.

    def cuInit(self, flags: int) -> int:
        return 0 if self.devices else 100

    def cuGetErrorString(self, code: int, text: Any) -> None:
        text[0] = TEXTS.get(code, b"no CUDA-capable device is detected")

    def cuDriverGetVersion(self, version: Any) -> None:
        version[0] = 12080

    def cuDeviceGetCount(self, count: Any) -> None:
        count[0] = self.devices

    def cuDeviceGet(self, device: Any, ordinal: int) -> None:
        device[0] = ordinal

    def cuDeviceGetName(self, name: int, size: int, device: int) -> None:
        ctypes.memmove(name, b"Fake GPU\0", 9)

    def cuDeviceGetPCIBusId(self, text: int, size: int, device: int) -> None:
        ctypes.memmove(text, b"0000:3b:00.0\0", 13)

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> None:
        value[0] = self.sm[attribute - 75]

    def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> None:
        self.contexts += 1
        context[0] = 0x7F55_5555_0000

    def cuCtxSetCurrent(self, context: int) -> int:
        self.current = context
        return 0 if context == 0x7F55_5555_0000 else INVALID

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.limit - self.used, self.limit

    def cuMemAlloc_v2(self, pointer: Any, size: int) -> int:
        if self.used + size > self.limit:
            return OUT_OF_MEMORY
        pointer[0] = self._allocate(self.memory, size)
        return 0

    def _allocate(self, blocks: dict[int, Any], size: int) -> int:
        block = (ctypes.c_ubyte * size).from_buffer(bytearray(b"\xcd" * size))
        blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cuMemFree_v2(self, pointer: int) -> None:
        del self.memory[pointer]

    def cuMemAllocHost_v2(self, pointer: Any, size: int) -> None:
        pointer[0] = self._allocate(self.pinned, size)

    def cuMemFreeHost(self, pointer: int) -> None:
        del self.pinned[pointer]

    def cuMemsetD8Async(self, pointer: int, value: int, size: int, stream: int) -> None:
        self.check(pointer, size)
        self.enqueue(stream, "memset", lambda: ctypes.memset(pointer, value, size) and None)

    def cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.check(target, size)
        self._copy(target, source, size, stream)

    def cuMemcpyDtoHAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.check(source, size)
        self._copy(target, source, size, stream)

    def cuMemcpyDtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self.check(target, size)
        self.check(source, size)
        self._copy(target, source, size, stream)

    def _copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.enqueue(stream, "memcpy", lambda: ctypes.memmove(target, source, size) and None)

    def cuPointerGetAttribute(self, value: int, attribute: int, pointer: int) -> int:
        return INVALID

    def cuStreamCreate(self, stream: Any, flags: int) -> None:
        stream[0] = handle = next(self._handles)
        self.streams[handle] = None

    def cuStreamDestroy_v2(self, stream: int) -> None:
        del self.streams[stream]

    def cuStreamSynchronize(self, stream: int) -> int:
        return CAPTURE_INVALID if self.is_capturing(stream) else 0

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self.streams[stream] = []

    def cuStreamEndCapture(self, stream: int, graph: Any) -> int:
        recorded, self.streams[stream] = self.streams[stream], None
        if stream in self.broken or recorded is None:
            self.broken.discard(stream)
            graph[0] = None
            return CAPTURE_INVALID
        graph[0] = handle = next(self._handles)
        self.graphs[handle] = recorded
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: int, flags: int) -> None:
        executable[0] = handle = next(self._handles)
        self.executables[handle] = list(self.graphs[graph])

    def cuGraphLaunch(self, executable: int, stream: int) -> None:
        for _, work in self.executables[executable]:
            work()

    def cuGraphExecDestroy(self, executable: int) -> None:
        del self.executables[executable]

    def cuGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def cuGraphGetNodes(self, graph: int, nodes: Any, size: Any) -> None:
        size[0] = len(self.graphs[graph])
        for i, (kind, _) in enumerate(self.graphs[graph] if nodes else ()):
            nodes[i] = handle = next(self._handles)
            self._nodes[handle] = kind

    def cuGraphNodeGetType(self, node: int, kind: Any) -> None:
        kind[0] = KINDS[self._nodes[node]]

    def cuGraphMemcpyNodeGetParams(self, node: int, params: Any) -> None:
        params[0].src_type = params[0].dst_type = 2

    def cuGraphChildGraphNodeGetGraph(self, node: int, graph: Any) -> int:
        return INVALID
