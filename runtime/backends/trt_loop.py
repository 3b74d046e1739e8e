"""A decoding step on the device: the engine and the drawing of codes, enqueued or replayed from CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ..cuda import Graph, Stream
from ..errors import EngineError
from .trt_api import Context
from .trt_kernels import Kernels, SampleParams

# Between two graphs the device rests, which counts where a step is short; a graph of many nodes takes long to make.
MOST_STEPS = 16
MOST_NODES = 256


class StepRun:
    """The step engine over the two halves of the state.

    Args:
        context: shapes set, everything but the states bound.
        states: names of input and output, and the two addresses, of each state. They are equal where the engine
            writes the output in its input's place.
        stream: where to.
    """

    def __init__(self, context: Context, states: Sequence[tuple[str, str, tuple[int, int]]], stream: Stream) -> None:
        self.context = context
        self._states = states
        self._stream = stream
        self._bound = -1

    def enqueue(self, half: int) -> None:
        """A step that reads one half of the state and writes the other. Raises EngineError."""
        if self._bound != half:
            self._bound = -1  # should a name be refused
            for source, target, addresses in self._states:
                self.context.bind(source, addresses[half])
                self.context.bind(target, addresses[1 - half])
            self._bound = half
        self.context.enqueue(self._stream)


class DeviceLoop:
    """A step and the drawing of the next codes, which the next step is fed where they lie.

    Attributes:
        graphs: one a half of the state, or none.
        several: a graph of several steps from the first half on, where a step has few nodes.
        steps: how many those are.
        reason: why there are no graphs, or "".
    """

    def __init__(self, step: StepRun, kernels: Kernels, params: SampleParams, stream: Stream) -> None:
        self.graphs: list[Graph] = []
        self.several: Graph | None = None
        self.steps = 0
        self.reason = ""
        self._step = step
        self._kernels = kernels
        self._params = params
        self._stream = stream

    def prepare(self, mode: str, clear: Callable[[], None]) -> None:
        """Runs what a first call sets up, and captures the graphs. Runs before there is a state to keep.

        Args:
            mode: "auto", "on" or "off".
            clear: enqueues zeroing all that a step reads or writes; called before each run and at the end.

        Raises:
            EngineError: the engine does not run, or "on" was asked for and it cannot be captured.
        """
        try:
            for half in range(2):
                clear()
                self._enqueue(half)
                self._stream.synchronize()
                if mode != "off" and not self.reason:
                    self.graphs += self._capture(half, 1, mode)
            if self.graphs:
                nodes = max(sum(graph.nodes.values()) for graph in self.graphs)
                # Even: they end in the half in which they began.
                self.steps = min(MOST_STEPS, MOST_NODES // max(nodes, 1)) // 2 * 2
            if self.steps:
                self.several = next(iter(self._capture(0, self.steps, mode)), None)
        finally:
            clear()
            self._stream.synchronize()
        if mode == "off":
            self.reason = "cuda_graph is 'off'"

    def _capture(self, half: int, steps: int, mode: str) -> list[Graph]:
        try:
            with self._stream.captured() as made:
                for step in range(steps):
                    self._enqueue(half ^ step % 2)
        except EngineError as error:
            self.close()
            if mode == "on":
                raise EngineError(f"cuda_graph is 'on', but the step cannot be captured: {error}") from error
            self.reason = f"it cannot be captured: {error}"
            with contextlib.suppress(EngineError):  # CUDA may report the broken capture to the next call once more
                self._enqueue(half)
                self._stream.synchronize()
            return []
        return made

    def run(self, half: int, steps: int) -> None:
        """Enqueues steps, each with its draw, the first of which reads that half of the state. Raises EngineError."""
        while steps:
            if self.several is not None and half == 0 and steps >= self.steps:
                self._stream.launch(self.several)
                steps -= self.steps
                continue
            if self.graphs:
                self._stream.launch(self.graphs[half])
            else:
                self._enqueue(half)
            half, steps = 1 - half, steps - 1

    def _enqueue(self, half: int) -> None:
        self._step.enqueue(half)
        self._kernels.sample(self._params, self._stream)

    def close(self) -> None:
        """Frees the graphs. May be called again."""
        for graph in (*self.graphs, self.several):
            if graph is not None:
                graph.close()
        self.graphs.clear()
        self.several = None
