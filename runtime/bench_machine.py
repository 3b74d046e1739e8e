"""What a figure was measured on: GPU, drivers, processor, versions."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aim_edge

from .backends import Backend
from .cuda import Device

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings")
_DRIVER = Path("/sys/module/nvidia/version")
_PROCESSORS = Path("/proc/cpuinfo")


def open_device(backend: Backend) -> tuple[Device | None, bool]:
    """The GPU that a backend runs on (None: the CPU), and whether it was opened here and is to be closed."""
    device = getattr(backend, "device", None)
    if isinstance(device, Device):
        return device, False
    if backend.name == "ort-cuda" and isinstance(device, tuple):
        return Device(device[1]), True
    return None, False


def describe_machine(device: Device | None) -> dict[str, Any]:
    """JSON-ready; "gpu" and what belongs to it are "" where the backend runs on the CPU."""
    return {
        "gpu": "" if device is None else device.name,
        "sm": "" if device is None else device.sm,
        "cuda_driver": "" if device is None else device.driver_version,
        "kernel_driver": "" if device is None else _read(_DRIVER),
        "device_memory": 0 if device is None else device.memory()[1],
        "cpu": _processor(),
        "cpu_count": os.cpu_count() or 0,
        "platform": platform.platform(),
    }


def describe_versions() -> dict[str, str]:
    """Of aim-edge, Python and what engines' packages are installed; the backend tells what it has loaded."""
    found = {"aim-edge": aim_edge.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_memory() -> int | None:
    """The most bytes of host memory that this process ever held; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _processor() -> str:
    lines = (line.partition(":") for line in _read(_PROCESSORS).splitlines())
    named = (value.strip() for key, _, value in lines if key.strip() == "model name")
    return next(named, platform.processor() or platform.machine())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
