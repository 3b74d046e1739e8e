"""The lowerings by name: how the mixers are written, and in which version of the standard."""

from __future__ import annotations

from dataclasses import dataclass

from .mixers import Primitive, Recurrence
from .mixers_attention import OrtContrib, Standard
from .mixers_layers import PluginLayers
from .mixers_plugin import Plugin, PluginFused


@dataclass(frozen=True)
class Lowering:
    """A lowering's class, the version of the standard operators around it, and whether it normalises by one of them."""

    recurrence: type[Recurrence]
    opset: int
    native_norm: bool = False


LOWERINGS: dict[str, Lowering] = {
    "primitive": Lowering(Primitive, 17),
    "onnx": Lowering(OrtContrib, 17, native_norm=True),
    "onnx-opset27": Lowering(Standard, 27, native_norm=True),
    "plugin": Lowering(Plugin, 17),
    "plugin-fused": Lowering(PluginFused, 17),
    "plugin-layers": Lowering(PluginLayers, 17),
}
