"""A TensorRT whose engines run a bundle's ONNX graphs through ONNX Runtime on the fake driver's memory.

It has the attributes of the version that it is told to be and no others, and refuses what TensorRT refuses: a shape
outside the profile, a tensor without an address, memory that was not set.
"""

from __future__ import annotations

import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from fake_cuda import FakeCuda

MAGIC = b"ftrt"
DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int32)": "int32"}


def write_engine(path: Path, onnx: Path, batch: list[list[int]], length: list[int], **extra: Any) -> None:
    """An engine's file: which graph it runs, its profiles, and how it misbehaves (`rename`, `capturable`, `poison`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MAGIC + json.dumps({"onnx": str(onnx), "batch": batch, "length": length, **extra}).encode())


def make_module(cuda: FakeCuda, version: str = "8.6.1", *, aliases: bool = False) -> Any:
    """The module.

    Args:
        cuda: the driver.
        version: 8.x has the old calls for a context's memory, others the new ones.
        aliases: engines write states in their inputs' places (new versions only).
    """
    old = version.startswith("8.")
    module = SimpleNamespace(__version__=version, float32="float32", float16="float16", int32="int32",
                             TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
                             TensorLocation=SimpleNamespace(DEVICE="device", HOST="host"),
                             __spec__=ModuleSpec("tensorrt", None), registered=[], loads=0,
                             out_of_memory=False)  # fmt: skip

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

    class IProfiler:
        pass

    class Registry:
        def load_library(self, path: str) -> object | None:
            if module.registered:
                return None
            module.loads += 1
            module.registered = json.loads(Path(path).read_text())
            return object()

        def find(self, name: str, version: str, namespace: str) -> object | None:
            return object() if (name, version, namespace) == (name, "1", "") and name in module.registered else None

    setattr(Registry, "get_plugin_creator" if old else "get_creator", Registry.find)

    class Runtime:
        def __init__(self, log: Any) -> None:
            if cuda.current is None:
                raise SystemError("without a current context, TensorRT's runtime crashes")
            self.log = log

        def deserialize_cuda_engine(self, plan: Any) -> Engine | None:
            data = bytes(memoryview(plan))
            if module.out_of_memory:
                self.log.log("error", "1: [runner.cpp::deserialize::98] Error Code 1: Cuda Runtime (out of memory)")
                return None
            if not data.startswith(MAGIC):
                self.log.log("error", "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
                return None
            return Engine(self, json.loads(data[len(MAGIC) :]))

    class Engine:
        def __init__(self, runtime: Runtime, plan: dict[str, Any]) -> None:
            self.runtime, self.plan = runtime, plan
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self.session = ort.InferenceSession(plan["onnx"], options, providers=["CPUExecutionProvider"])
            names = plan.get("rename", {})
            self.ports = {
                names.get(port.name, port.name): (kind, DTYPES[port.type], port.shape, port.name)
                for kind, ports in (("input", self.session.get_inputs()), ("output", self.session.get_outputs()))
                for port in ports
            }
            self.num_io_tensors = len(self.ports)
            self.num_optimization_profiles = len(plan["batch"])

        def get_tensor_name(self, index: int) -> str:
            return list(self.ports)[index]

        def get_tensor_mode(self, name: str) -> str:
            return self.ports[name][0]

        def get_tensor_dtype(self, name: str) -> str:
            return self.ports[name][1]

        def get_tensor_location(self, name: str) -> str:
            return "device"

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(-1 if isinstance(size, str) else size for size in self.ports[name][2])

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            batch, length = self.plan["batch"][profile], self.plan["length"]
            sizes = [{"batch": b, "rows": 2 * b, "length": n} for b, n in zip(batch, length, strict=True)]
            return [tuple(by.get(size, size) for size in self.ports[name][2]) for by in sizes]

    def make_context(engine: Engine) -> Context:
        return Context(engine)

    def create_execution_context(engine: Engine, strategy: str = "static") -> Context:
        assert strategy == "user"
        return Context(engine)

    if old:
        Engine.create_execution_context_without_device_memory = make_context  # type: ignore[attr-defined]
        Engine.device_memory_size = 4096  # type: ignore[attr-defined]
    else:
        module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
        Engine.create_execution_context = create_execution_context  # type: ignore[attr-defined]
        Engine.get_device_memory_size_for_profile_v2 = lambda self, profile: 4096 + profile  # type: ignore[attr-defined]
        Engine.get_aliased_input_tensor = lambda self, name: (  # type: ignore[attr-defined]
            name.replace("_out", "") if aliases and "_state_out_" in name else None
        )

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine = engine
            self.active_optimization_profile = 0
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.profiler: Any = None
            self.memory = 0

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            self.active_optimization_profile = profile
            self.shapes.clear()
            return stream in cuda.streams

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            low, _, high = self.engine.get_tensor_profile_shape(name, self.active_optimization_profile)
            if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                self.engine.runtime.log.log("error", f"{name}: {shape} is not within {low}..{high}")
                return False
            self.shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return name in self.engine.ports

        def execute_async_v3(self, stream: int) -> bool:
            engine, log = self.engine, self.engine.runtime.log
            if cuda.is_capturing(stream) and not engine.plan.get("capturable", True):
                cuda.broken.add(stream)
                log.log("error", "this engine cannot be captured")
                return False
            inputs = [name for name, port in engine.ports.items() if port[0] == "input"]
            if set(self.addresses) != set(engine.ports) or set(self.shapes) != set(inputs) or not self.memory:
                log.log("error", "a shape, an address or the device memory is not set")
                return False
            ask = getattr(engine, "get_aliased_input_tensor", lambda name: None)
            if any(ask(name) and self.addresses[name] != self.addresses[ask(name)] for name in engine.ports):
                log.log("error", "an aliased output is not at its input's address")
                return False
            shapes, addresses = dict(self.shapes), dict(self.addresses)
            cuda.enqueue(stream, "kernel", lambda: run(engine, shapes, addresses))
            if self.profiler is not None:
                for i, name in enumerate(("first", "second", "first")):
                    self.profiler.report_layer_time(name, 0.001 * (i + 1))
            return True

    def get_memory(context: Context) -> int:
        return context.memory

    def set_memory(context: Context, address: int) -> None:
        cuda.check(address, 4096)
        context.memory = address

    def set_device_memory(context: Context, address: int, size: int) -> None:
        cuda.check(address, size)
        assert size >= 4096
        context.memory = address

    if old:
        Context.device_memory = property(get_memory, set_memory)  # type: ignore[attr-defined]
    else:
        Context.set_device_memory = set_device_memory  # type: ignore[attr-defined]

    def run(engine: Engine, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        feeds = {}
        for name, (kind, dtype, _, original) in engine.ports.items():
            if kind == "input":
                feeds[original] = cuda.array(addresses[name], shapes[name], dtype).copy()
        outputs = [(name, port[3]) for name, port in engine.ports.items() if port[0] == "output"]
        results = engine.session.run([original for _, original in outputs], feeds)
        for (name, _), result in zip(outputs, results, strict=True):
            if name == engine.plan.get("poison"):
                result = np.full_like(result, np.nan)
            np.copyto(cuda.array(addresses[name], result.shape, result.dtype), result)

    registry = Registry()
    module.ILogger, module.IProfiler, module.Runtime = ILogger, IProfiler, Runtime
    module.get_plugin_registry = lambda: registry
    return module
