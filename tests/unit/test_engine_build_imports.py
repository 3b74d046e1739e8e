"""Engines are built where neither torch nor onnx is: nothing on that path may load them; and real names are used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from needs import missing

import aim_edge.export
from aim_edge.export import engines_trt_versions

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "jinja2", "safetensors", "onnxruntime"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Block())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch is not blocked")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "code",
    [
        "import aim_edge.export.engines, aim_edge.export.engines_trt, aim_edge.cli.build, aim_edge.cli.inspect",
        "from aim_edge.export import build_engines, EngineBuildError, TrtOptions",
        "from aim_edge.cli import main\nassert main(['build', 'absent', '--target', 'tensorrt']) == 2",
    ],
)
def test_building_engines_needs_neither_torch_nor_onnx(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stderr


def test_what_needs_them_still_says_so() -> None:
    done = run("from aim_edge.export import export_bundle")
    assert done.returncode != 0 and "is blocked" in done.stderr


def test_every_name_is_there() -> None:
    for name in aim_edge.export.__all__:
        assert getattr(aim_edge.export, name) is not None and name in dir(aim_edge.export)
    assert sorted(aim_edge.export._HOME) == sorted(aim_edge.export.__all__)
    assert callable(aim_edge.export.locate)  # a module has that name too
    with pytest.raises(AttributeError, match=r"aim_edge\.export.* has no attribute 'paint'"):
        aim_edge.export.paint  # noqa: B018


def names(module: str, wanted: list[str]) -> None:
    """Looks dotted names up in a real library."""
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        missing(str(error))
    lacking = []
    for dotted in wanted:
        found = library
        for part in dotted.split("."):
            found = getattr(found, part, None)
        if found is None:
            lacking.append(dotted)
    assert not lacking


def test_the_names_are_those_of_tensorrt_11() -> None:
    """The lean runtime has no builder, but the names that both share."""
    assert engines_trt_versions.OLDEST == (8, 5)
    names("tensorrt_lean_bindings", [
        "BuilderFlag.TF32", "BuilderFlag.VERSION_COMPATIBLE", "BuilderFlag.STRIP_PLAN", "ProfilingVerbosity.DETAILED",
        "MemoryPoolType.WORKSPACE", "LayerInformationFormat.JSON", "HardwareCompatibilityLevel.AMPERE_PLUS",
        "ExecutionContextAllocationStrategy.USER_MANAGED", "PluginCapabilityType.CORE", "IProgressMonitor",
        "IPluginV3.get_capability_interface", "IPluginRegistry.load_library", "IPluginRegistry.get_creator",
        "Runtime.deserialize_cuda_engine", "Runtime.engine_host_code_allowed", "ICudaEngine.get_tensor_name",
        "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_shape", "ICudaEngine.num_io_tensors",
        "ICudaEngine.device_memory_size_v2", "ICudaEngine.create_engine_inspector",
        "ICudaEngine.create_execution_context", "IExecutionContext.set_input_shape", "ILogger.INTERNAL_ERROR",
    ])  # fmt: skip


def test_the_builders_names_are_those_of_tensorrt_rtx() -> None:
    """TensorRT-RTX's builder is TensorRT 10's and 11's, but for plugins."""
    names("tensorrt_rtx_bindings", [
        "Builder.create_network", "Builder.create_builder_config", "Builder.create_optimization_profile",
        "Builder.build_serialized_network", "IBuilderConfig.clear_flag", "IBuilderConfig.set_flag",
        "IBuilderConfig.profiling_verbosity", "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.set_tactic_sources", "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.get_memory_pool_limit", "IBuilderConfig.hardware_compatibility_level",
        "IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "IBuilderConfig.get_timing_cache",
        "ITimingCache.serialize", "IBuilderConfig.progress_monitor", "IBuilderConfig.add_optimization_profile",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "EngineInspector.get_engine_information",
        "EngineInspector.execution_context", "OnnxParser.parse_from_file", "INetworkDefinition.get_layer",
    ])  # fmt: skip
