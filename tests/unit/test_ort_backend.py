"""The ONNX Runtime backend on the CPU, on the toy's graphs: buffers, states, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from toy_bundle import DIMS, ToyModel, make_bundle, make_contract, make_manifest, make_weights, write_graphs

from aim_edge.runtime import BackendMissingError, Bundle, BundleError, EngineError
from aim_edge.runtime.backends import BACKENDS, Backend, check_backend, open_backend
from aim_edge.runtime.backends.ort import OrtBackend
from aim_edge.runtime.bundle import new_bundle, record_files, write_manifest

LABELS = np.array([1, 3, 0], np.int32)
TOKENS = np.random.default_rng(0).integers(0, DIMS.vocab_size, (3, DIMS.num_tokens)).astype(np.int32)
LAYOUTS = {"canonical": ("float32", False), "transposed": ("float32", True), "float16": ("float16", False)}


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Backend]]:
    folder = tmp_path_factory.mktemp("toy")
    made = {
        name: open_backend("ort-cpu", Bundle.open(make_bundle(folder / name, *layout)), threads=1)
        for name, layout in LAYOUTS.items()
    }
    yield made
    for backend in made.values():
        backend.close()


def reference(labels: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, ToyModel]:
    model = ToyModel(make_weights(), labels)
    fed = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    return np.stack([model.step(fed[:, t], t) for t in range(tokens.shape[1])]), model


def test_onnxruntime_values_alias_numpy_memory() -> None:
    ort = pytest.importorskip("onnxruntime")
    for dtype in (np.int32, np.float32, np.float16):
        array = np.zeros(4, dtype)
        value = ort.OrtValue.ortvalue_from_numpy(array)
        assert value.data_ptr() == array.ctypes.data


@pytest.mark.parametrize(("told", "option", "expected"), [("3", 0, 3), ("3", 1, 1), ("", 0, 0), ("0", 2, 2)])
def test_threads_are_the_options_or_the_environments(
    told: str, option: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIM_EDGE_ORT_THREADS", told)
    bundle = Bundle.open(make_bundle(tmp_path / "toy", *LAYOUTS["canonical"]))
    backend = open_backend("ort-cpu", bundle, threads=option)
    assert isinstance(backend, OrtBackend)
    found = backend.engine("step").get_session_options().intra_op_num_threads
    backend.close()
    assert found == expected


@pytest.mark.parametrize("told", ["many", "-1", "1025", "1.5"])
def test_an_environment_that_names_no_threads_is_refused(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIM_EDGE_ORT_THREADS", told)
    bundle = Bundle.open(make_bundle(tmp_path / "toy", *LAYOUTS["canonical"]))
    with pytest.raises(ValueError, match=rf"AIM_EDGE_ORT_THREADS is '?{re.escape(told)}'?; allowed: 0\.\.1024"):
        open_backend("ort-cpu", bundle)


@pytest.mark.parametrize(("layout", "tolerance"), [("canonical", 1e-5), ("transposed", 1e-5), ("float16", 2e-2)])
def test_steps_and_states_are_the_models(backends: dict[str, Backend], layout: str, tolerance: float) -> None:
    wanted, model = reference(LABELS, TOKENS)
    session = backends[layout].session(3)
    session.set_condition(LABELS)
    # Token 9 at position 0 must not matter: the class embedding is fed there.
    fed = np.pad(TOKENS[:, :-1], ((0, 0), (1, 0)), constant_values=9)
    for t in range(DIMS.num_tokens):
        np.testing.assert_allclose(session.step(fed[:, t], t), wanted[t], atol=tolerance)
    taken = session.snapshot()
    for i in range(DIMS.n_layer):
        np.testing.assert_allclose(taken[f"conv_state_{i}"], model.conv[i], atol=tolerance, rtol=tolerance / 10)
        np.testing.assert_allclose(taken[f"ssm_state_{i}"], model.ssm[i], atol=tolerance, rtol=tolerance / 10)


@pytest.mark.parametrize("split", [1, 2, 5, 12])
def test_scan_in_pieces_and_steps_agree(backends: dict[str, Backend], split: int) -> None:
    wanted, _ = reference(LABELS, TOKENS)
    fed = np.pad(TOKENS[:, :-1], ((0, 0), (1, 0)))
    session = backends["canonical"].session(3)
    session.set_condition(LABELS)
    scanned = session.scan(fed[:, :split], 0)
    assert scanned.shape == (6, split, DIMS.vocab_size)
    np.testing.assert_allclose(scanned.swapaxes(0, 1), wanted[:split], atol=1e-5)
    for t in range(split, DIMS.num_tokens):
        np.testing.assert_allclose(session.step(fed[:, t], np.full(3, t)), wanted[t], atol=1e-5)


@pytest.mark.parametrize("target", list(LAYOUTS))
def test_a_snapshot_continues_in_another_session_and_lowering(backends: dict[str, Backend], target: str) -> None:
    wanted, _ = reference(LABELS, TOKENS)
    tolerance = 2e-2 if target == "float16" else 1e-5
    source = backends["canonical"].session(3)
    source.set_condition(LABELS)
    fed = np.pad(TOKENS[:, :-1], ((0, 0), (1, 0)))
    for t in range(5):
        source.step(fed[:, t], t)
    taken = source.snapshot()
    session = backends[target].session(3)
    for _ in range(2):  # the second time after the first has moved on
        session.set_condition(LABELS)
        session.restore(taken)
        for t in range(5, DIMS.num_tokens):
            np.testing.assert_allclose(session.step(fed[:, t], t), wanted[t], atol=tolerance)


def test_reset_starts_again_and_sessions_are_apart(backends: dict[str, Backend]) -> None:
    backend = backends["canonical"]
    one, two = backend.session(3), backend.session(3)
    one.set_condition(LABELS)
    two.set_condition(LABELS[::-1].copy())
    first = one.step(TOKENS[:, 0], 0).copy()
    assert not np.array_equal(two.step(TOKENS[:, 0], 0), first)
    one.step(TOKENS[:, 0], 1)
    one.reset()
    np.testing.assert_array_equal(one.step(TOKENS[:, 0], 0), first)


def test_a_step_reuses_its_buffers(backends: dict[str, Backend]) -> None:
    session = backends["canonical"].session(64)
    session.set_condition(np.zeros(64, np.int32))
    token = np.zeros(64, np.int32)
    first = session.step(token, 0)
    tracemalloc.start()
    for t in range(1, DIMS.num_tokens):
        assert session.step(token, t) is first
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < first.nbytes  # smaller than the logits, and than any state


def test_a_failed_step_leaves_the_state(backends: dict[str, Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    session: Any = backends["canonical"].session(3)
    session.set_condition(LABELS)
    session.step(TOKENS[:, 0], 0)
    before = session.snapshot()

    class Broken:
        def run_with_iobinding(self, binding: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 99")

    monkeypatch.setattr(session, "_engine", Broken())
    with pytest.raises(EngineError, match=r"step\.onnx: onnxruntime failed: Failed to allocate memory"):
        session.step(TOKENS[:, 1], 1)
    for name, array in session.snapshot().items():
        np.testing.assert_array_equal(array, before[name])


def test_session_arguments_are_checked(backends: dict[str, Backend]) -> None:
    session = backends["canonical"].session(3)
    with pytest.raises(RuntimeError, match="set_condition"):
        session.step(TOKENS[:, 0], 0)
    with pytest.raises(ValueError, match=r"class_ids\[1\] is 5; allowed: 0..4"):
        session.set_condition([0, 5, 0])
    with pytest.raises(ValueError, match="class_ids has 2 entries"):
        session.set_condition([0, 1])
    session.set_condition(LABELS)
    with pytest.raises(ValueError, match=r"token\[2\] is 23; allowed: 0..22"):
        session.step([0, 1, 23], 0)
    with pytest.raises(ValueError, match=r"position\[0\] is 12; allowed: 0..11"):
        session.step([0, 1, 2], 12)
    with pytest.raises(ValueError, match=r"position\[0\] is 10; allowed: 0..9"):
        session.scan(TOKENS[:, :3], 10)
    with pytest.raises(ValueError, match="tokens has 0 columns"):
        session.scan(TOKENS[:, :0], 0)
    with pytest.raises(TypeError, match="token has dtype float64"):
        session.step([0.0, 1.0, 2.0], 0)
    with pytest.raises(ValueError, match="batch is 0"):
        backends["canonical"].session(0)


def test_the_tokenizers_graphs_are_each_others_inverse(backends: dict[str, Backend]) -> None:
    codes = TOKENS.reshape(3, DIMS.grid_height, DIMS.grid_width)
    images = backends["canonical"].vq_decode(codes)
    assert images.shape == (3, 3, DIMS.image_height, DIMS.image_width) and images.dtype == np.float32
    found = backends["canonical"].vq_encode(images)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, codes)


def test_unknown_backends_and_options_are_refused_with_those_known(backends: dict[str, Backend]) -> None:
    bundle: Any = None
    with pytest.raises(ValueError, match=r"backend is 'magic'; known: \['ort-cpu', 'ort-cuda'"):
        open_backend("magic", bundle)
    with pytest.raises(ValueError, match=r"unknown options \['speed'\]; allowed: \['threads'"):
        open_backend("ort-cpu", bundle, speed=3)
    with pytest.raises(ValueError, match="optimization is 'max'"):
        open_backend("ort-cpu", bundle, optimization="max")
    with pytest.raises(ValueError, match="threads is -1"):
        open_backend("ort-cpu", bundle, threads=-1)


def test_a_missing_library_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("ort-cpu", "ort-cuda"):
        with pytest.raises(BackendMissingError) as caught:
            check_backend(name)
        assert BACKENDS[name][1] in str(caught.value)


def test_cuda_without_its_provider_is_refused_not_replaced_by_the_cpu(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has the CUDA provider: test_ort_cuda.py covers it")
    bundle = Bundle.open(make_bundle(tmp_path / "toy"))
    with pytest.raises(BackendMissingError, match=r'CUDAExecutionProvider.*pip install "aim-edge\[ort-gpu\]"'):
        open_backend("ort-cuda", bundle)


def test_a_provider_that_falls_back_silently_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, then starts on the CPU when a library of CUDA's is missing."""
    ort = pytest.importorskip("onnxruntime")
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda path, options, providers: real(path, options))
    backend = open_backend("ort-cuda", Bundle.open(make_bundle(tmp_path / "toy")))
    with pytest.raises(BackendMissingError, match="did not start"):
        backend.vq_decode(TOKENS.reshape(3, DIMS.grid_height, DIMS.grid_width))


