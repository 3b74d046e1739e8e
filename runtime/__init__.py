"""Bundles to images: NumPy, Pillow and one engine library; never PyTorch."""

from .bundle import Bundle
from .contract import Contract
from .errors import BackendMissingError, BundleError, EngineError, NonFiniteError
from .generator import Generator, Preview
from .manifest import SCHEMA_VERSION, CheckpointRecord, FileRecord, Manifest
from .sampler import Sampler, SamplingConfig

__all__ = [
    "SCHEMA_VERSION",
    "BackendMissingError",
    "Bundle",
    "BundleError",
    "CheckpointRecord",
    "Contract",
    "EngineError",
    "FileRecord",
    "Generator",
    "Manifest",
    "NonFiniteError",
    "Preview",
    "Sampler",
    "SamplingConfig",
]
