"""Forced decoding with the engines: states stay on the device, and each step reads what the one before wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trt86_cuda import Cuda
from trt86_engines import Bundle, ProofError, shape_of

Array = NDArray[Any]


@dataclass
class Decoded:
    """Logits (T, rows, V) before guidance, and every state after the last step, by the contract's input name."""

    logits: Array
    states: dict[str, Array]


class Session:
    """An engine's execution context with a device buffer for each tensor."""

    def __init__(self, cuda: Cuda, engine: Any, spec: Any) -> None:
        self.cuda, self.engine, self.spec = cuda, engine, spec
        self.context = engine.create_execution_context()
        if self.context is None:
            raise ProofError("no execution context: out of device memory?")

    def shapes(self, batch: int, length: int = 1) -> None:
        for tensor in self.spec.inputs:
            if not self.context.set_input_shape(tensor.name, shape_of(tensor, batch, length)):
                raise ProofError(f"{tensor.name}: shape {shape_of(tensor, batch, length)} is refused")

    def bind(self, addresses: dict[str, int]) -> None:
        for name, pointer in addresses.items():
            if not self.context.set_tensor_address(name, pointer):
                raise ProofError(f"{name}: its address is refused")

    def enqueue(self) -> None:
        if not self.context.execute_async_v3(self.cuda.stream):
            raise ProofError("execute_async_v3 failed; see the log")


class Decoder:
    """Buffers of one bundle for `batch` images."""

    def __init__(self, cuda: Cuda, bundle: Bundle, labels: Array, longest: int) -> None:
        self.cuda, self.bundle, self.batch = cuda, bundle, len(labels)
        self.labels = labels.astype(np.int32)
        graphs = bundle.contract.graphs
        wanted = [*graphs["condition"].inputs, *graphs["condition"].outputs, *graphs["step"].inputs]
        wanted += [*graphs["scan"].inputs, *graphs["scan"].outputs]
        self.buffers: dict[str, int] = {}
        for tensor in wanted:
            size = int(np.prod(shape_of(tensor, self.batch, longest))) * np.dtype(tensor.dtype).itemsize
            if tensor.name not in self.buffers:
                self.buffers[tensor.name] = cuda.alloc(size)
        # The outputs of the states are the second halves of double buffers.
        self.pairs = [(s.input, s.output) for s in bundle.contract.states]

    def condition(self, engine: Any) -> None:
        spec = self.bundle.contract.graphs["condition"]
        session = Session(self.cuda, engine, spec)
        session.shapes(self.batch)
        session.bind({t.name: self.buffers[t.name] for t in (*spec.inputs, *spec.outputs)})
        self.cuda.upload(self.buffers["class_ids"], self.labels)
        session.enqueue()
        self.cuda.synchronize()

    def reset(self) -> None:
        for names in self.pairs:
            for name in names:
                self.cuda.zero(self.buffers[name])

    def _addresses(self, spec: Any, turn: int) -> dict[str, int]:
        """On odd turns the halves of the double buffers have changed places."""
        addresses = {t.name: self.buffers[t.name] for t in (*spec.inputs, *spec.outputs)}
        for source, target in self.pairs if turn % 2 else ():
            addresses[source], addresses[target] = addresses[target], addresses[source]
        return addresses

    def _states(self, turns: int) -> dict[str, Array]:
        states = {}
        for state in self.bundle.contract.states:
            pointer = self.buffers[state.output if turns % 2 else state.input]
            states[state.input] = self.cuda.download(pointer, (2 * self.batch, *state.shape), state.dtype)
        return states

    def _logits(self, *middle: int) -> Array:
        shape = (2 * self.batch, *middle, self.bundle.contract.dims.vocab_size)
        return self.cuda.download(self.buffers["logits"], shape, "float32")

    def step(self, engine: Any, tokens: Array, *, graphs: bool = False) -> Decoded:
        """Every token in a call of its own; with `graphs`, the calls are two captured CUDA graphs, one a turn."""
        spec = self.bundle.contract.graphs["step"]
        session = Session(self.cuda, engine, spec)
        session.shapes(self.batch)
        captured: list[Any] = []
        for turn in range(2 if graphs else 0):
            session.bind(self._addresses(spec, turn))
            session.enqueue()  # what a first call sets up must not be captured
            self.cuda.synchronize()
            with self.cuda.captured() as made:
                session.enqueue()
            captured += made
        self.reset()
        logits = []
        for t in range(tokens.shape[1]):
            given = tokens[:, t - 1] if t else np.zeros_like(tokens[:, 0])
            self.cuda.upload(self.buffers["token"], given.astype(np.int32))
            self.cuda.upload(self.buffers["position"], np.full(self.batch, t, np.int32))
            if graphs:
                self.cuda.launch(captured[t % 2])
            else:
                session.bind(self._addresses(spec, t))
                session.enqueue()
            logits.append(self._logits())
        return Decoded(np.stack(logits), self._states(tokens.shape[1]))

    def scan(self, engine: Any, tokens: Array, lengths: Iterable[int]) -> Decoded:
        """The same tokens in calls of the given lengths."""
        spec = self.bundle.contract.graphs["scan"]
        session = Session(self.cuda, engine, spec)
        self.reset()
        given = np.pad(tokens[:, :-1], ((0, 0), (1, 0))).astype(np.int32)
        begin, turn, logits = 0, 0, []
        for length in lengths:
            session.shapes(self.batch, length)
            session.bind(self._addresses(spec, turn))
            self.cuda.upload(self.buffers["tokens"], given[:, begin : begin + length])
            self.cuda.upload(self.buffers["position"], np.full(self.batch, begin, np.int32))
            session.enqueue()
            logits.append(self._logits(length).transpose(1, 0, 2))
            begin, turn = begin + length, turn + 1
        if begin != tokens.shape[1]:
            raise ProofError(f"lengths add up to {begin}; expected {tokens.shape[1]}")
        return Decoded(np.concatenate(logits), self._states(turn))
