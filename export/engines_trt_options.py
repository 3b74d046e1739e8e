"""How TensorRT engines are built."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

TACTIC_SOURCES = ("none", "default")
_SWITCHES = ("prefer_precision", "version_compatible", "hardware_compatible", "strip_weights")
_FILES = ("timing_cache", "plugins")
_MOST_MIB = 1 << 20


@dataclass(frozen=True)
class TrtOptions:
    """Options of a TensorRT build; what is None is left to TensorRT or to what is found.

    Attributes:
        level: how long the builder looks for fast layers, 0 to 5 (TensorRT 8.6 and later).
        workspace: MiB of device memory that a layer may take for itself.
        tactic_sources: "none" or "default" of the libraries and sources of kernels that TensorRT may use beside its
            own; None: "none" below TensorRT 10, whose sources are cuBLAS and cuDNN, "default" from 10 on.
        prefer_precision: below TensorRT 10, layers are wished in the types that the graph gives them, in place of
            ordered: the builder may take another where it has no layer, or a faster one.
        timing_cache: file of timings that is read and written back; None: one of this GPU in the user's cache folder.
        plugins: the plugin library; None: AIM_EDGE_PLUGINS, or what `aim-edge plugins build` left.
        version_compatible: other versions of TensorRT may load the engines (8.6 and later).
        hardware_compatible: other GPUs from Ampere on may load them (8.6 and later).
        strip_weights: the engines hold no weights, and whoever loads them gives them anew (10 and later).

    Raises:
        ValueError: naming every field that is not what is allowed.
    """

    level: int | None = None
    workspace: int | None = None
    tactic_sources: str | None = None
    prefer_precision: bool = False
    timing_cache: str | Path | None = None
    plugins: str | Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False

    def __post_init__(self) -> None:
        bad = []
        for name, low, high in (("level", 0, 5), ("workspace", 1, _MOST_MIB)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not low <= value <= high):
                bad.append(f"{name} is {value!r}; allowed: an integer from {low} to {high}, or None")
        if self.tactic_sources is not None and self.tactic_sources not in TACTIC_SOURCES:
            bad.append(f"tactic_sources is {self.tactic_sources!r}; allowed: {', '.join(TACTIC_SOURCES)}, or None")
        bad += [
            f"{name} is {getattr(self, name)!r}; allowed: True or False"
            for name in _SWITCHES
            if type(getattr(self, name)) is not bool
        ]
        for name in _FILES:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (str, Path)) or not str(value)):
                bad.append(f"{name} is {value!r}; allowed: a file's path, or None")
        if bad:
            raise ValueError("TrtOptions: " + "; ".join(bad))

    def flags(self) -> tuple[str, ...]:
        """What the engines are to be, as `EngineRecord.flags` has it."""
        named = (
            ("version-compatible", self.version_compatible), ("hardware-compatible", self.hardware_compatible),
            ("weight-stripped", self.strip_weights),
        )  # fmt: skip
        return tuple(name for name, wanted in named if wanted)

    def given(self) -> list[str]:
        """The fields that are not as they are by default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]
