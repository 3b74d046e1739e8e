"""What the runtime uses of the driver and of real TensorRT packages, as far as that can be told without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from fake_cuda import CAPTURE_INVALID, FakeCuda

from aim_edge.runtime.backends.trt_api import version_numbers
from aim_edge.runtime.backends.trt_kernels import ImageParams, SampleParams, Sampling
from aim_edge.runtime.backends.trt_memory import Arena, choose_profile, padded_batch
from aim_edge.runtime.cuda import CudaError, Device, DeviceMemoryError
from aim_edge.runtime.cuda_driver import _Memcpy3D
from aim_edge.runtime.sampler import SamplingConfig

# Each line: alternatives, one of which a version must have. In a process of its own: these libraries do not share one.
PROBE = """
import importlib, json, sys
from collections import deque
from aim_edge.runtime.backends import trt_api
module = importlib.import_module(sys.argv[1])
wanted = [
    (module, "Runtime"), (module, "get_plugin_registry"), (module.ILogger, "ERROR"), (module.IProfiler, "__init__"),
    (module.ILogger, "INTERNAL_ERROR"), (module.TensorIOMode, "INPUT"), (module.TensorLocation, "DEVICE"),
    (module.Runtime, "deserialize_cuda_engine"), (module.Runtime, "engine_host_code_allowed"),
    (module.IPluginRegistry, "load_library"), (module.IPluginRegistry, "get_creator", "get_plugin_creator"),
    *((module.ICudaEngine, name) for name in (
        "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_location",
        "get_tensor_shape", "num_optimization_profiles", "get_tensor_profile_shape")),
    (module.ICudaEngine, "get_device_memory_size_for_profile_v2", "device_memory_size"),
    *((module.IExecutionContext, name) for name in (
        "active_optimization_profile", "set_optimization_profile_async", "set_input_shape", "set_tensor_address",
        "execute_async_v3", "profiler")),
    (module.IExecutionContext, "set_device_memory", "device_memory"),
]
if hasattr(module, "ExecutionContextAllocationStrategy"):
    wanted.append((module.ExecutionContextAllocationStrategy, "USER_MANAGED"))
else:
    wanted.append((module.ICudaEngine, "create_execution_context_without_device_memory"))
missing = [str(names) for owner, *names in wanted if not any(hasattr(owner, name) for name in names)]
lines = deque(maxlen=2)
log = trt_api._make_log(module, lines)
log.log(module.ILogger.WARNING, "a warning")
log.log(module.ILogger.ERROR, "an error ")
log.log(module.ILogger.INTERNAL_ERROR, "another")
types = {module.float32: 1, module.float16: 2, module.int32: 3}
told = {"missing": missing, "lines": list(lines), "types": len(types), "version": module.__version__}
if sys.argv[2]:
    told["library"] = trt_api.open_library(sys.argv[2]).version
