"""The decode session on ONNX Runtime.

Every buffer of the decode loop is bound once, in two bindings that alternate between the halves of the
state, so that a step copies one token and one position in and allocates no logits and no state. On the
CPU the bound values alias numpy memory; on CUDA state and condition stay on the device, and only the
token and position go in and the logits come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arena import Array, Snapshot, StateArena, check_snapshot, from_snapshot, to_snapshot
from ..checks import check_integers, check_labels
from ..decode import decode_on_host
from ..sampler import SamplingConfig

if TYPE_CHECKING:
    from .ort import OrtBackend


class HostStates(StateArena):
    """A state arena whose views ONNX Runtime reads and writes in place."""

    def __init__(self, backend: OrtBackend, rows: int) -> None:
        super().__init__(backend.contract, rows)
        make = backend.ort.OrtValue.ortvalue_from_numpy
        self._values = [[make(view) for view in self.views(half)] for half in range(2)]

    def values(self, half: int) -> Sequence[Any]:
        """The OrtValues of one half, in the contract's order."""
        return self._values[half]


class DeviceStates:
    """The same on a device: one OrtValue a state and half, allocated once."""

    def __init__(self, backend: OrtBackend, rows: int) -> None:
        self.states = backend.contract.states
        self.rows = rows
        self.current = 0
        make = backend.ort.OrtValue.ortvalue_from_shape_and_type
        self._values = [
            [make([rows, *s.shape], np.dtype(s.dtype).type, *backend.device) for s in self.states] for _ in range(2)
        ]
        self.zero()

    def values(self, half: int) -> Sequence[Any]:
        """See `HostStates`."""
        return self._values[half]

    def swap(self) -> None:
        """See `StateArena`."""
        self.current = 1 - self.current

    def zero(self) -> None:
        """See `StateArena`."""
        for spec, value in zip(self.states, self._values[self.current], strict=True):
            value.update_inplace(np.zeros((self.rows, *spec.shape), spec.dtype))

    def snapshot(self) -> Snapshot:
        """See `StateArena`."""
        found: Snapshot = {}
        for spec, value in zip(self.states, self._values[self.current], strict=True):
            found |= to_snapshot(spec, value.numpy())
        return found

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """See `StateArena`."""
        check_snapshot(self.states, self.rows, snapshot)
        for spec, value in zip(self.states, self._values[self.current], strict=True):
            value.update_inplace(np.ascontiguousarray(from_snapshot(spec, snapshot), spec.dtype))


