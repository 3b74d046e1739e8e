"""The decode session on TensorRT.

Everything lies in one arena on the device: the state twice, read from one half and written to the other, the
condition, the logits, and what the draw of a code reads and writes. With the sampler on the device a step is one
launch of a CUDA graph, and token and position are fed back where they lie; the host waits only where `decode` yields.

A session has a stream and contexts of its own, so that sessions of one backend may run in several threads, one thread
a session at a time. Every method makes the device current in the thread that calls it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arena import Snapshot, check_snapshot, from_snapshot, to_snapshot
from ..checks import check_image_index, check_integer, check_integers, check_labels
from ..contract import StateSpec
from ..cuda import Stream
from ..decode import check_decode, decode_on_host
from ..errors import EngineError, NonFiniteError
from ..sampler import SamplingConfig
from .trt_api import Context
from .trt_kernels import SampleParams, Sampling
from .trt_loop import DeviceLoop, StepRun
from .trt_memory import Arena, choose_profile, tensor_bytes, tensor_shape
from .trt_scan import Scan

if TYPE_CHECKING:
    from .tensorrt import TrtBackend

_DEVICE_STRIDE = 16  # codes between two looks of the host: rare enough to cost nothing, often enough to show


class TrtSession:
    """See `backends.Session`. Build it with `TrtBackend.session`."""

    def __init__(self, backend: TrtBackend, batch: int, *, loop: bool = True) -> None:
        self.batch = batch
        self.stride = 1 if backend.kernels is None else _DEVICE_STRIDE
        self._backend = backend
        self._dims = backend.contract.dims
        self._states = backend.contract.states
        self._current = 0  # half of the state that is read next
        self._next = 0  # position of the next step on the device
        self._conditioned = False
        self._closed = False
        self._arena: Arena | None = None
        self._stream: Stream | None = None
        self._contexts: list[Context] = []
        self._loop: DeviceLoop | None = None
        self._scan: Scan | None = None
        self._logits = np.empty((2 * batch, self._dims.vocab_size), np.float32)
        self._fetched = np.zeros((batch, self._dims.num_tokens), np.int32)
        self._status = np.zeros(batch, np.int32)
        try:
            self._allocate()
            if backend.kernels is not None and loop:
                self._prepare_loop()
        except BaseException:
            self.close()
            raise

    def _allocate(self) -> None:
        """Stream, memory, contexts; the memory that the loop reads is zeroed."""
        backend, batch = self._backend, self.batch
        backend.device.make_current()
        step, condition = backend.engine("step"), backend.engine("condition")
        chosen = [choose_profile(backend.batches(engine), batch) for engine in (step, condition)]
        scratch = max(step.scratch_bytes(chosen[0]), condition.scratch_bytes(chosen[1]))
        self._stream = stream = backend.device.stream()
        self._aliased = aliased = step.aliased_outputs(self._states) | backend.updated_in_place()
        self._arena = arena = Arena(backend.device, f"a session of batch {batch}", self._plan(scratch, aliased))
        for engine, profile in zip((step, condition), chosen, strict=True):
            context = engine.context(profile, arena.at["scratch"], arena.size["scratch"], stream)
            self._contexts.append(context)
            spec = backend.contract.graphs[engine.graph]
            for tensor in spec.inputs:
                context.set_shape(tensor.name, tensor_shape(tensor, batch))
            for tensor in (*spec.inputs, *spec.outputs):
                if tensor.name in arena.at:
                    context.bind(tensor.name, arena.at[tensor.name])
        self._halves = [
            (arena.at[state.input], arena.at[state.input if state.output in aliased else state.output])
            for state in self._states
        ]
        names = ((state.input, state.output) for state in self._states)
        states = [(*pair, halves) for pair, halves in zip(names, self._halves, strict=True)]
        self._step = StepRun(self._contexts[0], states, stream)
        self._clear()
        self._upload_sampling(SamplingConfig(), 0, check_image_index(None, batch))
        stream.synchronize()

    def _plan(self, scratch: int, aliased: set[str]) -> list[tuple[str, str, int]]:
        graphs, batch, dims = self._backend.contract.graphs, self.batch, self._dims
        plan = [("condition", t.name, tensor_bytes(t, batch)) for t in graphs["condition"].inputs]
        plan += [("condition", t.name, tensor_bytes(t, batch)) for t in graphs["condition"].outputs]
        plan += [("states", state.input, self._state_bytes(state)) for state in self._states]
        plan += [("states", s.output, self._state_bytes(s)) for s in self._states if s.output not in aliased]
        plan.append(("logits", "logits", self._logits.nbytes))
        columns = {"token": 4, "position": 4, "tokens": 4 * dims.num_tokens, "image_index": 8, "status": 4}
        plan += [("sampling", name, batch * size) for name, size in columns.items()]
        plan.append(("sampling", "sampling", ctypes.sizeof(Sampling)))
        plan.append(("scratch", "scratch", scratch))
        return plan

    def _state_bytes(self, state: StateSpec) -> int:
        return 2 * self.batch * math.prod(state.shape) * np.dtype(state.dtype).itemsize

    def _prepare_loop(self) -> None:
        kernels, arena, stream = self._backend.kernels, self._open_arena(), self._open_stream()
        if kernels is None:
            raise EngineError("there is no kernel library to draw with")
        names = ("logits", "sampling", "image_index", "token", "position", "tokens", "status")
        addresses = {name: arena.at[name] for name in names}
        dims = self._dims
        params = SampleParams(batch=self.batch, vocab_size=dims.vocab_size, num_tokens=dims.num_tokens, **addresses)
        self._loop = DeviceLoop(self._step, kernels, params, stream)
        self._loop.prepare(self._backend.options.cuda_graph, self._clear)
        self._backend.graphs_reason = self._loop.reason

    def _clear(self) -> None:
        """Enqueues zeroing the states, and what the draw reads and writes but the settings."""
        arena, stream = self._open_arena(), self._open_stream()
        for state, addresses in zip(self._states, self._halves, strict=True):
            for address in set(addresses):
                stream.zero(address, self._state_bytes(state))
        for name in ("token", "position", "tokens", "status"):
            stream.zero(arena.at[name], arena.size[name])

    def _open_arena(self) -> Arena:
        if self._arena is None or self._closed:
            raise RuntimeError("this session is closed")
        return self._arena

    def _open_stream(self) -> Stream:
        if self._stream is None or self._closed:
            raise RuntimeError("this session is closed")
        return self._stream

    def _enter(self) -> tuple[Arena, Stream]:
        """What a call works with, the device being current in its thread. Raises RuntimeError when closed."""
        arena, stream = self._open_arena(), self._open_stream()
        self._backend.device.make_current()
        return arena, stream

    def set_condition(self, class_ids: ArrayLike) -> None:
        """See `Session`. Raises ValueError or TypeError on bad ids, EngineError when the graph fails."""
        labels = check_labels("class_ids", class_ids, self._dims.num_classes + 1)
        if len(labels) != self.batch:
            raise ValueError(f"class_ids has {len(labels)} entries; this session has batch {self.batch}")
        arena, stream = self._enter()
        stream.copy_in(arena.at["class_ids"], labels)
        self._contexts[1].enqueue(stream)
        stream.synchronize()
        self._conditioned = True

    def reset(self) -> None:
        """See `Session`. The next step of `launch_steps` is the first."""
        _, stream = self._enter()
        self._clear()
        stream.synchronize()
        self._next = 0

    def step(self, token: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """See `Session`. When the engine fails, the state is that before the step."""
        fed = check_integers("token", token, (self.batch,), self._dims.vocab_size)
        at = self._check_position(position, 1)
        arena, stream = self._enter()
        stream.copy_in(arena.at["token"], fed)
        stream.copy_in(arena.at["position"], at)
        self._step.enqueue(self._current)
        stream.copy_out(self._logits, arena.at["logits"])
        stream.synchronize()
        self._current = 1 - self._current
        return self._logits

    def scan(self, tokens: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """See `Session`. Goes in pieces that the engine's profile and 256 MB of logits hold.

        When the engine fails, what was scanned before the failing piece is part of the state.
        """
        given = check_integers("tokens", tokens, (self.batch, None), self._dims.vocab_size)
        length = given.shape[1]
        first = self._check_position(position, length)
        arena, stream = self._enter()
        if self._scan is None:
            self._scan = Scan(self._backend, self.batch, stream, arena, self._aliased)
        logits = np.empty((2 * self.batch, length, self._dims.vocab_size), np.float32)
        start = 0
        while start < length:
            count = self._scan.piece(length - start)
            end = start + max(count, 1)
            if count:
                addresses = [(halves[self._current], halves[1 - self._current]) for halves in self._halves]
                part = self._scan.run(given[:, start:end], first + np.int32(start), addresses)
                self._current = 1 - self._current
            else:  # shorter than the engine takes
                part = self.step(given[:, start], first + np.int32(start))[:, None]
            logits[:, start:end] = part
            start = end
        return logits

    def _check_position(self, position: ArrayLike, length: int) -> NDArray[np.int32]:
        """(B) positions of which `length` codes, at least one, still fit; after a condition was set."""
        self._check_conditioned()
        if not 1 <= length <= self._dims.num_tokens:
            raise ValueError(f"tokens has {length} columns; allowed: 1..{self._dims.num_tokens}")
        spread = np.broadcast_to(np.asarray(position), (self.batch,)) if np.ndim(position) == 0 else position
        return check_integers("position", spread, (self.batch,), self._dims.num_tokens - length + 1)

    def _check_conditioned(self) -> None:
        if not self._conditioned:
            raise RuntimeError("set_condition comes before the first step or scan")

    def snapshot(self) -> Snapshot:
        """See `Session`."""
        _, stream = self._enter()
        found: Snapshot = {}
        for state, halves in zip(self._states, self._halves, strict=True):
            array = np.empty((2 * self.batch, *state.shape), state.dtype)
            stream.copy_out(array, halves[self._current])
            stream.synchronize()
            found |= to_snapshot(state, array)
        return found

    def restore(self, snapshot: Snapshot) -> None:
        """See `Session`. Raises ValueError where it does not fit."""
        check_snapshot(self._states, 2 * self.batch, snapshot)
        _, stream = self._enter()
        for state, halves in zip(self._states, self._halves, strict=True):
            array = np.ascontiguousarray(from_snapshot(state, snapshot), state.dtype)
            stream.copy_in(halves[self._current], array)
            stream.synchronize()

    def decode(
        self, sampling: SamplingConfig, seed: int, image_index: NDArray[np.uint64], tokens: NDArray[np.int32],
        start: int, every: int,
    ) -> Iterator[int]:  # fmt: skip
        """See `Session`. Raises NonFiniteError naming image and step; EngineError."""
        if self._loop is None:
            yield from decode_on_host(self, self._dims.vocab_size, sampling, seed, image_index, tokens, start, every)
            return
        check_decode(self.batch, tokens, start, every)
        self._check_conditioned()
        length = self._dims.num_tokens
        if tokens.shape[1] != length:
            raise ValueError(f"tokens has {tokens.shape[1]} columns; expected {length}")
        self._begin(sampling, seed, image_index, tokens, start)
        known = start
        while known < length:
            steps = min(every, length - known)
            self._advance(self._loop, steps)
            known += steps
            self._fetch(image_index)
            tokens[:, start:known] = self._fetched[:, start:known]
            yield known
            self._enter()  # whoever goes on may be another thread

    def _begin(
        self, sampling: SamplingConfig, seed: int, image_index: NDArray[np.uint64], tokens: NDArray[np.int32],
        start: int,
    ) -> None:  # fmt: skip
        arena, stream = self._enter()
        self._upload_sampling(sampling, seed, check_image_index(image_index, self.batch))
        fed = tokens[:, start - 1] if start else np.zeros(self.batch, np.int32)
        stream.copy_in(arena.at["token"], check_integers("tokens", fed, (self.batch,), self._dims.vocab_size))
        stream.copy_in(arena.at["position"], np.full(self.batch, start, np.int32))
        stream.zero(arena.at["status"], arena.size["status"])
        self._next = start

    def _upload_sampling(self, config: SamplingConfig, seed: int, image_index: NDArray[np.uint64]) -> None:
        arena, stream = self._open_arena(), self._open_stream()
        settings = Sampling.of(config, check_integer("seed", seed, 0, 2**64 - 1))
        stream.copy_in(arena.at["sampling"], np.frombuffer(bytes(settings), np.uint8))
        stream.copy_in(arena.at["image_index"], np.ascontiguousarray(image_index))

    def _advance(self, loop: DeviceLoop, steps: int) -> None:
        loop.run(self._current, steps)
        self._current ^= steps % 2
        self._next += steps

    def _fetch(self, image_index: NDArray[np.uint64]) -> None:
        """Waits, and takes the codes that are known. Raises NonFiniteError."""
        arena, stream = self._open_arena(), self._open_stream()
        stream.copy_out(self._fetched, arena.at["tokens"])
        stream.copy_out(self._status, arena.at["status"])
        stream.synchronize()
        bad = np.flatnonzero(self._status)
        if bad.size:
            image = int(bad[0])
            raise NonFiniteError(
                f"row {image} (image index {image_index[image]}): the largest guided logit of step "
                f"{int(self._status[image]) - 1} is not finite; the engine overflowed"
            )

    def launch_steps(self, count: int) -> None:
        """Enqueues `count` steps with their draws and does not wait: for benchmarks.

        Steps go on from where `reset` or `decode` left off, with the settings of the last `decode`.

        Raises:
            ValueError: more steps than codes are left.
            EngineError: the sampler is on the host.
        """
        self._enter()
        self._check_conditioned()
        if self._loop is None:
            raise EngineError("launch_steps needs the sampler on the device; open the backend with sampler='device'")
        check_integer("count", count, 0, self._dims.num_tokens - self._next)
        self._advance(self._loop, count)

    def synchronize(self) -> None:
        """Waits for all that was enqueued. Raises EngineError where any of it failed."""
        self._enter()[1].synchronize()

    def graph_nodes(self) -> list[dict[str, int]]:
        """How many nodes of which kind the captured graphs have, one dict a half of the state; [] without graphs."""
        return [dict(graph.nodes) for graph in self._loop.graphs] if self._loop is not None else []

    def profile_layers(self, repeats: int) -> list[list[tuple[str, float]]]:
        """Names and milliseconds of the step's layers in execution order, one list a run; moves the state."""
        _, stream = self._enter()
        runs: list[list[tuple[str, float]]] = []
        self._step.enqueue(self._current)  # what a first call sets up is not timed
        stream.synchronize()
        self._contexts[0].profile(lambda name, milliseconds: runs[-1].append((name, milliseconds)))
        for _ in range(repeats):
            runs.append([])
            self._step.enqueue(self._current)
            stream.synchronize()
        return runs

    def memory(self) -> dict[str, int]:
        """Device bytes by use; {} when closed."""
        used = {} if self._arena is None else dict(self._arena.uses)
        return used if self._scan is None else used | self._scan.memory()

    def close(self) -> None:
        """Frees everything; waits for what was enqueued. May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._stream is not None:
            with contextlib.suppress(EngineError, RuntimeError):  # what failed is freed all the same
                self._backend.device.make_current()
                self._stream.synchronize()
        for part in (self._loop, self._scan, *self._contexts, self._arena, self._stream):
            if part is not None:
                part.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
