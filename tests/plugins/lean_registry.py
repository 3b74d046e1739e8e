"""Creates the plugins through TensorRT's lean runtime, in a process of its own: a crash must not end the tests.

    python lean_registry.py LIBRARY OPERATOR FIELDS

FIELDS is JSON: a list of [name, type, value], type being int32, int64, float32 or string. Prints one JSON object:
the creators that the registry has, the fields that OPERATOR announces, and whether a plugin was made.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorrt_lean_bindings as trt

_kept: list[np.ndarray[Any, Any]] = []  # a PluginField only points at its value


def field(name: str, kind: str, value: Any) -> trt.PluginField:
    array = np.frombuffer(value.encode(), np.int8) if kind == "string" else np.array([value], kind)
    _kept.append(array)
    return trt.PluginField(name, array, getattr(trt.PluginFieldType, "CHAR" if kind == "string" else kind.upper()))


def main() -> None:
    library, operator, fields = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    registry = trt.get_plugin_registry()
    handle = registry.load_library(library)
    creator = registry.get_creator(operator, "1", "")
    told = {"loaded": handle is not None, "creators": [creator.name for creator in registry.all_creators]}
    if creator is not None:
        told["announced"] = [known.name for known in creator.field_names]
        collection = trt.PluginFieldCollection([field(*entry) for entry in fields])
        made = creator.create_plugin("test", collection, trt.TensorRTPhase.BUILD)
        told["made"] = made is not None
        if made is not None:
            core = made.get_capability_interface(trt.PluginCapabilityType.CORE)
            told["named"] = [core.plugin_name, core.plugin_version, core.plugin_namespace]
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
