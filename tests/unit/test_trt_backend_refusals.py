"""What the TensorRT backend refuses: each time with what was found, what was expected, and what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import make_module
from trt_case import Make, make_case  # noqa: F401

from aim_edge.runtime import BackendMissingError, BundleError, EngineError
from aim_edge.runtime.backends import check_backend, make_options, parse_options, tensorrt
from aim_edge.runtime.bundle import read_manifest, write_manifest

BUILD = "aim-edge build .* --target tensorrt"


def test_engines_of_another_gpu(make: Make) -> None:
    case = make(cuda=FakeCuda(sm=(8, 7)))
    with pytest.raises(
        BundleError, match=rf"no engines of 'trt:sm87' for Fake GPU \(sm87\); recorded: trt:sm90; .*{BUILD}"
    ):
        case.backend()
    with pytest.raises(BundleError, match=rf"of 'trt:sm90' are for sm90; Fake GPU \(sm87\) is here; .*{BUILD}"):
        case.backend(target="trt:sm90")
    case.change(flags=("hardware-compatible",))
    case.backend(target="trt:sm90").session(1)


def test_a_bundle_without_engines(make: Make) -> None:
    from dataclasses import replace

    case = make()
    write_manifest(case.root, replace(read_manifest(case.root), engines={}))
    with pytest.raises(BundleError, match=r"no engines of 'trt:sm90'.*recorded: none; build them"):
        case.backend()
    assert case.cuda.is_clean


@pytest.mark.parametrize(("built", "flags", "loads"), [
    ("8.6.1", (), True), ("8.6.0", (), False), ("8.5.3", ("version-compatible",), True),
    ("10.3.0", ("version-compatible",), False),
])  # fmt: skip
def test_engines_of_another_version(make: Make, built: str, flags: tuple[str, ...], loads: bool) -> None:
    case = make()
    case.change(version=built, flags=flags)
    if loads:
        case.backend().session(1)
        return
    with pytest.raises(BundleError, match=rf"were built by TensorRT {built}; 8.6.1 is here, .*{BUILD}"):
        case.backend()


def test_engines_of_the_other_library(make: Make) -> None:
    case = make()
    case.change(library="TensorRT-RTX", target="rtx:sm90", version="8.6.1")
    with pytest.raises(BundleError, match="'rtx:sm90' are of TensorRT-RTX; TensorRT is what this backend loads"):
        tensorrt.TrtBackend("tensorrt", _unchecked(case.root), tensorrt.TrtOptions(target="rtx:sm90"))


def _unchecked(root: Path) -> Any:
    from aim_edge.runtime import Bundle

    return Bundle(root, read_manifest(root))


def test_engines_on_another_board_of_the_same_architecture_are_taken(make: Make) -> None:
    case = make()
    case.change(gpu="Another GPU", driver="11.8")
    case.backend().session(1)


def test_engines_without_weights(make: Make) -> None:
    case = make()
    case.change(flags=("weight-stripped",))
    with pytest.raises(BundleError, match="without weights"):
        case.backend()


def test_engines_that_were_not_built(make: Make) -> None:
    case = make()
    (record,) = read_manifest(case.root).engines.values()
    case.change(graphs={name: file for name, file in record.graphs.items() if name not in ("scan", "vq_encode")})
    backend = case.backend()
    session = backend.session(1)
    session.set_condition([0])
    with pytest.raises(EngineError, match="have no scan; build it with: aim-edge build --graph scan"):
        session.scan([[0, 1]], 0)
    with pytest.raises(EngineError, match="have no vq_encode"):
        backend.vq_encode(np.zeros((1, 3, 12, 9), np.float32))
    case.change(graphs={"vq_decode": record.graphs["vq_decode"]})
    with pytest.raises(EngineError, match="have no step; build it with: aim-edge build --graph step"):
        case.backend().session(1)


def test_a_library_that_is_not_the_engines_own(make: Make, tmp_path: Path) -> None:
    case = make()
    other = tmp_path / "libaim_edge_tensorrt.so"
    with pytest.raises(BundleError, match="no such file"):
        case.backend(library=str(other))
    other.write_text("another")
    with pytest.raises(BundleError, match=r"SHA-256 [0-9a-f]{64} found; [0-9a-f]{64} expected, the library that"):
        case.backend(library=str(other))
    (record,) = read_manifest(case.root).engines.values()
    assert record.plugin is not None
    other.write_bytes((case.root / record.plugin.file).read_bytes())
    case.backend(library=str(other)).session(1)


def test_a_library_of_another_version(make: Make) -> None:
    case = make(kernels=300)
    with pytest.raises(EngineError, match=r"aim_version\(\) is 300; 200 is recorded"):
        case.backend()
    assert case.cuda.is_clean


def test_without_a_library_both_remedies_are_named(make: Make) -> None:
    case = make()
    case.change(plugin=None)
    with pytest.raises(EngineError, match=r"name one with library= .*, or give sampler='host'"):
        case.backend()
    case.backend(sampler="host").session(1)


def test_a_library_without_the_sampler(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make()
    monkeypatch.setattr(tensorrt, "load_library", lambda path: object())
    with pytest.raises(EngineError, match=r"has no aim_sample.*or give sampler='host'"):
        case.backend()
    case.backend(sampler="host").session(1)


def test_the_plugin_library_is_registered_once_a_process(make: Make) -> None:
    case = make()
    case.backend().close()
    case.backend().session(1)
    assert case.module.loads == 1
    (record,) = read_manifest(case.root).engines.values()
    assert record.plugin is not None
    path = case.root / record.plugin.file
    path.write_text('["SelectiveScan", "Other"]')
    from dataclasses import replace

    from aim_edge.runtime.bundle import sha256_of

    case.change(plugin=replace(record.plugin, bytes=path.stat().st_size, sha256=sha256_of(path)))
    with pytest.raises(EngineError, match=r"this process has loaded .* already, with SHA-256"):
        case.backend()


def test_operators_that_the_builder_registered_are_not_registered_again(make: Make) -> None:
    case = make()
    case.module.registered = ["SelectiveScan"]
    case.backend().session(1)
    assert case.module.loads == 0


def test_a_library_that_tensorrt_does_not_take(make: Make) -> None:
    case = make()
    case.module.registered = ["something of others"]
    with pytest.raises(EngineError, match=r"TensorRT 8.6.1 does not take it as a plugin library"):
        case.backend()


@pytest.mark.parametrize("rename", [{"token": "tokens"}, {"logits": "scores"}])
def test_an_engine_with_other_tensors(make: Make, rename: dict[str, str]) -> None:
    backend = make(step={"rename": rename}).backend()
    ((old, new),) = rename.items()
    with pytest.raises(
        BundleError, match=rf"step.engine: its tensors .*{old} is missing, .*{new} is .*none of that name"
    ):
        backend.session(1)


def test_an_engine_that_does_not_load(make: Make) -> None:
    case = make()
    backend = case.backend()
    (record,) = read_manifest(case.root).engines.values()
    (case.root / record.graphs["step"].file).write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"step.engine: TensorRT 8.6.1 cannot load it: Serialization assertion"):
        backend.session(1)
    (case.root / record.graphs["step"].file).write_bytes(b"")
    with pytest.raises(EngineError, match=r"step.engine: cannot be read"):
        backend.session(1)


def test_what_is_missing_is_named_with_what_installs_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(cuda=FakeCuda(devices=0))
    with pytest.raises(
        BackendMissingError, match=r"finds no usable GPU .no CUDA-capable device.*install NVIDIA's driver"
    ):
        check_backend("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", make_module(case.cuda, "8.5.3"))
    with pytest.raises(BackendMissingError, match=r"needs TensorRT 8.6 or later; 8.5.3 is here"):
        check_backend("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match=r'needs TensorRT .*pip install "aim-edge\[tensorrt\]"'):
        check_backend("tensorrt")
    for module in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendMissingError, match=r'needs TensorRT-RTX .*pip install "aim-edge\[tensorrt-rtx\]"'):
        check_backend("tensorrt-rtx")


def test_no_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", make_module(FakeCuda()))
    monkeypatch.setattr("aim_edge.runtime.cuda_driver.LIBRARIES", ("libnone.so.1",))
    with pytest.raises(BackendMissingError, match=r"no CUDA driver here \(libnone.so.1 not found\); install NVIDIA's"):
        check_backend("tensorrt")


def test_a_gpu_that_is_not_there(make: Make) -> None:
    with pytest.raises(BackendMissingError, match="device_id is 1; the CUDA driver finds 1 GPUs"):
        make().backend(device_id=1)


def test_what_works_is_said_in_a_line(make: Make) -> None:
    case = make()
    assert check_backend("tensorrt") == "TensorRT 8.6.1 on Fake GPU (sm90), driver for CUDA 12.8"
    assert case.cuda.contexts == 0  # which would take its time, and hundreds of megabytes


@pytest.mark.parametrize(("values", "error", "message"), [
    ({"sampler": "moon"}, ValueError, r"sampler is 'moon'; allowed: \['device', 'host'\]"),
    ({"cuda_graph": True}, ValueError, "cuda_graph is True"),
    ({"device_id": "0"}, TypeError, "device_id is '0'"),
    ({"device_id": -1}, ValueError, "device_id is -1"),
    ({"threads": 1}, ValueError, r"tensorrt: unknown options \['threads'\]"),
])  # fmt: skip
def test_options_out_of_range(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_options("tensorrt", values)


def test_options_are_read_from_texts() -> None:
    read = parse_options("tensorrt", ["device_id=1", "library=/a=b", "sampler=host"])
    assert read == {"device_id": 1, "library": "/a=b", "sampler": "host"}
    assert parse_options("ort-cpu", ["threads=2"]) == {"threads": 2}
    for texts, message in (
        (["device_id=one"], "option device_id is 'one'; expected an integer"),
        (["colour=red"], "option 'colour=red' is none of tensorrt's; allowed: device_id=..., target=..."),
        (["sampler"], "option 'sampler' has no value"),
        (["sampler=host", "sampler=device"], "option 'sampler=device' is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_options("tensorrt", texts)
