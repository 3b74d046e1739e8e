"""A session's scan engine: its context, and memory that is allocated when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..cuda import Stream
from ..errors import EngineError
from .trt_api import Context
from .trt_memory import Arena, choose_profile, tensor_bytes, tensor_shape

if TYPE_CHECKING:
    from .tensorrt import TrtBackend

# Of one piece's logits: (2 B, L, V) float32 would be gigabytes for many images.
_LOGITS_LIMIT = 256 << 20


class Scan:
    """Scans a session's state, piece by piece.

    Args:
        backend: has the engine.
        batch: B.
        stream: the session's.
        shared: the session's memory, which holds the condition.
        aliased: outputs that the step engine writes in their inputs' places. Where this engine does not, it writes
            them apart, and they are copied.

    Raises:
        EngineError: there is no such engine, it does not load, or it writes other outputs in place.
        ValueError: no profile holds the batch.
    """

    def __init__(self, backend: TrtBackend, batch: int, stream: Stream, shared: Arena, aliased: set[str]) -> None:
        self._backend = backend
        self._batch = batch
        self._stream = stream
        self._shared = shared
        self._engine = backend.engine("scan")
        self._spec = backend.contract.graphs["scan"]
        found = self._engine.aliased_outputs(backend.contract.states)
        self._apart = [state for state in backend.contract.states if state.output in aliased - found]
        if found - aliased:
            raise EngineError(
                f"{self._engine.path}: writes {sorted(found)} in place, the step engine "
                f"{sorted(aliased)}; build both alike"
            )
        profiles = self._engine.profiles("tokens")
        self._profile = choose_profile([(low[0], best[0], high[0]) for low, best, high in profiles], batch)
        self.shortest, self.longest = profiles[self._profile][0][1], profiles[self._profile][2][1]
        column = 2 * batch * backend.contract.dims.vocab_size * 4
        self._limit = min(self.longest, max(self.shortest, _LOGITS_LIMIT // column, 1))
        self._capacity = 0
        self._arena: Arena | None = None
        self._context: Context | None = None

    def piece(self, left: int) -> int:
        """How many of the codes that are left go into the next run; 0 where they are fewer than the engine takes."""
        return 0 if left < self.shortest else min(left, self._limit)

    def run(
        self, tokens: NDArray[np.int32], position: NDArray[np.int32], states: Sequence[tuple[int, int]]
    ) -> NDArray[np.float32]:
        """One run.

        Args:
            tokens: (B, L) of a length that `piece` gave.
            position: (B) of the first.
            states: address of each state to read from and to write to.

        Returns:
            (2 B, L, V) float32 before guidance, a new array.

        Raises:
            EngineError, DeviceMemoryError.
        """
        length = tokens.shape[1]
        context, arena = self._prepare(length)
        for tensor in self._spec.inputs:
            context.set_shape(tensor.name, tensor_shape(tensor, self._batch, length))
        for spec, (source, target) in zip(self._backend.contract.states, states, strict=True):
            context.bind(spec.input, source)
            context.bind(spec.output, arena.at.get(spec.output, target))
        self._stream.copy_in(arena.at["tokens"], np.ascontiguousarray(tokens))
        self._stream.copy_in(self._shared.at["position"], position)
        context.enqueue(self._stream)
        for spec, (_, target) in zip(self._backend.contract.states, states, strict=True):
            if spec.output in arena.at:
                self._stream.copy(target, arena.at[spec.output], arena.size[spec.output])
        logits = np.empty((2 * self._batch, length, self._backend.contract.dims.vocab_size), np.float32)
        self._stream.copy_out(logits, arena.at["logits"])
        self._stream.synchronize()
        return logits

    def _prepare(self, length: int) -> tuple[Context, Arena]:
        """Context and memory for so many codes: those at hand if they are large enough."""
        if self._context is not None and self._arena is not None and length <= self._capacity:
            return self._context, self._arena
        self.close()
        ports = {tensor.name: tensor for tensor in (*self._spec.inputs, *self._spec.outputs)}
        plan = [("scan", name, tensor_bytes(ports[name], self._batch, length)) for name in ("tokens", "logits")]
        plan += [("scan", state.output, tensor_bytes(ports[state.output], self._batch)) for state in self._apart]
        plan.append(("scan scratch", "scratch", self._engine.scratch_bytes(self._profile)))
        owner = f"a scan of {length} codes of {self._batch} images"
        self._arena = arena = Arena(self._backend.device, owner, plan)
        try:
            context = self._engine.context(self._profile, arena.at["scratch"], arena.size["scratch"], self._stream)
            for tensor in ports.values():
                address = arena.at.get(tensor.name) or self._shared.at.get(tensor.name)
                if address is not None:
                    context.bind(tensor.name, address)
        except BaseException:
            self.close()
            raise
        self._context, self._capacity = context, length
        return context, arena

    def memory(self) -> dict[str, int]:
        """Device bytes by use."""
        return {} if self._arena is None else dict(self._arena.uses)

    def close(self) -> None:
        """Frees it; the stream was waited for. May be called again."""
        if self._context is not None:
            self._context.close()
        if self._arena is not None:
            self._arena.close()
        self._context, self._arena, self._capacity = None, None, 0