class OrtSession:
    """See `backends.Session`. Build it with `OrtBackend.session`."""

    stride = 1

    def __init__(self, backend: OrtBackend, batch: int) -> None:
        self.batch = batch
        self._backend = backend
        self._dims = backend.contract.dims
        self._on_device = backend.device[0] != "cpu"
        self._engine = backend.engine("step")
        self._conditioned = False
        rows = 2 * batch
        self._states: HostStates | DeviceStates = (DeviceStates if self._on_device else HostStates)(backend, rows)
        ort, device = backend.ort, backend.device
        self._token = np.zeros(batch, np.int32)
        self._position = np.zeros(batch, np.int32)
        self._logits = np.empty((rows, self._dims.vocab_size), np.float32)
        # On CUDA these two are device copies, refreshed every step: a bound host value is copied when bound.
        self._inputs = {
            "token": ort.OrtValue.ortvalue_from_numpy(self._token, *device),
            "position": ort.OrtValue.ortvalue_from_numpy(self._position, *device),
        }
        self._condition = {
            spec.name: ort.OrtValue.ortvalue_from_shape_and_type(
                [rows if size == "rows" else size for size in spec.shape], np.dtype(spec.dtype).type, *device
            )
            for spec in backend.contract.graphs["condition"].outputs
        }
        self._bindings = [self._bind_step(half) for half in range(2)]

    def _bind(self, engine: Any, half: int, logits: Array) -> Any:
        """A binding that reads the condition and one half of the state, and writes the other half and `logits`."""
        binding = engine.io_binding()
        for name, value in self._condition.items():
            binding.bind_ortvalue_input(name, value)
        for spec, value in zip(self._states.states, self._states.values(half), strict=True):
            binding.bind_ortvalue_input(spec.input, value)
        for spec, value in zip(self._states.states, self._states.values(1 - half), strict=True):
            binding.bind_ortvalue_output(spec.output, value)
        binding.bind_ortvalue_output("logits", self._backend.ort.OrtValue.ortvalue_from_numpy(logits))
        return binding

    def _bind_step(self, half: int) -> Any:
        binding = self._bind(self._engine, half, self._logits)
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def _run(self, graph: str, engine: Any, binding: Any) -> None:
        self._backend.guarded(graph, lambda: engine.run_with_iobinding(binding))
        if self._on_device:
            binding.synchronize_outputs()

    def set_condition(self, class_ids: ArrayLike) -> None:
        """See `Session`. Raises ValueError or TypeError on bad ids, EngineError when the graph fails."""
        labels = check_labels("class_ids", class_ids, self._dims.num_classes + 1)
        if len(labels) != self.batch:
            raise ValueError(f"class_ids has {len(labels)} entries; this session has batch {self.batch}")
        engine = self._backend.engine("condition")
        binding = engine.io_binding()
        binding.bind_cpu_input("class_ids", labels)
        for name, value in self._condition.items():
            binding.bind_ortvalue_output(name, value)
        self._run("condition", engine, binding)
        self._conditioned = True

    def reset(self) -> None:
        """See `Session`."""
        self._states.zero()

    def step(self, token: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """See `Session`. When the engine fails, the state is that before the step."""
        self._token[:] = check_integers("token", token, (self.batch,), self._dims.vocab_size)
        self._position[:] = self._check_position(position, 1)
        if self._on_device:
            self._inputs["token"].update_inplace(self._token)
            self._inputs["position"].update_inplace(self._position)
        self._run("step", self._engine, self._bindings[self._states.current])
        self._states.swap()
        return self._logits

    def scan(self, tokens: ArrayLike, position: ArrayLike) -> NDArray[np.float32]:
        """See `Session`. When the engine fails, the state is that before the scan."""
        given = check_integers("tokens", tokens, (self.batch, None), self._dims.vocab_size)
        length = given.shape[1]
        first = self._check_position(position, length)
        logits = np.empty((2 * self.batch, length, self._dims.vocab_size), np.float32)
        engine = self._backend.engine("scan")
        binding = self._bind(engine, self._states.current, logits)
        binding.bind_cpu_input("tokens", given)
        binding.bind_cpu_input("position", first)
        self._run("scan", engine, binding)
        self._states.swap()
        return logits

    def _check_position(self, position: ArrayLike, length: int) -> NDArray[np.int32]:
        """(B) positions of which `length` codes, at least one, still fit; after a condition was set."""
        if not self._conditioned:
            raise RuntimeError("set_condition comes before the first step or scan")
        if not 1 <= length <= self._dims.num_tokens:
            raise ValueError(f"tokens has {length} columns; allowed: 1..{self._dims.num_tokens}")
        spread = np.broadcast_to(np.asarray(position), (self.batch,)) if np.ndim(position) == 0 else position
        return check_integers("position", spread, (self.batch,), self._dims.num_tokens - length + 1)

    def snapshot(self) -> Snapshot:
        """See `Session`."""
        return self._states.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See `Session`. Raises ValueError where it does not fit."""
        self._states.restore(snapshot)

    def decode(
        self, sampling: SamplingConfig, seed: int, image_index: NDArray[np.uint64], tokens: NDArray[np.int32],
        start: int, every: int,
    ) -> Iterator[int]:  # fmt: skip
        """See `Session`."""
        return decode_on_host(self, self._dims.vocab_size, sampling, seed, image_index, tokens, start, every)

    def close(self) -> None:
        """See `Session`. Its memory goes with it."""
