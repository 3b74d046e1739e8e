"""TensorRT-RTX builds an engine of a graph: the only file here that loads its library."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aim_edge.runtime import BackendMissingError
from aim_edge.runtime.contract import GraphSpec, TensorSpec

INSTALL = 'pip install "aim-edge[tensorrt-rtx]"'
# What graphs with products in float32 build for; for sm75 TensorRT-RTX has none.
SMS = ("sm80", "sm86", "sm89", "sm120", "sm121")

Sizes = tuple[int, int, int]


class EngineBuildError(RuntimeError):
    """A graph does not parse or its engine does not build: the message names both and the library's reasons."""


class RtxBuilder:
    """Builds engines for GPUs that need not be here.

    Raises:
        BackendMissingError: TensorRT-RTX is not installed, or does not load.
    """

    def __init__(self) -> None:
        self._trt = _load()
        self._log = _make_log(self._trt)
        self._builder = self._trt.Builder(self._log)
        self.version = str(self._trt.__version__)

    def build(
        self, path: Path, spec: GraphSpec, sm: str, batch: Sizes, length: Sizes, tell: Callable[[float], None]
    ) -> memoryview:
        """One engine, strongly typed: every layer computes in the type that the graph gives it.

        Args:
            path: the ONNX file.
            spec: its inputs and outputs.
            sm: of `SMS`.
            batch, length: smallest, best and largest "batch" ("rows" are twice as many) and "length".
            tell: called with the share that is done; what it raises ends the build.

        Raises:
            EngineBuildError: the file does not parse or is not `spec`'s, or no engine comes of it.
        """
        trt, builder, self._log.errors = self._trt, self._builder, deque(maxlen=4)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        if not parser.parse_from_file(str(path)):
            found = "; ".join(map(_describe, map(parser.get_error, range(parser.num_errors))))
            raise EngineBuildError(f"{path}: TensorRT-RTX {self.version} does not parse it: {found}")
        self._check_ports(path, network, spec)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # it would round what the graph says is float32
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, sm.upper()), 0)
        profile = builder.create_optimization_profile()
        for tensor in spec.inputs:
            profile.set_shape(tensor.name, *(_shape(tensor, b, n) for b, n in zip(batch, length, strict=True)))
        config.add_optimization_profile(profile)
        monitor = _make_monitor(trt, tell)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor.raised is not None:
            raise monitor.raised
        if plan is None:
            why = "; ".join(self._log.errors) or "it gives no reason"
            raise EngineBuildError(f"{path}: TensorRT-RTX {self.version} builds no engine for {sm}: {why}")
        return memoryview(plan)  # not a copy: an engine may take gigabytes

    def _check_ports(self, path: Path, network: Any, spec: GraphSpec) -> None:
        """Names, types and sizes of the parsed network against the contract's."""
        found = [network.get_input(i) for i in range(network.num_inputs)]
        found += [network.get_output(i) for i in range(network.num_outputs)]
        types = {self._trt.float32: "float32", self._trt.float16: "float16", self._trt.int32: "int32"}
        have = {t.name: (types.get(t.dtype, str(t.dtype)), tuple(t.shape)) for t in found}
        want = {t.name: (t.dtype, _shape(t, -1, -1, -1)) for t in (*spec.inputs, *spec.outputs)}
        wrong = [name for name in {**want, **have} if have.get(name) != want.get(name)]
        if wrong:
            told = "; ".join(f"{name} is {have.get(name)}, expected {want.get(name)}" for name in wrong)
            raise EngineBuildError(f"{path}: its tensors are not the contract's: {told}")


def _load() -> Any:
    try:
        import tensorrt_rtx_bindings as trt
    except (ImportError, OSError) as error:  # the bindings without the library raise either
        raise BackendMissingError(f"building engines for rtx needs TensorRT-RTX ({error}); {INSTALL}") from error
    return trt


def _shape(tensor: TensorSpec, batch: int, length: int, rows: int | None = None) -> tuple[int, ...]:
    sizes = {"batch": batch, "rows": 2 * batch if rows is None else rows, "length": length}
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape)


def _describe(error: Any) -> str:
    """A parser's error with the node that it is about."""
    return f"node {error.node()} {error.node_name() or 'unnamed'!r} ({error.node_operator() or '?'}): {error.desc()}"


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last errors. On a machine without a GPU there are some that mean nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _make_monitor(trt: Any, tell: Callable[[float], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the steps of the outermost phase. An exception can't cross the library: it is kept, and ends it."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = max(steps, 1)

        def step_complete(self, phase: str, step: int) -> bool:
            if self.raised is None and phase in self.steps:
                try:
                    tell(min(step / self.steps[phase], 1.0))
                except BaseException as error:  # Ctrl-C too: it is raised when the library has returned
                    self.raised = error
            return self.raised is None

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
