"""Networks of hand-made layers for `fake_builder_module`, and the `World` that they are built in."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aim_edge.runtime.contract import Contract


class DataType(enum.Enum):
    FLOAT = "float32"
    HALF = "float16"
    INT32 = "int32"


F32, F16, I32 = DataType.FLOAT, DataType.HALF, DataType.INT32
OF = {"float32": F32, "float16": F16, "int32": I32}
FORMATS = {F32: "Row major linear FP32", F16: "Row major linear FP16 format", I32: "Row major linear INT32"}


@dataclass
class Tensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...] = ()
    is_network_output: bool = False


class Layer:
    """A layer as the network holds it; `asked` is what was asked of it."""

    def __init__(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str] = (),
        outputs: Sequence[tuple[str, DataType]] = (),
        **more: Any,
    ) -> None:
        self.type, self.name = LayerType[kind], name
        self.given, self.made, self.more = list(inputs), list(outputs), more
        self.tensors: dict[str, Tensor] = {}
        self.asked: dict[str, Any] = {}

    @property
    def num_inputs(self) -> int:
        return len(self.given)

    @property
    def num_outputs(self) -> int:
        return len(self.made)

    def get_input(self, i: int) -> Tensor | None:
        return self.tensors.get(self.given[i])

    def get_output(self, i: int) -> Tensor:
        return self.tensors[self.made[i][0]]

    def output_type_is_set(self, i: int) -> bool:
        return "output_type" in self.more

    def get_output_type(self, i: int) -> DataType:
        return DataType(self.more["output_type"])

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "precision":
            self.asked["precision"] = value
        else:
            super().__setattr__(name, value)

    def set_output_type(self, i: int, dtype: DataType) -> None:
        self.asked[f"output {i}"] = dtype


class ConstantLayer(Layer):
    @property
    def weights(self) -> Any:
        return self.more["weights"]


class CastLayer(Layer):
    @property
    def to_type(self) -> DataType:
        return DataType(self.more["to"])


class PluginLayer(Layer):
    @property
    def plugin(self) -> Any:
        name = self.more["operator"]
        core = types.SimpleNamespace(plugin_name=name)
        return types.SimpleNamespace(plugin_type=name, get_capability_interface=lambda capability: core)


LayerType = enum.Enum("LayerType", "CONSTANT CAST IDENTITY SHAPE ELEMENTWISE MATRIX_MULTIPLY TOPK PLUGIN_V2 PLUGIN_V3")


def model_layers(
    states: Sequence[tuple[str, str]],
    dtype: str = "float16",
    plugin: str = "",
    source: str = "s",
    result: str = "logits",
) -> list[Layer]:
    """From `source` a product in `dtype` between casts, a sum in float32, and each state through a plugin or a sum."""
    half = OF[dtype]
    layers = [
        Layer("CONSTANT", "weight", (), [("w", F32)], weights=np.zeros(2, dtype)),
        Layer("CONSTANT", "scale", (), [("s", F32)], weights=np.zeros(2, np.float32)),
        Layer("CAST", "narrow", [source], [("x16", F32)], to=half),
        Layer("SHAPE", "shape", [source], [("n", I32)]),
        Layer("MATRIX_MULTIPLY", "product", ["x16", "w"], [("y16", F32)], typed=half),
        Layer("CAST", "widen", ["y16"], [("y32", F32)], to=F32),
        Layer("ELEMENTWISE", "sum", ["y32", "s"], [(result, F32)]),
        Layer("TOPK", "best", [result], [("value", F32), ("index", I32)]),
    ]
    for n, (given, made) in enumerate(states):
        if plugin:
            outputs = [(f"p{n}", F32), (made, F32)]
            layers.append(Layer(plugin, f"scan_{n}", ["y16", given], outputs, operator="SelectiveScan"))
        else:
            layers.append(Layer("ELEMENTWISE", f"state_{n}", [given, given], [(made, F32)]))
    return layers


@dataclass
class World:
    """What there is to build, what goes wrong, and what was asked.

    Attributes:
        contract: of the graphs.
        layers: makes the layers of a graph, fresh for each network.
        reshape: changes the inspector's layers of a graph.
        fails: graph -> what the log says in place of building it.
        raises: graph -> what is raised in place of building it.
        unparsed: graphs whose parsing fails.
        port_types: tensor -> another type than the contract's, in engines.
        port_shapes: tensor -> another shape than the network's, in engines.
        during: called with the config's monitor while an engine is built.
    """

    contract: Contract
    layers: Callable[[str], list[Layer]]
    reshape: Callable[[str, list[dict[str, Any]]], Any] = lambda graph, layers: layers
    fails: dict[str, str] = field(default_factory=dict)
    raises: dict[str, BaseException] = field(default_factory=dict)
    unparsed: set[str] = field(default_factory=set)
    port_types: dict[str, DataType] = field(default_factory=dict)
    port_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    during: Callable[[Any], None] = lambda monitor: None
    parsed: list[str] = field(default_factory=list)
    networks: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, Any] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    creators: set[str] = field(default_factory=set)
    refuses_library: bool = False
    deserialised: dict[bytes, Any] = field(default_factory=dict)
    host_code: bool | None = None
    stale_cache: bytes = b"of another GPU"
    timed: list[bytes] = field(default_factory=list)
    typed: bool = False
    broken: bool = False

    def graph_of(self, path: str) -> str:
        return path.rpartition("/")[2].partition(".")[0]


class Network:
    def __init__(self, world: World, flags: int) -> None:
        self.world, self.flags = world, flags

    def fill(self, graph: str) -> None:
        spec = self.world.contract.graphs[graph]

        def tensor(t: Any, output: bool) -> Tensor:
            shape = tuple(-1 if isinstance(size, str) else size for size in t.shape)
            return Tensor(t.name, OF[t.dtype], shape, output)

        self.graph, self.all = graph, self.world.layers(graph)
        self.inputs = [tensor(t, False) for t in spec.inputs]
        self.outputs = [tensor(t, True) for t in spec.outputs]
        known = {t.name: t for t in (*self.inputs, *self.outputs)}
        for layer in self.all:
            for name, dtype in layer.made:
                known.setdefault(name, Tensor(name, dtype))
            layer.tensors = known
        self.num_inputs, self.num_outputs, self.num_layers = len(self.inputs), len(self.outputs), len(self.all)
        self.get_input, self.get_output = self.inputs.__getitem__, self.outputs.__getitem__
        self.get_layer = self.all.__getitem__

    def describe(self) -> list[dict[str, Any]]:
        """What the inspector would say: each layer in the type that was asked for, or that a typed network gives it."""
        told = []
        for layer in self.all:
            if layer.type in (LayerType.CONSTANT, LayerType.SHAPE):
                continue
            typed = layer.more.get("typed", F32) if self.world.typed else F32
            dtype = layer.asked.get("precision", typed)
            kind = {"PLUGIN_V2": "PluginV2", "PLUGIN_V3": "PluginV3", "CAST": "Reformat"}.get(layer.type.name, "Gemm")
            side = [{"Name": "t", "Format/Datatype": FORMATS[dtype]}]
            told.append({"Name": layer.name, "LayerType": kind, "Inputs": side, "Outputs": side, "TacticName": "k"})
        return told
