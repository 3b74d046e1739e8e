"""A bundle's graphs as engines of TensorRT 8.6, with the precision that the graph states."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorrt as trt

ROOT = Path(__file__).resolve().parents[2]
BATCHES, LENGTHS = (1, 2, 4), (1, 64, 256)
NAMES = {trt.float32: "float32", trt.float16: "float16", trt.int32: "int32"}
FLOATS = (trt.float32, trt.float16)


class ProofError(RuntimeError):
    """A graph that does not parse, an engine that does not build, or one that is not what the contract says."""


def _load_contract() -> ModuleType:
    """runtime/contract.py alone: the package imports more than this Python has."""
    spec = importlib.util.spec_from_file_location("contract", ROOT / "runtime" / "contract.py")
    if spec is None or spec.loader is None:
        raise ProofError("runtime/contract.py is not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules["contract"] = module  # dataclasses looks its module up
    spec.loader.exec_module(module)
    return module


contract = _load_contract()


class Log(trt.ILogger):
    """Keeps warnings and errors."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING):
            self.lines.append(f"{severity.name}: {message}")


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and what its manifest says."""

    folder: Path
    precision: str
    state_dtype: str
    lowering: str
    source: str
    contract: Any

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        manifest = json.loads((folder / "manifest.json").read_text())
        read = contract.Contract.from_dict(manifest["contract"])
        source = manifest["checkpoint"]["source"]
        return cls(folder, manifest["precision"], manifest["state_dtype"], manifest["lowering"], source, read)

    def file(self, graph: str) -> Path:
        """The variant without function bodies where there is one: the parser is to see the plugins."""
        path = self.folder / self.contract.graphs[graph].file
        bare = path.with_name(path.name.removesuffix(".onnx") + ".trt.onnx")
        return bare if bare.is_file() else path


@dataclass
class Factory:
    """One builder for all engines: the first one takes long to start."""

    log: Log
    level: int
    obey: bool = True
    builder: Any = None
    cache: Any = None
    runtime: Any = None
    facts: dict[str, Any] = field(default_factory=dict)

    def build(self, bundle: Bundle, graph: str) -> Any:
        """The engine of a graph, through its serialised form: what a Jetson loads."""
        spec, path = bundle.contract.graphs[graph], bundle.file(graph)
        if self.builder is None:
            self.builder, self.runtime = trt.Builder(self.log), trt.Runtime(self.log)
        network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(str(path)):
            found = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise ProofError(f"{path.name} does not parse: {found}")
        config = self._config()
        kinds = Counter(str(network.get_layer(i).type).rpartition(".")[2] for i in range(network.num_layers))
        self.facts = {"layers": dict(kinds)}
        if bundle.precision == "float16":
            config.set_flag(trt.BuilderFlag.FP16)
            if self.obey:
                config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            else:
                config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
            self.facts["constrained"] = constrain(network, bundle.state_dtype, graph)
        profile = self.builder.create_optimization_profile()
        for tensor in spec.inputs:
            profile.set_shape(tensor.name, *(shape_of(tensor, b, n) for b, n in zip(BATCHES, LENGTHS, strict=True)))
        config.add_optimization_profile(profile)
        plan = self.builder.build_serialized_network(network, config)
        if plan is None:
            raise ProofError(f"{path.name} does not build: {'; '.join(self.log.errors[-3:])}")
        self.facts["plan_bytes"] = plan.nbytes
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ProofError(f"the engine of {path.name} does not load: {'; '.join(self.log.errors[-3:])}")
        check_contract(engine, spec)
        return engine

    def _config(self) -> Any:
        config = self.builder.create_builder_config()
        config.set_tactic_sources(0)  # neither cuBLAS nor cuDNN is on this host
        config.clear_flag(trt.BuilderFlag.TF32)
        config.builder_optimization_level = self.level
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 8 << 30)
        if self.cache is None:
            self.cache = config.create_timing_cache(b"")
        config.set_timing_cache(self.cache, ignore_mismatch=False)
        return config


def shape_of(tensor: Any, batch: int, length: int) -> tuple[int, ...]:
    sizes = {"batch": batch, "rows": 2 * batch, "length": length}
    return tuple(sizes.get(dim, dim) for dim in tensor.shape)


# A constant and a cast have the type that they were made with; a shape is an integer.
_FIXED = (trt.LayerType.CONSTANT, trt.LayerType.CAST)
_UNCONSTRAINED = (*_FIXED, trt.LayerType.SHAPE, trt.LayerType.IDENTITY)


def fixed_type(layer: Any) -> Any:
    """The type of a constant or of a cast. Their tensors' dtype says float32 before the engine is built."""
    if layer.type == trt.LayerType.CONSTANT:
        layer.__class__ = trt.IConstantLayer
        weights = layer.weights  # a NumPy array, or trt.Weights where NumPy has no such type
        return {"float16": trt.float16, "float32": trt.float32}.get(str(weights.dtype), layer.get_output(0).dtype)
    layer.__class__ = trt.ICastLayer
    return layer.to_type


def constrain(network: Any, state_dtype: str, graph: str) -> dict[str, int]:
    """Asks for every layer the type that the ONNX graph gives it.

    TensorRT 8 takes an FP16 network as permission to compute anything in float16, casts to float32 or not. The
    graph's types are followed from its inputs, constants and casts through the layers, and set as constraints.

    Returns:
        How many layers compute in which type.
    """
    states = trt.float16 if state_dtype == "float16" else trt.float32
    types = {network.get_input(i).name: network.get_input(i).dtype for i in range(network.num_inputs)}
    count: Counter[str] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        given = [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]
        carried = next((types[t.name] for t in given if types.get(t.name, t.dtype) in FLOATS), None)
        plugin = layer.type == trt.LayerType.PLUGIN_V2
        for i in range(layer.num_outputs):
            tensor = layer.get_output(i)
            if layer.type in _FIXED:
                types[tensor.name] = fixed_type(layer)
            elif carried is None or tensor.dtype not in FLOATS:
                types[tensor.name] = tensor.dtype
            else:
                types[tensor.name] = states if plugin and i > 0 else carried
        made = [types[layer.get_output(i).name] for i in range(layer.num_outputs)]
        if carried is None or layer.type in _UNCONSTRAINED or any(dtype not in FLOATS for dtype in made):
            continue
        if not plugin:  # a plugin computes in what its formats say
            layer.precision = carried
        for i, dtype in enumerate(made):
            if not layer.get_output(i).is_network_output:
                layer.set_output_type(i, dtype)
        count[NAMES[carried] + (" plugins" if plugin else "")] += 1
    if not count["float16"] and graph != "condition":  # the condition graph computes in float32 throughout
        seen = Counter((str(network.get_layer(i).type), str(fixed_type(network.get_layer(i))))
                       for i in range(network.num_layers) if network.get_layer(i).type in _FIXED)
        raise ProofError(f"no layer of the float16 {graph} graph computes in float16; constants and casts: {seen}")
    return dict(count)


def check_contract(engine: Any, spec: Any) -> None:
    """Names and types of the engine's tensors against the contract's."""
    found = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        found[name] = NAMES.get(engine.get_tensor_dtype(name), "?")
    expected = {tensor.name: tensor.dtype for tensor in (*spec.inputs, *spec.outputs)}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        shown = ", ".join(f"{n}: {found.get(n)} (expected {expected.get(n)})" for n in wrong[:5])
        raise ProofError(f"the engine's tensors are not the contract's: {shown}")
