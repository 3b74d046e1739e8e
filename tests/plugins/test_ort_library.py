"""The ONNX Runtime library as it is shipped, on a machine without a GPU: it loads, and refuses with a message."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plugin_needs import OUT

ort = pytest.importorskip("onnxruntime", reason="NOT RUN: needs onnxruntime")
pytest.importorskip("onnx", reason="NOT RUN: needs onnx")

import onnx  # noqa: E402
import ort_cases  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from ort_build import headers  # noqa: E402
from ort_cases import Case, make_case, make_model  # noqa: E402

from aim_edge.plugins import build as builder  # noqa: E402
from aim_edge.plugins import toolkit  # noqa: E402

SYSTEM = {"libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0",
          "ld-linux-x86-64.so.2"}  # fmt: skip
ON_CPU = "runs on the CUDA execution provider only, and ONNX Runtime gave it to the CPU"


@pytest.fixture(scope="module")
def library(compiler: toolkit.Toolkit) -> Path:
    report = builder.build(
        "ci", OUT / "ort", ["90"], kernels_only=True, onnxruntime_headers=headers(), cache=OUT / "objects", strict=True
    )
    assert any(line.startswith("ONNX Runtime 1.") for line in report.lines())
    return report.libraries[-1]


def refusal(model: bytes, library: Path) -> str:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    with pytest.raises(Exception) as caught:  # its exceptions share no base class
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return str(caught.value)


def changed(case: Case, tensor: str, element: str | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """The graph of a case with another type or shape for one input."""
    model = onnx.load_from_string(make_model(case))
    value = next(v for v in model.graph.input if v.name == tensor)
    cast = next(n for n in model.graph.node if n.input[0] == tensor)
    if shape is not None:
        value.CopyFrom(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape))
    if element is not None:
        cast.attribute[0].i = ort_cases.ELEMENTS[element]
    data: bytes = model.SerializeToString()
    return data


def test_it_exports_one_function_and_needs_no_cuda(library: Path) -> None:
    def run(*command: Any) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert re.findall(r" T (\w+)$", run("nm", "-D", "--defined-only", library), re.MULTILINE) == ["RegisterCustomOps"]
    assert set(re.findall(r"NEEDED.*\[([^\]]+)\]", run("readelf", "-d", library))) <= SYSTEM


@pytest.mark.parametrize("case", ort_cases.all_cases(), ids=str)
def test_a_right_graph_is_refused_for_the_cpu_alone(case: Case, library: Path) -> None:
    """So that every message below is of its fault."""
    assert f"aim_edge.{case.operator} 'the_node': {ON_CPU}" in refusal(make_model(case), library)
    assert ON_CPU in refusal(make_model(case, known=False), library)


SCAN, CONV, NORM = "SelectiveScan", "CausalConv1d", "RmsNormGated"


@pytest.mark.parametrize(
    ("operator", "attributes", "message"),
    [
        (SCAN, {"aim_edge_version": 2}, "version 2 of the operators (aim_edge_version); this library has version 1"),
        (NORM, {"aim_edge_version": None}, "attribute 'aim_edge_version' is missing or of another type"),
        (SCAN, {"kind": "mamba3"}, "attribute 'kind' is 'mamba3'; expected 'mamba1' or 'mamba2'"),
        (SCAN, {"kind": 2}, "attribute 'kind' is missing or of another type"),
        (SCAN, {"nheads": None}, "attribute 'nheads' is missing or of another type"),
        (SCAN, {"nheads": 6.0}, "expected one integer"),
        (SCAN, {"nheads": 0}, "attribute 'nheads' is 0; expected 1 to 2147483647"),
        (SCAN, {"nheads": 1 << 40}, "attribute 'nheads' is 1099511627776; expected 1 to 2147483647"),
        (SCAN, {"ngroups": 4}, "'B' has shape (-1, 1, 64); expected (rows, length, ngroups * d_state), here (a"),
        (SCAN, {"has_z": 2}, "attribute 'has_z' is 2; expected 0 or 1"),
        (SCAN, {"has_z": 1}, "8 inputs; expected 9, by the attributes"),
        (CONV, {"activation": "gelu"}, "attribute 'activation' is 'gelu'; expected 'none' or 'silu'"),
        (CONV, {"has_active": 1}, "4 inputs; expected 5, by the attributes"),
        (NORM, {"eps": -1.0}, "eps is -1; supported: 0 or more"),
        (NORM, {"eps": 1}, "attribute 'eps' is missing or of another type"),
        (NORM, {"ngroups": 5}, "ngroups"),
        ("NormConv", {"has_norm": 1}, "5 inputs; expected 6, by the attributes"),
        ("NormConv", {"groups": 3}, "groups is 3 and out_channels is 128; supported: groups of a multiple of 4"),
        ("Mamba2DecodeStep", {"d_conv": 3}, "'conv_weight' has shape (224, 4); expected (conv_dim, d_conv), here (2"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_attribute_is_refused(
    operator: str, attributes: Mapping[str, Any], message: str, library: Path
) -> None:
    told = refusal(make_model(make_case(operator, "float16", "float32"), attributes), library)
    assert f"aim_edge.{operator} 'the_node': " in told and message in told


def test_sizes_that_the_kernels_do_not_have_are_listed(library: Path) -> None:
    case = make_case(SCAN, "float32", "float32")
    odd = Case(SCAN, {**case.attributes, "headdim": 24}, {**case.sizes, "headdim": 24})
    assert "headdim is 24; supported: " in refusal(make_model(odd), library)


@pytest.mark.parametrize(
    ("tensor", "element", "message"),
    [
        ("x", "float64", "'x' is float64; expected float32, float16 or bfloat16"),
        ("dt", "float32", "'dt' is float32; expected float16 like the activations before it"),
        ("A", "float16", "'A' is float16; expected float32, as all parameters are"),
        ("ssm_state", "bfloat16", "'ssm_state' is bfloat16; expected float32 or float16"),
    ],
)
def test_a_wrong_type_is_refused(tensor: str, element: str, message: str, library: Path) -> None:
    assert message in refusal(changed(make_case(SCAN, "float16", "float32"), tensor, element), library)


def test_a_convolution_is_refused_in_float32_and_in_sizes_that_do_not_agree(library: Path) -> None:
    case = make_case("NormConv", "float16", "float32", rows=2, has_residual=1)
    assert "'x' is float32; expected float16 or bfloat16" in refusal(changed(case, "x", "float32"), library)
    told = refusal(changed(case, "residual", "bfloat16"), library)
    assert "'residual' is bfloat16; expected float16 like the activations before it" in told
    told = refusal(changed(case, "weight", shape=(1, 3, 9, 8, 128, 8)), library)
    assert "expected (blocks, chunks, 9, 8, 128, 8), here (1, 2, 9, 8, 128, 8)" in told


def test_a_wrong_shape_is_refused_when_the_session_is_made(library: Path) -> None:
    case = make_case(SCAN, "float16", "float32", 7)
    told = refusal(changed(case, "ssm_state", shape=(3, 6, 32, 16)), library)
    assert "'ssm_state' has shape (3, 6, 32, 16); expected (rows, nheads, headdim, d_state), here (3, 6, 1" in told


def test_an_input_left_empty_is_refused(library: Path) -> None:
    """ONNX Runtime before 1.24 dies of it where an operator infers shapes."""
    model = onnx.load_from_string(make_model(make_case(CONV, "float32", "float32", has_active=1)))
    node = next(n for n in model.graph.node if n.op_type == CONV)
    node.input[-1] = ""
    assert "'active' is missing" in refusal(model.SerializeToString(), library)


def test_registering_twice_in_a_process(library: Path) -> None:
    model = make_model(make_case(NORM, "float32", "float32"))
    assert refusal(model, library) == refusal(model, library)


def test_other_graphs_still_run(library: Path) -> None:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": np.ones(2, np.float32)})[0], [-1, -1])


def test_headers_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(toolkit.BuildError, match=r"no onnxruntime_c_api.h in .* Name the folder"):
        toolkit.find_onnxruntime_headers(tmp_path)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/onnxruntime_c_api.h").write_text("#define ORT_API_VERSION 17\n")
    with pytest.raises(toolkit.BuildError, match="ORT_API_VERSION is 17; expected 18 or more"):
        toolkit.find_onnxruntime_headers(tmp_path)


class ApiBase(ctypes.Structure):
    """OrtApiBase."""

    _fields_ = (
        ("get_api", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)),
        ("get_version", ctypes.CFUNCTYPE(ctypes.c_void_p)),
    )


def test_an_onnxruntime_that_is_too_old_is_refused(library: Path) -> None:
    found = sorted(Path(ort.__file__).parent.glob("capi/libonnxruntime.so*"))
    if not found:
        pytest.skip("NOT RUN: this onnxruntime has no libonnxruntime.so of its own to stand in for an old one")
    get_base = ctypes.CDLL(str(found[0])).OrtGetApiBase
    get_base.restype = ctypes.POINTER(ApiBase)
    real = get_base().contents
    version = ctypes.create_string_buffer(b"1.17.3")
    old = ApiBase(
        type(real.get_api)(lambda version: real.get_api(version) if version < 18 else None),
        type(real.get_version)(lambda: ctypes.addressof(version)),
    )
    register = ctypes.CDLL(str(library)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    status = register(None, ctypes.byref(old))
    table = ctypes.cast(real.get_api(1), ctypes.POINTER(ctypes.c_void_p))
    message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(table[2])  # OrtApi::GetErrorMessage
    assert message(status) == b"aim_edge: ONNX Runtime is 1.17.3; expected 1.18 or later"
