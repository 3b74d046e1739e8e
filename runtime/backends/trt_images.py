"""The image tokenizer's engines: codes to images and back, in batches that the profiles hold."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..cuda import PinnedMemory, Stream
from ..errors import NonFiniteError
from .trt_api import Context
from .trt_kernels import ImageParams, Kernels
from .trt_memory import Arena, choose_profile, padded_batch, tensor_bytes, tensor_shape

if TYPE_CHECKING:
    from .tensorrt import TrtBackend

Array = NDArray[Any]
Image8 = NDArray[np.uint8]


class ImageGraph:
    """One of the tokenizer's graphs, with memory for the largest batch seen so far. Calls wait for each other.

    Args:
        backend: has the engine.
        graph: "vq_decode" or "vq_encode".
    """

    def __init__(self, backend: TrtBackend, graph: str) -> None:
        self._backend = backend
        self._engine = backend.engine(graph)
        spec = backend.contract.graphs[graph]
        self._input, self._output = spec.inputs[0], spec.outputs[0]
        self._profiles = backend.batches(self._engine)
        self.largest = max(high for _, _, high in self._profiles)
        self._lock = threading.Lock()
        self._made: tuple[int, int] | None = None  # profile and batch that there is memory for
        self._stream: Stream | None = None
        self._arena: Arena | None = None
        self._context: Context | None = None
        self._pinned: list[PinnedMemory] = []

    def run(self, array: Array) -> Array:
        """The graph's output for (B, ...), any B: a new array. Raises EngineError, DeviceMemoryError."""
        with self._lock:
            parts = []
            for part in self._parts(array):
                arena, stream = self._enqueue(part)
                output = np.empty(tensor_shape(self._output, len(part)), self._output.dtype)
                stream.copy_out(output, arena.at["output"])
                stream.synchronize()
                parts.append(output)
            return np.concatenate(parts)

    def run_to_pixels(self, codes: Array, kernels: Kernels) -> Image8:
        """Codes (B, ...) to pixels (B, H, W, C), converted on the device.

        Raises:
            NonFiniteError: an image holds NaN or infinity.
            EngineError, DeviceMemoryError.
        """
        with self._lock:
            _, channels, height, width = tensor_shape(self._output, 1)
            pixels = np.empty((len(codes), height, width, channels), np.uint8)
            for i in range(0, len(codes), self.largest):
                self._pixels(codes[i : i + self.largest], pixels[i : i + self.largest], kernels)
            return pixels

    def _parts(self, array: Array) -> list[Array]:
        return [array[i : i + self.largest] for i in range(0, len(array), self.largest)] or [array]

    def _pixels(self, codes: Array, result: Image8, kernels: Kernels) -> None:
        arena, stream = self._enqueue(codes)
        batch, channels, height, width = tensor_shape(self._output, len(codes))
        stream.zero(arena.at["status"], 4 * batch)
        addresses = {"image": arena.at["output"], "pixels": arena.at["pixels"], "status": arena.at["status"]}
        params = ImageParams(batch=batch, channels=channels, height=height, width=width, **addresses)
        kernels.image_to_uint8(params, stream)
        pixels = self._pinned[0].view(result.shape, "uint8")
        status = self._pinned[1].view((batch,), "int32")
        stream.copy_out(pixels, arena.at["pixels"])
        stream.copy_out(status, arena.at["status"])
        result.fill(0)  # new memory is given a page at a time, on the first touch: meanwhile, rather than after
        stream.synchronize()
        if status.any():
            raise NonFiniteError(
                f"decoded image {int(np.flatnonzero(status)[0])} holds NaN or infinity; export vq_decode in float32"
            )
        result[:] = pixels

    def _enqueue(self, part: Array) -> tuple[Arena, Stream]:
        """Enqueues the engine for one part; its output begins at "output"."""
        batch = padded_batch(self._profiles, max(len(part), 1))
        self._backend.device.make_current()
        context, arena, stream = self._prepare(choose_profile(self._profiles, batch), batch)
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)]).astype(self._input.dtype)
        context.set_shape(self._input.name, padded.shape)
        stream.copy_in(arena.at["input"], np.ascontiguousarray(padded))
        context.enqueue(stream)
        return arena, stream

    def _prepare(self, profile: int, batch: int) -> tuple[Context, Arena, Stream]:
        if self._made is None or self._made[0] != profile or self._made[1] < batch:
            self.close()
            try:
                self._make(profile, batch)
            except BaseException:
                self.close()
                raise
        if self._context is None or self._arena is None or self._stream is None:
            raise RuntimeError("the tokenizer's memory is not there")
        return self._context, self._arena, self._stream

    def _make(self, profile: int, batch: int) -> None:
        device, scratch = self._backend.device, self._engine.scratch_bytes(profile)
        sizes = {"input": tensor_bytes(self._input, batch), "output": tensor_bytes(self._output, batch)}
        if self._output.dtype == "float32":  # images; codes need no pixels
            sizes["pixels"] = sizes["output"] // 4
            sizes["status"] = 4 * batch
        plan = [("images", name, size) for name, size in sizes.items()]
        plan.append(("images scratch", "scratch", scratch))
        self._stream = stream = device.stream()
        self._arena = arena = Arena(device, f"{self._engine.graph} of {batch} images", plan)
        self._context = context = self._engine.context(profile, arena.at["scratch"], scratch, stream)
        context.bind(self._input.name, arena.at["input"])
        context.bind(self._output.name, arena.at["output"])
        if "pixels" in sizes and self._backend.kernels is not None:
            self._pinned = [device.pinned(sizes["pixels"]), device.pinned(sizes["status"])]
        self._made = (profile, batch)

    def memory(self) -> dict[str, int]:
        """Device bytes by use."""
        return {} if self._arena is None else dict(self._arena.uses)

    def close(self) -> None:
        """Frees the memory. May be called again."""
        for part in (self._context, self._arena, *self._pinned, self._stream):
            if part is not None:
                part.close()
        self._made, self._context, self._arena, self._stream, self._pinned = None, None, None, None, []
