"""Bad input through a real TensorRT 8.6: each is refused with a message, and the process goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt
from trt86_engines import Log

FIELDS = {"aim_edge_version": np.int32(1), "ngroups": np.int32(1), "eps": np.float32(1e-5)}


def check_refusals(log: Log, builder: Any) -> dict[str, str]:
    """What was tried -> "ok", or what happened in place of a refusal."""
    creator = trt.get_plugin_registry().get_plugin_creator("RmsNormGated", "1", "")
    if creator is None:
        return {"creator": "the registry has no RmsNormGated"}
    told = {}
    cases = {
        "a graph of another version": {**FIELDS, "aim_edge_version": np.int32(2)},
        "a wrong value": {**FIELDS, "ngroups": np.int32(0)},
        "a missing attribute": {k: v for k, v in FIELDS.items() if k != "eps"},
        "an unknown attribute": {**FIELDS, "colour": np.int32(1)},
    }
    for what, values in cases.items():
        told[what] = "ok" if _create(creator, values) is None else "a plugin was made"
    plugin = _create(creator, FIELDS)
    if plugin is None:
        return {**told, "valid attributes": f"no plugin was made: {log.errors[-1:]}"}
    blob = bytes(plugin.serialize())
    told["what a plugin serialises"] = "ok" if creator.deserialize_plugin("x", blob) is not None else "is refused"
    for what, damaged in (("a short blob", blob[:-1]), ("another version's blob", blob[:8] + b"\x02" + blob[9:])):
        told[what] = "ok" if creator.deserialize_plugin("x", damaged) is None else "a plugin was made"
    told["shapes that do not fit"] = _build_misfit(log, builder, plugin)
    return told


def _create(creator: Any, values: dict[str, Any]) -> Any:
    arrays = [np.array([value]) for value in values.values()]  # a PluginField only points at its value
    kinds = {"i": trt.PluginFieldType.INT32, "f": trt.PluginFieldType.FLOAT32}
    fields = [trt.PluginField(name, a, kinds[a.dtype.kind]) for name, a in zip(values, arrays, strict=True)]
    return creator.create_plugin("x", trt.PluginFieldCollection(fields))


def _build_misfit(log: Log, builder: Any, plugin: Any) -> str:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    y = network.add_input("y", trt.float32, (2, 1, 96))
    z = network.add_input("z", trt.float32, (2, 1, 95))
    weight = network.add_input("weight", trt.float32, (96,))
    layer = network.add_plugin_v2([y, z, weight], plugin)
    layer.get_output(0).name = "out"
    network.mark_output(layer.get_output(0))
    config = builder.create_builder_config()
    config.set_tactic_sources(0)
    begin = len(log.errors)
    if builder.build_serialized_network(network, config) is not None:
        return "an engine was built"
    said = any("'z' has shape (2, 1, 95); expected (rows, length, d)" in line for line in log.errors[begin:])
    return "ok" if said else f"refused, but the log says: {log.errors[begin:][:3]}"