sys.stdout.write(json.dumps(told))
"""


@pytest.mark.parametrize(
    ("module", "backend"), [("tensorrt_lean_bindings", ""), ("tensorrt_rtx_bindings", "tensorrt-rtx"),
                            ("tensorrt", "tensorrt")],
)  # fmt: skip
def test_real_packages_have_what_is_used(module: str, backend: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, backend], capture_output=True, text=True, check=True, timeout=120
    )
    told = json.loads(done.stdout)
    assert told["missing"] == []
    assert told["lines"] == ["an error", "another"] and told["types"] == 3
    assert told.get("library", told["version"]) == told["version"]


def test_the_lean_runtime_is_no_backend() -> None:
    from aim_edge.runtime.backends.trt_api import LIBRARIES

    assert not [name for _, modules in LIBRARIES.values() for name in modules if "lean" in name or "dispatch" in name]


def test_structs_have_the_sizes_of_the_c_headers() -> None:
    sizes = [ctypes.sizeof(kind) for kind in (Sampling, SampleParams, ImageParams, _Memcpy3D)]
    assert sizes == [40, 88, 56, 200]
    made = Sampling.of(SamplingConfig(3.5, 0.5, 1 << 40, 0.25), 2**64 - 1)
    assert (made.seed, made.top_p, made.guidance_scale, made.temperature, made.top_k) == (2**64 - 1, 0.25, 3.5, 0.5, 0)


@pytest.mark.parametrize(("text", "numbers"), [("8.6.1", (8, 6, 1)), ("11.4.0.106", (11, 4, 0, 106)),
                                               ("10.0.0b6", (10, 0)), ("", ())])  # fmt: skip
def test_versions_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers


def test_profiles_are_chosen_and_batches_padded() -> None:
    profiles = [(1, 1, 4), (2, 4, 8), (16, 16, 32)]
    assert [choose_profile(profiles, batch) for batch in (1, 2, 3, 4, 8, 20)] == [0, 0, 1, 1, 1, 2]
    with pytest.raises(ValueError, match=r"batch is 9; .* are 1:1:4, 2:4:8, 16:16:32; choose another"):
        choose_profile(profiles, 9)
    assert [padded_batch(profiles, batch) for batch in (1, 8, 9, 32)] == [1, 8, 16, 32]
    assert padded_batch([(4, 4, 8)], 1) == 4


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr("aim_edge.runtime.cuda.load_library", lambda: fake.library)
    return fake


def test_copies_go_there_and_back(cuda: FakeCuda) -> None:
    device = Device()
    stream, memory, other = device.stream(), device.alloc(64, "a test"), device.alloc(64, "a test")
    sent = np.arange(16, dtype=np.int32)
    stream.copy_in(memory.handle, sent)
    stream.copy(other.handle, memory.handle, 64)
    stream.zero(other.handle, 8)
    pinned = device.pinned(64)
    view = pinned.view((4, 4), "int32")
    stream.copy_out(view, other.handle)
    stream.synchronize()
    np.testing.assert_array_equal(view.ravel(), np.where(sent < 2, 0, sent))
    with pytest.raises(ValueError, match="array is not contiguous"):
        stream.copy_in(memory.handle, sent[::2])
    del view
    device.close()
    device.close()
    assert cuda.is_clean
    for closed in (lambda: memory.handle, lambda: stream.synchronize(), device.memory):
        with pytest.raises(RuntimeError, match="closed"):
            closed()


def test_a_captured_graph_runs_when_launched_and_tells_its_nodes(cuda: FakeCuda) -> None:
    device = Device()
    stream, memory = device.stream(), device.alloc(8, "a test")
    with stream.captured() as made:
        stream.zero(memory.handle, 4)
        stream.copy(memory.handle + 4, memory.handle, 4)
    (graph,) = made
    assert graph.nodes == {"memset": 1, "memcpy device to device": 1}
    assert bytes(cuda.array(memory.handle, (8,), np.uint8)) == b"\xcd" * 8
    stream.launch(graph)
    assert not cuda.array(memory.handle, (8,), np.uint8).any()
    device.close()
    assert cuda.is_clean


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_capture_that_is_broken_off_leaves_the_stream_usable(cuda: FakeCuda, error: type[BaseException]) -> None:
    device = Device()
    stream, memory = device.stream(), device.alloc(4, "a test")
    with pytest.raises(error), stream.captured():
        stream.zero(memory.handle, 4)
        raise error
    cuda.broken.add(stream.handle)
    with pytest.raises(CudaError, match=f"cuStreamEndCapture: error {CAPTURE_INVALID}"), stream.captured():
        stream.zero(memory.handle, 4)
    stream.synchronize()
    device.close()
    assert cuda.is_clean


def test_memory_is_cut_up_and_aligned(cuda: FakeCuda) -> None:
    device = Device()
    plan = [("states", "a", 300), ("states", "b", 1), ("scratch", "c", 0)]
    arena = Arena(device, "a test", plan)
    offsets = {name: at - arena.at["a"] for name, at in arena.at.items()}
    assert offsets == {"a": 0, "b": 512, "c": 1024}
    assert arena.uses == {"states": 1024, "scratch": 512} and arena.size["b"] == 1
    arena.close()
    arena.close()
    assert not cuda.memory
    cuda.limit = 1000
    with pytest.raises(DeviceMemoryError, match=r"a test \(states 1024 bytes, scratch 512 bytes\) needs 1536 bytes; "
                                                "1000 bytes of 1000 bytes are free"):  # fmt: skip
        Arena(device, "a test", plan)
    device.close()


def test_what_is_dropped_is_freed_in_its_own_context(cuda: FakeCuda) -> None:
    device = Device()
    memory: Any = device.alloc(4, "a test")
    cuda.current = None
    del memory
    assert not cuda.memory and cuda.current is not None
