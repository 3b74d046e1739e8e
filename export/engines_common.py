"""What the builders of both libraries share: what is asked for, what comes of it, logs, progress, ports."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aim_edge.runtime.contract import GraphSpec, TensorSpec
from aim_edge.runtime.manifest import Sizes

from .engines_plugins import PluginLibrary

# Called with the share that is done and what to say beside the graph's name; what it raises ends the build.
Tell = Callable[[float, str], None]


class EngineBuildError(RuntimeError):
    """A graph does not parse or its engine is not what was asked for: the message names both and the reasons."""


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        graph: its name in the contract.
        path: the ONNX file.
        spec: its inputs and outputs.
        sm: the GPU architecture, such as "sm86".
        batch: smallest, best and largest "batch" of each optimisation profile ("rows" are twice as many).
        length: smallest, best and largest "length".
        precision, state_dtype: the bundle's.
        plugins: whether step and scan, if the graph is one of them, are written with our plugins.
    """

    graph: str
    path: Path
    spec: GraphSpec
    sm: str
    batch: tuple[Sizes, ...]
    length: Sizes
    precision: str = "float32"
    state_dtype: str = "float32"
    plugins: bool = False


@dataclass(frozen=True)
class Built:
    """An engine; `layers`, `plugins` and `device_bytes` as `EngineFile` has them, `detail` for the JSON beside it."""

    plan: memoryview
    layers: dict[str, int] = field(default_factory=dict)
    plugins: dict[str, int] = field(default_factory=dict)
    device_bytes: int = 0
    detail: dict[str, Any] | None = None


class Maker(Protocol):
    """A library that builds engines.

    Attributes:
        library, version: as `EngineRecord` has them.
        folder: of its engines, below the bundle's engines/, such as "rtx-1.7".
        facts: `EngineRecord`'s gpu, driver, flags and level.
        plugin: the library of plugins that was loaded, or None.
    """

    library: str
    version: str
    folder: str
    facts: dict[str, Any]
    plugin: PluginLibrary | None

    def build(self, job: Job, tell: Tell) -> Built:
        """One engine. Raises EngineBuildError."""


def shape_of(tensor: TensorSpec, batch: int, length: int, rows: int | None = None) -> tuple[int, ...]:
    """A tensor's shape for sizes of its symbolic dimensions."""
    sizes = {"batch": batch, "rows": 2 * batch if rows is None else rows, "length": length}
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.shape)


def parse(trt: Any, parser: Any, path: Path, who: str) -> None:
    """Has the parser read an ONNX file. Raises EngineBuildError with every error's node."""
    if not parser.parse_from_file(str(path)):
        found = "; ".join(map(_describe, map(parser.get_error, range(parser.num_errors))))
        raise EngineBuildError(f"{path}: {who} does not parse it: {found or 'it gives no reason'}")


def _describe(error: Any) -> str:
    """A parser's error with the node that it is about; older parsers do not know the node's name."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"node {error.node()} {name or 'unnamed'!r} ({operator or '?'}): {error.desc()}"


def add_profiles(builder: Any, config: Any, job: Job) -> None:
    """One optimisation profile for each of the job's batches."""
    for batch in job.batch:
        profile = builder.create_optimization_profile()
        for tensor in job.spec.inputs:
            sizes = zip(batch, job.length, strict=True)
            profile.set_shape(tensor.name, *(shape_of(tensor, b, n) for b, n in sizes))
        config.add_optimization_profile(profile)


def check_ports(
    path: Path, found: dict[str, tuple[str, tuple[int, ...]]], wanted: tuple[TensorSpec, ...], *, built: bool = False
) -> None:
    """Names, types and sizes (-1: not fixed) against the contract's.

    A size that the library does not know before an engine runs is taken for the contract's. Of an engine that is
    `built`, one that the contract leaves open may be fixed: a profile of one batch alone fixes it.

    Raises:
        EngineBuildError: they differ; each is named.
    """
    want = {t.name: (t.dtype, shape_of(t, -1, -1, -1)) for t in wanted}
    wrong = [name for name in {**want, **found} if not _agree(want.get(name), found.get(name), built)]
    if wrong:
        told = "; ".join(f"{name} is {found.get(name)}, expected {want.get(name)}" for name in wrong)
        raise EngineBuildError(f"{path}: its tensors are not the contract's: {told}")


def _agree(want: tuple[str, tuple[int, ...]] | None, have: tuple[str, tuple[int, ...]] | None, built: bool) -> bool:
    if want is None or have is None or want[0] != have[0] or len(want[1]) != len(have[1]):
        return False
    return all(h in (w, -1) or (built and w == -1) for w, h in zip(want[1], have[1], strict=True))


def type_names(trt: Any) -> dict[Any, str]:
    """The contract's names of the library's types."""
    return {trt.float32: "float32", trt.float16: "float16", trt.int32: "int32"}


def make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last errors, and what was said of memory. Without a GPU some errors mean nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.errors: deque[str] = deque(maxlen=4)
            self.warnings: deque[str] = deque(maxlen=2)
            self.memory: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, message: str) -> None:
            failed = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if failed:
                self.errors.append(message)
            if severity == trt.ILogger.WARNING:
                self.warnings.append(message)
            if (failed or severity == trt.ILogger.WARNING) and "memory" in message.lower():
                self.memory.append(message)

        def why(self) -> str:
            return "; ".join(self.errors or self.warnings) or "it gives no reason"

    return Log()


def make_monitor(trt: Any, tell: Tell) -> Any:
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
                    tell(min(step / self.steps[phase], 1.0), "")
                except BaseException as error:  # Ctrl-C too: it is raised when the library has returned
                    self.raised = error
            return self.raised is None

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()
