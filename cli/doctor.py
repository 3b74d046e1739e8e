"""aim-edge doctor: which backends work here, and what installs those that do not."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import typer

from .console import output

NONE_WORKS = 1
_CPU_BACKENDS = ("ort-cpu",)
_DRIVER_HELP = "install NVIDIA's driver (on Jetson it is part of JetPack)"
# CUdevice_attribute: COMPUTE_CAPABILITY_MAJOR and _MINOR.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: what was found, or else what installs it."""

    name: str
    found: bool
    detail: str


def doctor() -> None:
    """Say which backends work on this machine and what is missing; exit with 1 if none works."""
    from rich.table import Table

    backends = find_backends()
    for title, word, findings in (("backends", "works", backends), ("what is here", "found", find_components())):
        table = Table(title=title, title_justify="left", show_header=False)
        for finding in findings:
            table.add_row(finding.name, word if finding.found else "missing", finding.detail)
        output.print(table)
    working = [finding.name for finding in backends if finding.found]
    output.print(f"backends that work here: {', '.join(working) or 'none'}")
    if not working:
        raise typer.Exit(NONE_WORKS)


def find_backends() -> list[Finding]:
    """Every backend of the runtime: whether it works here."""
    from aim_edge.runtime.backends import BACKENDS, check_backend
    from aim_edge.runtime.errors import BackendMissingError

    findings = []
    driver = cuda_driver()
    for name in BACKENDS:
        try:
            detail = check_backend(name)
        except BackendMissingError as error:
            findings.append(Finding(name, False, str(error)))
            continue
        # A library built for CUDA imports without a GPU too.
        works = name in _CPU_BACKENDS or driver.found
        findings.append(Finding(name, works, detail if works else f"{detail}, but {driver.detail}"))
    return findings


def find_components() -> list[Finding]:
    """What the backends and the other commands build on."""
    return [
        Finding("Python", True, f"{platform.python_version()} on {platform.machine()}"),
        _package("NumPy", "numpy", "pip install numpy"),
        _onnxruntime(),
        _package("TensorRT", "tensorrt", 'pip install "aim-edge[tensorrt]" (Jetson: apt install python3-libnvinfer)'),
        _package("TensorRT-RTX", "tensorrt_rtx_bindings", 'pip install "aim-edge[tensorrt-rtx]"'),
        cuda_driver(),
        _program("nvcc", "release", "to build the plugins: install the CUDA toolkit (Jetson: apt install cuda-nvcc)"),
        _program("npm", "", "to fetch the demo's training images only: apt install npm"),
        _package("PyTorch", "torch", 'to export and validate: pip install "aim-edge[export]"'),
        _package("onnx", "onnx", 'to export and inspect: pip install "aim-edge[export]"'),
    ]


def _package(name: str, module: str, fix: str) -> Finding:
    """A Python package: found without being imported."""
    if importlib.util.find_spec(module) is None:
        return Finding(name, False, fix)
    owners = metadata.packages_distributions().get(module, [])
    versions = ", ".join(f"{owner} {metadata.version(owner)}" for owner in dict.fromkeys(owners))
    return Finding(name, True, versions or "installed without package metadata")


def _onnxruntime() -> Finding:
    found = _package("ONNX Runtime", "onnxruntime", 'pip install "aim-edge[ort]", or "aim-edge[ort-gpu]" for CUDA')
    if not found.found:
        return found
    try:
        ort: Any = importlib.import_module("onnxruntime")
        return Finding(found.name, True, f"{found.detail}: {', '.join(ort.get_available_providers())}")
    except Exception as error:  # a broken install raises whatever its loader raises
        return Finding(found.name, False, f"{found.detail} does not load ({error}); install it again")


def _program(name: str, wanted: str, fix: str) -> Finding:
    """A program on PATH, with the line of its --version that holds `wanted`."""
    path = shutil.which(name)
    if path is None:
        return Finding(name, False, fix)
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, False, f"{path} does not run ({error})")
    lines = [line.strip() for line in text.splitlines() if wanted in line]
    return Finding(name, True, lines[0] if lines else path)


def cuda_driver() -> Finding:
    """The CUDA driver with its GPUs, asked through its own library: no toolkit is needed for that."""
    for library in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        return _ask_driver(driver)
    return Finding("CUDA driver", False, f"no libcuda; {_DRIVER_HELP}")


def _ask_driver(driver: ctypes.CDLL) -> Finding:
    def ask(function: Callable[..., int], *arguments: Any) -> int:
        value = ctypes.c_int()
        status = function(ctypes.byref(value), *arguments)
        if status:
            raise OSError(f"{function.__name__} returned {status}")
        return value.value

    try:
        if status := driver.cuInit(0):
            raise OSError(f"cuInit returned {status}")
        version = ask(driver.cuDriverGetVersion)
        count = ask(driver.cuDeviceGetCount)
        gpus = []
        for i in range(count):
            name = ctypes.create_string_buffer(256)
            driver.cuDeviceGetName(name, len(name), i)
            major, minor = (ask(driver.cuDeviceGetAttribute, kind, i) for kind in (_MAJOR, _MINOR))
            gpus.append(f"{name.value.decode(errors='replace')} (sm_{major}{minor})")
    except OSError as error:
        return Finding("CUDA driver", False, f"the CUDA driver finds no usable GPU ({error}); {_DRIVER_HELP}")
    if not gpus:
        return Finding("CUDA driver", False, "the CUDA driver finds no GPU")
    return Finding("CUDA driver", True, f"CUDA {version // 1000}.{version % 1000 // 10}: {', '.join(gpus)}")
