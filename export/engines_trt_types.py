"""The types that a network's layers are to compute in, as its graph gives them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .engines_common import type_names
from .engines_trt_versions import Dialect

# Plugins whose later outputs are float32, and those where they are as the first; of the others they are states.
_FLOAT32_AFTER_FIRST = ("AdaLnNorm", "EmbedNorm", "NormConv", "UpsampleConv")
_FLOAT32 = ("NormConvImage", "LinearFloat32", "LinearQuantizedFloat32")  # all of whose outputs are
# Those whose first output is, states the others.
_FLOAT32_FIRST = ("Mamba2Layers", "Mamba2LayersQuantized", "Mamba2Step", "Mamba2StepQuantized")
_AS_FIRST = ("AddGroupNormSilu",)
_FLOAT32_FROM = {"Mamba2LazyStep": 5}  # the first output from which on all are float32
# The input from which on the first one of floats has the activations' type; of the others it is the very first.
_ACTIVATIONS_FROM = {"EmbedNorm": 3}


@dataclass
class Wanted:
    """What a network's layers are to be.

    Attributes:
        types: the layers that are constrained, by name, and to which type.
        plugins: the operator of each layer that is a plugin, in order.
        counts: how many layers are constrained to which type; plugins apart.
    """

    types: dict[str, str] = field(default_factory=dict)
    plugins: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def read_plugins(dialect: Dialect, network: Any) -> Wanted:
    """The plugins of a network whose layers need no constraints."""
    wanted = Wanted()
    for layer in map(network.get_layer, range(network.num_layers)):
        if (operator := dialect.plugin_name(layer)) is not None:
            wanted.plugins.append((layer.name, operator))
    return wanted


def constrain(dialect: Dialect, network: Any, state_dtype: str) -> Wanted:
    """Asks for every layer the type that the ONNX graph gives it.

    Below version 10, TensorRT takes a float16 network as permission to compute anything in float16, casts to float32
    or not. The graph's types are followed from its inputs, constants and casts through the layers, and set as
    constraints.

    Args:
        dialect: of the network's library.
        network: as it was parsed.
        state_dtype: of the states, which are what most plugins put out after their first output.
    """
    trt = dialect.trt
    names = type_names(trt)
    floats = (trt.float32, trt.float16)
    states = trt.float16 if state_dtype == "float16" else trt.float32
    types = {network.get_input(i).name: network.get_input(i).dtype for i in range(network.num_inputs)}
    wanted = Wanted()
    for layer in map(network.get_layer, range(network.num_layers)):
        given = [tensor for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]
        read = [types.get(tensor.name, tensor.dtype) for tensor in given]
        operator = dialect.plugin_name(layer)
        carried = next((dtype for dtype in read[_ACTIVATIONS_FROM.get(operator or "", 0) :] if dtype in floats), None)
        fixed = _fixed_type(trt, layer)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        for i, tensor in enumerate(outputs):
            if fixed is not None:
                types[tensor.name] = fixed
            elif carried is None or tensor.dtype not in floats:
                types[tensor.name] = tensor.dtype
            else:
                single = operator in _FLOAT32_AFTER_FIRST or i >= _FLOAT32_FROM.get(operator or "", len(outputs))
                later = trt.float32 if single else states
                apart = operator is not None and operator not in _AS_FIRST and i > 0
                single = operator in _FLOAT32 or (operator in _FLOAT32_FIRST and i == 0)
                types[tensor.name] = trt.float32 if single else later if apart else carried
        if operator is not None:
            wanted.plugins.append((layer.name, operator))
        made = [types[tensor.name] for tensor in outputs]
        free = fixed is not None or layer.type in (trt.LayerType.SHAPE, trt.LayerType.IDENTITY)
        if carried is None or free or any(dtype not in floats for dtype in made):
            continue
        if operator is None:  # a plugin computes in what its formats say
            layer.precision = carried
            wanted.types[layer.name] = names[carried]
        for i, dtype in enumerate(made):
            if not outputs[i].is_network_output:
                layer.set_output_type(i, dtype)
        if operator is None:
            wanted.counts[names[carried]] += 1
        else:  # one that takes the residual in float32 may multiply by weights in float16
            half = trt.float16 in (*read, *made)
            wanted.counts["float16 plugins" if half else f"{names[carried]} plugins"] += 1
    return wanted


def _fixed_type(trt: Any, layer: Any) -> Any:
    """The type that a constant or a cast was made with, or None for other layers.

    Their tensors' dtype says float32 until the engine is built.
    """
    if layer.type == trt.LayerType.CONSTANT:
        layer.__class__ = trt.IConstantLayer
        weights = layer.weights  # a NumPy array, or trt.Weights where NumPy has no such type
        return {"float16": trt.float16, "float32": trt.float32}.get(str(weights.dtype), layer.get_output(0).dtype)
    if layer.type == getattr(trt.LayerType, "CAST", None):
        layer.__class__ = trt.ICastLayer
        return layer.to_type
    # What 8.5's parser makes of a cast.
    if layer.type == trt.LayerType.IDENTITY and layer.output_type_is_set(0):
        return layer.get_output_type(0)
    return None
