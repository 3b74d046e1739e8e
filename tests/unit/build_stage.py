"""What the tests of build_engines with TensorRT share: a toy bundle, a GPU at hand, and a played TensorRT."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_builder import Layer, World, model_layers
from fake_builder_module import make_module
from toy_bundle import make_bundle

from aim_edge.export import build_engines
from aim_edge.export import engines as engines_module
from aim_edge.runtime.bundle import read_manifest, record_files, write_manifest
from aim_edge.runtime.manifest import EngineRecord

GPU = "NVIDIA H100 80GB HBM3"
VERSIONS = ("8.5.2", "8.6.0", "9.3.0", "10.3.0.26", "11.4.0.106")
GRAPHS = ("condition", "step", "scan", "vq_decode")


class Hand:
    """The GPU at hand."""

    name, sm, driver_version = GPU, "sm90", "13.0"

    def memory(self) -> tuple[int, int]:
        return 3 << 30, 80 << 30

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def toy_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("toy") / "bundle", state_dtype="float16")


@pytest.fixture
def toy(toy_made: Path, tmp_path: Path) -> Path:
    """A float16 bundle with float16 states."""
    path = Path(shutil.copytree(toy_made, tmp_path / "bundle"))
    change(path, precision="float16")
    return path


def change(path: Path, **changes: Any) -> None:
    write_manifest(path, replace(read_manifest(path), **changes))


def with_plugins(path: Path) -> None:
    """Makes it of the plugin lowering: step and scan have a variant without bodies."""
    for graph in ("step", "scan"):
        shutil.copyfile(path / f"{graph}.onnx", path / f"{graph}.trt.onnx")
    change(path, lowering="plugin", files=record_files(path))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A shared library that tells its version, as ours does."""
    return compile_library(tmp_path, "int aim_version(void) { return 203; }")


def compile_library(folder: Path, code: str) -> Path:
    (folder / "library.c").write_text(code + "\n")
    path = folder / "libours.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(path), str(folder / "library.c")], check=True)
    return path


Play = Callable[..., World]


@pytest.fixture
def play(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Puts a version of TensorRT and the GPU in place."""
    monkeypatch.setattr(engines_module, "Device", Hand)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AIM_EDGE_PLUGINS", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(version: str, plugin: bool = False, dtype: str = "float16", **more: Any) -> World:
        manifest = read_manifest(toy)
        kind = ("PLUGIN_V3" if int(version.split(".")[0]) >= 10 else "PLUGIN_V2") if plugin else ""
        states = [(state.input, state.output) for state in manifest.contract.states]

        def layers(graph: str) -> list[Layer]:
            decoder = graph in ("step", "scan")
            result = next(t.name for t in manifest.contract.graphs[graph].outputs)
            if decoder:
                return model_layers(states, dtype, kind, "class_embedding", result)
            return model_layers((), "float32" if graph == "condition" else dtype, result=result)

        world = World(manifest.contract, layers, **more)
        monkeypatch.setitem(sys.modules, "tensorrt", make_module(version, world))
        return world

    return call


def build(toy: Path, *arguments: Any, **more: Any) -> EngineRecord:
    return build_engines(toy, ["tensorrt"], *arguments, **more)["trt:sm90"]


def left_over(toy: Path) -> list[str]:
    return sorted(path.name for path in toy.iterdir() if path.name.startswith("."))
