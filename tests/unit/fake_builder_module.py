"""As much of TensorRT's builder as ours calls, in Python: its plans are only names.

`make_module("8.6.0", world)` has what 8.6 has, and lacks what it lacks; likewise 8.5, 9, 10 and 11.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Sequence
from typing import Any

from fake_builder import (
    F16,
    F32,
    I32,
    CastLayer,
    ConstantLayer,
    DataType,
    LayerType,
    Network,
    PluginLayer,
    Tensor,
    World,
)


class Config:
    def __init__(self, world: World, modern: bool, levels: bool) -> None:
        self.world = world
        self.flags: set[str] = {"TF32"}
        self.profiles: list[Any] = []
        self.sources: int | None = None
        self.limits: dict[str, int] = {}
        self.cache: Any = None
        self.profiling_verbosity: Any = None
        if levels:
            self.builder_optimization_level = 3
            self.hardware_compatibility_level: Any = None
        if modern:
            self.progress_monitor: Any = None

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag.name)

    def set_tactic_sources(self, sources: int) -> None:
        self.sources = sources

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.limits[pool.name] = size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self.limits.get(pool.name, 80 << 30)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, data: bytes) -> Any:
        return types.SimpleNamespace(data=data, serialize=lambda: b"timings:" + b"+".join(self.world.timed))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.data == self.world.stale_cache:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class Profile(dict[str, Any]):
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self[name] = (low, best, high)


def make_module(version: str, world: World) -> Any:
    """A module that stands for `tensorrt` of a version."""
    release = tuple(map(int, version.split(".")[:2]))
    modern, levels = release >= (10, 0), release >= (8, 6)
    trt: Any = types.ModuleType("tensorrt")
    world.typed = modern
    trt.__version__ = version
    trt.float32, trt.float16, trt.int32 = F32, F16, I32
    trt.LayerType = LayerType
    flags = "TF32 REFIT " + ("VERSION_COMPATIBLE " if levels else "")
    flags += "STRIP_PLAN" if modern else "FP16 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS"
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", flags)
    trt.NetworkDefinitionCreationFlag = enum.IntEnum(
        "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1} if modern else {"EXPLICIT_BATCH": 0}
    )
    trt.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    trt.LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
    if release >= (8, 7):
        trt.OnnxParserFlag = enum.IntEnum("OnnxParserFlag", {"NATIVE_INSTANCENORM": 0})
    trt.IConstantLayer, trt.ICastLayer = ConstantLayer, CastLayer
    trt.IPluginV2Layer = trt.IPluginV3Layer = PluginLayer
    if levels:
        trt.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")
    if modern:
        trt.PluginCapabilityType = enum.Enum("PluginCapabilityType", "CORE")
        trt.ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", "STATIC USER_MANAGED")
        trt.IProgressMonitor = type("IProgressMonitor", (), {})

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

    class Parser:
        def __init__(self, network: Network, log: Any) -> None:
            self.network, self.num_errors, self.flags = network, 0, 0

        if release >= (8, 7):

            def set_flag(self, flag: Any) -> None:
                self.flags |= 1 << int(flag)

        def parse_from_file(self, path: str) -> bool:
            world.parsed.append(path.rpartition("/")[2])
            graph = world.graph_of(path)
            if graph in world.unparsed:
                self.num_errors = 1
                return False
            self.network.fill(graph)
            world.networks[graph] = self.network
            self.network.parser_flags = self.flags
            return True

        def get_error(self, i: int) -> Any:
            return types.SimpleNamespace(node=lambda: 7, desc=lambda: "no importer for Det")

    class Builder:
        def __init__(self, log: Any) -> None:
            if world.broken:
                log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("factory function returned nullptr")
            self.log = log

        def create_network(self, flags: int) -> Network:
            return Network(world, flags)

        def create_builder_config(self) -> Config:
            return Config(world, modern, levels)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            graph = network.graph
            world.configs[graph] = config
            world.during(getattr(config, "progress_monitor", None))
            if graph in world.raises:
                raise world.raises[graph]
            if graph in world.fails:
                self.log.log(ILogger.WARNING, "some tactics do not have sufficient workspace memory to run")
                self.log.log(ILogger.ERROR, world.fails[graph])
                return None
            world.timed.append(graph.encode())
            plan = b"ftrt" + graph.encode() + b" by " + version.encode()
            world.deserialised[plan] = network
            return plan

    class Context:
        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            self.shapes = {**getattr(self, "shapes", {}), name: tuple(shape)}
            return True

    class Inspector:
        execution_context: Any = None

        def __init__(self, network: Network) -> None:
            self.network = network

        def get_engine_information(self, form: Any) -> str:
            layers = self.network.describe()
            if self.execution_context is None or not self.execution_context.shapes:
                for layer in layers:
                    layer["Inputs"] = layer["Outputs"] = [{"Format/Datatype": "N/A due to dynamic shapes"}]
            told = world.reshape(self.network.graph, layers)
            return told if isinstance(told, str) else json.dumps({"Layers": told, "Bindings": []})

    class Engine:
        def __init__(self, network: Network) -> None:
            self.network = network
            self.ports = [*network.inputs, *network.outputs]
            self.num_io_tensors = len(self.ports)
            setattr(self, "device_memory_size_v2" if modern else "device_memory_size", 4096)

        def get_tensor_name(self, i: int) -> str:
            return self.ports[i].name

        def _port(self, name: str) -> Tensor:
            return next(port for port in self.ports if port.name == name)

        def get_tensor_dtype(self, name: str) -> DataType:
            return world.port_types.get(name, self._port(name).dtype)

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return world.port_shapes.get(name, self._port(name).shape)

        def create_engine_inspector(self) -> Inspector:
            return Inspector(self.network)

        if modern:

            def create_execution_context(self, strategy: Any) -> Context:
                assert strategy.name == "USER_MANAGED"
                return Context()

        else:

            def create_execution_context_without_device_memory(self) -> Context:
                return Context()

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def __setattr__(self, name: str, value: Any) -> None:
            assert name == "engine_host_code_allowed"
            world.host_code = value

        def deserialize_cuda_engine(self, plan: Any) -> Engine | None:
            network = world.deserialised.get(bytes(plan))
            return None if network is None else Engine(network)

    class Registry:
        def get_plugin_creator(self, name: str, version: str, namespace: str) -> Any:
            return name if name in world.creators else None

        if levels:

            def load_library(self, path: str) -> Any:
                world.libraries.append(path)
                return None if world.refuses_library else object()

    if modern:
        Registry.get_creator = Registry.get_plugin_creator  # type: ignore[attr-defined]
        del Registry.get_plugin_creator
    trt.ILogger, trt.OnnxParser, trt.Builder, trt.Runtime = ILogger, Parser, Builder, Runtime
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    return trt
