"""From a checkpoint to a bundle, and the proof that both are one model."""

from .bundle import export_bundle
from .parity import GATES, Gates, ParityReport, validate

__all__ = ["GATES", "Gates", "ParityReport", "export_bundle", "validate"]
