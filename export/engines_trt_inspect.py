"""What TensorRT's inspector says of an engine's layers: in which types they compute as built."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .engines_trt_types import Wanted

# The inspector's words for types, in what it says of formats ("Row major linear FP16 format") and of weights ("Half").
_WORDS = (
    ("bfloat16", r"bf16|bfloat16"), ("float16", r"fp16|half|float16"), ("float8", r"fp8|float8"),
    ("float32", r"fp32|float32|float"), ("int8", r"int8"), ("int32", r"int32"), ("int64", r"int64"), ("bool", r"bool"),
)  # fmt: skip
_FLOATS = ("float32", "float16")
# Layers that move or hold what others computed.
_MOVES = ("reformat", "noop", "constant", "shape", "signal", "wait", "shuffle", "slice", "concat", "gather", "cast")
_FUSED = ("myelin", "foreignnode")
_AGAIN = re.compile(r" \[profile [1-9]\d*\]$")  # a layer that is listed once more, for another profile
_SHOWN = 5


@dataclass(frozen=True)
class LayerFact:
    """One layer of an engine.

    Attributes:
        name, kind, tactic: as TensorRT has them.
        type: what it computes in; "plugin"; "fused" for several layers in one, of which TensorRT tells nothing;
            "moves" for one that does not compute; "unknown" where that could not be read.
        inputs, outputs: types of its tensors ("unknown" where not told).
    """

    name: str
    kind: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str


@dataclass(frozen=True)
class Inspection:
    """The layers of an engine, once for every profile; `readable` is False where the inspector's words are unknown."""

    layers: tuple[LayerFact, ...]
    readable: bool

    def once(self) -> tuple[LayerFact, ...]:
        """The layers of one profile."""
        return tuple(layer for layer in self.layers if not _AGAIN.search(layer.name))

    def counts(self) -> dict[str, int]:
        """`EngineFile.layers`."""
        kinds = Counter(layer.type for layer in self.once() if layer.type != "moves")
        return dict(kinds.most_common())

    def plugins(self, wanted: Wanted) -> dict[str, int]:
        """`EngineFile.plugins`."""
        operators = dict(wanted.plugins)
        found = [layer.name for layer in self.once() if layer.type == "plugin"]
        return dict(Counter(operators.get(name) or _operator_in(name, operators) for name in found).most_common())

    def to_list(self) -> list[dict[str, Any]]:
        """JSON-ready."""
        return [asdict(layer) for layer in self.layers]


def read_inspection(text: str, wanted: Wanted) -> Inspection:
    """Reads the inspector's JSON. What is not as expected becomes "unknown", never an error."""
    try:
        layers = json.loads(text, strict=False)["Layers"]  # 8.6 separates names by bare control characters
    except (ValueError, TypeError, KeyError):
        return Inspection((), False)
    if not isinstance(layers, list):
        return Inspection((), False)
    plugins = {name for name, _ in wanted.plugins}
    return Inspection(tuple(_read_layer(layer, plugins) for layer in layers), bool(layers))


def _read_layer(layer: Any, plugins: set[str]) -> LayerFact:
    if not isinstance(layer, Mapping):  # a name alone: the engine was built without its details
        name = str(layer)
        return LayerFact(name, "", "plugin" if name in plugins else "unknown", (), (), "")
    name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", ""))
    inputs, outputs = (tuple(map(_type_of, _tensors(layer.get(side)))) for side in ("Inputs", "Outputs"))
    lowered = kind.lower()
    if name in plugins or "plugin" in lowered:
        found = "plugin"
    elif any(word in lowered for word in _FUSED) or name.startswith("{ForeignNode["):
        found = "fused"
    elif any(lowered.startswith(word) for word in _MOVES):
        found = "moves"
    else:
        found = _computes_in(layer, inputs, outputs)
    return LayerFact(name, kind, found, inputs, outputs, str(layer.get("TacticName", "")))