def rewritten(out: Path, change: Any) -> Bundle:
    """The toy's bundle with one graph changed, its manifest made for the changed file."""
    contract = make_contract()
    with new_bundle(out) as folder:
        write_graphs(folder, contract, make_weights())
        change(folder)
        write_manifest(folder, make_manifest(contract, files=record_files(folder)))
    return Bundle.open(out)


def test_a_graph_that_is_no_onnx_is_named(tmp_path: Path) -> None:
    bundle = rewritten(tmp_path / "toy", lambda folder: (folder / "step.onnx").write_bytes(b"garbage" * 9))
    with pytest.raises(EngineError, match=r"step\.onnx: onnxruntime .* cannot load it"):
        open_backend("ort-cpu", bundle).session(1)


def test_a_graph_that_is_not_the_contracts_is_refused(tmp_path: Path) -> None:
    def rename_and_resize(folder: Path) -> None:
        model = onnx.load(folder / "vq_encode.onnx")
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 99
        model.graph.output[0].name = model.graph.node[-1].output[0] = "ids"
        onnx.save(model, folder / "vq_encode.onnx")

    bundle = rewritten(tmp_path / "toy", rename_and_resize)
    images = np.zeros((1, 3, DIMS.image_height, DIMS.image_width), np.float32)
    with pytest.raises(BundleError, match=r"vq_encode\.onnx: inputs are not the contract's: image is .*99"):
        open_backend("ort-cpu", bundle).vq_encode(images)


def test_a_graph_that_fails_when_run_is_named(backends: dict[str, Backend]) -> None:
    with pytest.raises(EngineError, match=r"vq_decode\.onnx: onnxruntime failed"):
        backends["canonical"].vq_decode(np.zeros((1, 2, 2), np.int32))


def test_importing_the_runtime_imports_no_engine_and_no_training_library() -> None:
    code = "import json, aim_edge.runtime; print(json.dumps(list(sys.modules)))"
    path = [p for p in sys.path if p]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"],
                          capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "onnx", "onnxruntime", "PIL", "tensorrt"}
