"""From a checkpoint to a bundle and its engines, and the proof that they are one model."""

from .bundle import export_bundle
from .diagnosis import Diagnosis, Finding
from .engines import build_engines
from .engines_rtx import EngineBuildError
from .gate import GateReport, check_gates
from .gate_rules import Rules
from .locate import locate
from .parity import examine, validate
from .parity_report import GATES, STATE_GATES, Gates, ParityReport, StateGates

__all__ = [
    "GATES",
    "STATE_GATES",
    "Diagnosis",
    "EngineBuildError",
    "Finding",
    "GateReport",
    "Gates",
    "ParityReport",
    "Rules",
    "StateGates",
    "build_engines",
    "check_gates",
    "examine",
    "export_bundle",
    "locate",
    "validate",
]