def _tensors(side: Any) -> list[Any]:
    return side if isinstance(side, list) else []


def _type_of(tensor: Any) -> str:
    told = tensor.get("Format/Datatype", tensor.get("Datatype", "")) if isinstance(tensor, Mapping) else tensor
    return _type_in(str(told))


def _type_in(text: str) -> str:
    return next((name for name, words in _WORDS if re.search(rf"\b(?:{words})\b", text, re.IGNORECASE)), "unknown")


def _computes_in(layer: Mapping[str, Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    """The type of its weights, or else of its first floating input, or else of what it puts out."""
    weights = layer.get("Weights")
    if isinstance(weights, Mapping) and (told := _type_in(str(weights.get("Type", "")))) != "unknown":
        return told
    floats = [name for name in (*inputs, *outputs) if "float" in name]
    return floats[0] if floats else outputs[0] if outputs else "unknown"


def _operator_in(name: str, operators: Mapping[str, str]) -> str:
    """The operator of an engine's layer that has the name of a network's layer within its own."""
    return next((operator for layer, operator in operators.items() if layer and layer in name), "unknown")


def find_problems(inspection: Inspection, wanted: Wanted, half: bool | None, ordered: bool = True) -> list[str]:
    """How an engine is not what was asked for, in words.

    Args:
        inspection: of the engine.
        wanted: of its network.
        half: whether layers are to compute in float16; None: some may.
        ordered: whether the types that the network's layers are to have were more than a wish.
    """
    if not inspection.readable:
        return []
    counts, bad = inspection.counts(), []
    lost = len(wanted.plugins) - counts.get("plugin", 0)
    if lost > 0:
        names = {layer.name for layer in inspection.layers}
        gone = [f"{name} ({operator})" for name, operator in wanted.plugins if name not in names]
        bad.append(
            f"{lost} of the network's {len(wanted.plugins)} plugins are not in the engine: {_some(gone) or 'not told'}"
        )
    untold = counts.get("fused", 0) + counts.get("unknown", 0)
    typed = [(*layer.inputs, *layer.outputs) for layer in inspection.layers if layer.type == "plugin"]
    plugins = any("float16" in types for types in typed)
    untold += sum(not any(name in _FLOATS for name in types) for types in typed)
    if half and not counts.get("float16") and not plugins and not untold:
        shown = [f"{fact.name} {'/'.join(sorted({*fact.inputs, *fact.outputs}))}" for fact in inspection.once()]
        bad.append(f"float16 was asked for, but no layer computes in it ({_counted(counts)}): {_some(shown)}")
    if half is False and counts.get("float16"):
        named = [layer.name for layer in inspection.layers if layer.type == "float16"]
        bad.append(f"float32 was asked for, but {len(named)} layers compute in float16: {_some(named)}")
    narrowed = [layer.name for layer in inspection.layers if _is_narrowed(layer, wanted)]
    if narrowed and ordered:
        bad.append(f"{len(narrowed)} layers were to compute in float32 and do in float16: {_some(narrowed)}")
    return bad


def _is_narrowed(layer: LayerFact, wanted: Wanted) -> bool:
    """Whether a layer that was to compute in float32 takes and gives nothing but float16.

    A layer's name is that of the network's layer, or of several: "PWN(a, b)", "a + b". One that was fused with a cast
    may rightly give float16, so that one side in float32 acquits it.
    """
    name = _AGAIN.sub("", layer.name)
    parts = [part for part in re.split(r" \+ |, ", re.sub(r"PWN\(|\)+$", "", name)) if part]
    asked = {wanted.types.get(part) for part in [name, *parts]} - {None}
    if layer.type != "float16" or asked != {"float32"}:
        return False
    floats = [[name for name in side if name in _FLOATS] for side in (layer.inputs, layer.outputs)]
    return all(side and set(side) == {"float16"} for side in floats)


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
