"""From a checkpoint to a bundle and its engines, and the proof that they are one model.

What is named here is loaded when it is first used: engines are built on machines that have neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import export_bundle
    from .compare import Comparison, Side, compare_bundles
    from .diagnosis import Diagnosis, Finding
    from .engines import build_engines
    from .engines_common import EngineBuildError
    from .engines_trt_options import TrtOptions
    from .gate import GateReport, check_gates
    from .gate_rules import Rules
    from .locate import locate
    from .parity import examine, validate
    from .parity_report import GATES, STATE_GATES, Gates, ParityReport, StateGates

__all__ = [
    "GATES",
    "STATE_GATES",
    "Comparison",
    "Diagnosis",
    "EngineBuildError",
    "Finding",
    "GateReport",
    "Gates",
    "ParityReport",
    "Rules",
    "Side",
    "StateGates",
    "TrtOptions",
    "build_engines",
    "check_gates",
    "compare_bundles",
    "examine",
    "export_bundle",
    "locate",
    "validate",
]

_MODULES = {
    "bundle": ("export_bundle",),
    "compare": ("Comparison", "Side", "compare_bundles"),
    "diagnosis": ("Diagnosis", "Finding"),
    "engines": ("build_engines",),
    "engines_common": ("EngineBuildError",),
    "engines_trt_options": ("TrtOptions",),
    "gate": ("GateReport", "check_gates"),
    "gate_rules": ("Rules",),
    "locate": ("locate",),
    "parity": ("examine", "validate"),
    "parity_report": ("GATES", "STATE_GATES", "Gates", "ParityReport", "StateGates"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # over the module of that name, in the case of `locate`
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
