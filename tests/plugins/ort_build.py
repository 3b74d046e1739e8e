"""Builds the ONNX Runtime operators over the kernels' CPU emulator: everything but the GPU is real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS, EMULATOR, HERE = ROOT / "plugins", ROOT / "tests/kernels/emulator", Path(__file__).parent


def headers() -> Path:
    """ONNX Runtime's C headers; without them the calling test is skipped. No package carries them."""
    folder = os.environ.get("AIM_ONNXRUNTIME_INCLUDE")
    if not folder:
        pytest.skip("NOT RUN: AIM_ONNXRUNTIME_INCLUDE names no folder of onnxruntime_c_api.h")
    return Path(folder)


def build_emulated(target: Path, ort: Path, cuda: Path) -> Path:
    """Compiles into the folder `target` and returns the library."""
    target.mkdir(parents=True, exist_ok=True)
    common = ["g++", "-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    common += ["-isystem", str(cuda), "-isystem", str(cuda / "cccl"), f"-I{PLUGINS / 'include'}"]
    kernels = ["-x", "c++", "-fno-strict-aliasing", "-Wno-unknown-pragmas", f"-I{PLUGINS / 'src'}"]
    kernels += [f"-I{EMULATOR}", "-include", str(EMULATOR / "cuda_emulator.h")]
    operators = [f"-I{PLUGINS / 'operators'}"]
    adapter = ["-isystem", str(ort), f"-I{PLUGINS / 'onnxruntime'}", *operators]
    sources = dict.fromkeys([*PLUGINS.glob("src/*.cu"), *EMULATOR.glob("*.cpp")], kernels)
    sources |= dict.fromkeys(PLUGINS.glob("operators/*.cpp"), operators)
    sources |= {path: adapter for path in PLUGINS.glob("onnxruntime/*.cpp") if path.name != "register.cpp"}
    sources |= {HERE / "ort_emulated.cpp": adapter, HERE / "emulated/cuda_memory.cpp": []}
    objects = []
    for source, flags in sorted(sources.items()):
        objects.append(str(target / f"{source.name}.o"))
        subprocess.run([*common, *flags, "-c", str(source), "-o", objects[-1]], check=True)
    library = target / "libaim_edge_onnxruntime_emulated.so"
    exports = f"-Wl,--version-script={PLUGINS / 'onnxruntime' / 'exports.map'}"
    subprocess.run(["g++", "-shared", "-o", str(library), *objects, exports, "-Wl,--no-undefined"], check=True)
    return library
