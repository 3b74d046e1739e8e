"""The ONNX Runtime operators on the CPU, over emulated kernels: types, shapes, states in place, errors at run time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import missing
from plugin_needs import OUT

ort = pytest.importorskip("onnxruntime", reason="NOT RUN: needs onnxruntime")
pytest.importorskip("onnx", reason="NOT RUN: needs onnx")

import ort_cases  # noqa: E402
from ort_build import build_emulated, headers  # noqa: E402
from ort_cases import Case, make_case, make_feeds, make_model  # noqa: E402

from aim_edge.plugins import toolkit  # noqa: E402


@pytest.fixture(scope="module")
def options(compiler: toolkit.Toolkit) -> Any:
    if shutil.which("g++") is None:
        missing("g++, for the emulated kernels")
    library = build_emulated(OUT / "ort-emulated", headers(), compiler.include)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(library))
    return options


def open_session(model: bytes | str, options: Any) -> Any:
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", ort_cases.all_cases(), ids=str)
def test_operator(case: Case, options: Any) -> None:
    feeds = make_feeds(case)
    session = open_session(make_model(case), options)
    assert ort_cases.failures(case, feeds, session.run(None, feeds)) == []


def test_shapes_are_inferred(options: Any, tmp_path: Path) -> None:
    case = make_case("Mamba2DecodeStep", "float16", "float32")
    shapes = [output.shape for output in open_session(make_model(case), options).get_outputs()]
    assert shapes == [["rows", 96], ["rows", 224, 3], ["rows", 6, 16, 32]]


def test_shapes_of_images_are_inferred(options: Any) -> None:
    """Of other channels, and another height and width, than the input's; a name for the batch goes on."""
    found = {}
    for operator in ("NormConv", "UpsampleConv", "NormConvImage"):
        case = make_case(operator, "float16", "float32", rows=2)
        outputs = open_session(make_model(case), options).get_outputs()
        found[operator] = [output.shape for output in outputs]
    assert found == {
        "NormConv": [[2, 128, 5, 7], [2, 128, 2]],
        "UpsampleConv": [[2, 128, 10, 14], [2, 128, 2]],
        "NormConvImage": [[2, 3, 5, 7]],
    }


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 96, 5, 7), r"'x' has shape \(2, 96, 5, 7\); expected \(batch, 64 \* chunks, height, width\)"),
        ("weight", (1, 1, 9, 8, 128, 8), r"'weight' has shape \(1, 1, .*; expected .*, here \(1, 2, 9, 8, 128, 8\)"),
        ("weight", (1, 2, 4, 8, 128, 8), r"'weight' has shape \(1, 2, 4, .*; expected .*, here \(1, 2, 9, 8, 128, 8\)"),
        ("bias", (256,), r"'bias' has shape \(256\); expected \(128 \* blocks\), here \(128\)"),
        ("next_bias", (64,), r"'next_bias' has shape \(64\); expected \(128 \* blocks\), here \(128\)"),
        ("affine", (2, 128, 3), r"'affine' has shape \(2, 128, 3\); expected .*, here \(2, 128, 2\)"),
        ("residual", (2, 128, 5, 6), r"'residual' has shape \(2, 128, 5, 6\); expected .*, here \(2, 128, 5, 7\)"),
    ],
)
def test_sizes_of_a_convolution_that_do_not_agree(
    name: str, shape: tuple[int, ...], message: str, options: Any
) -> None:
    case = make_case("NormConv", "float16", "float32", rows=2, has_norm=1, has_residual=1)
    session = open_session(make_model(case, known=False), options)
    feeds = make_feeds(case)
    with pytest.raises(Exception, match=r"aim_edge.NormConv 'the_node': " + message):
        session.run(None, {**feeds, name: np.zeros(shape, feeds[name].dtype)})
    assert ort_cases.failures(case, feeds, session.run(None, feeds)) == []


def test_an_upsampling_whose_weights_are_not_four_convolutions(options: Any) -> None:
    case = make_case("UpsampleConv", "float16", "float32", rows=2)
    session = open_session(make_model(case, known=False), options)
    feeds = make_feeds(case)
    feeds["weight"] = feeds["weight"][:3]
    with pytest.raises(Exception, match=r"'weight' has shape \(3, 2, 4, 8, 128, 8\); expected \(4 \* blocks, "):
        session.run(None, feeds)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("dt", (3, 7, 5), r"'dt' has shape \(3, 7, 5\); expected \(rows, length, nheads\), here \(3, 7, 6\)"),
        ("B", (3, 6, 64), r"'B' has shape \(3, 6, 64\); expected .*, here \(3, 7, 64\)"),
        ("ssm_state", (3, 6, 32, 16), r"'ssm_state' has shape \(3, 6, 32, 16\); .* here \(3, 6, 16, 32\)"),
        ("x", (3, 96), r"'x' has shape \(3, 96\); expected \(rows, length, nheads \* headdim\)"),
        ("x", (3, 0, 96), r"'x' has shape \(3, 0, 96\); expected .*, here \(3, any, 96\)"),
        ("D", (), r"'D' has shape \(\); expected \(nheads\), here \(6\)"),
        ("active", (2,), r"'active' has shape \(2\); expected \(rows\), here \(3\)"),
    ],
)
def test_a_wrong_shape_is_refused_at_run_time(name: str, shape: tuple[int, ...], message: str, options: Any) -> None:
    case = make_case("SelectiveScan", "float32", "float32", 7, has_active=1)
    session = open_session(make_model(case, known=False), options)
    feeds = make_feeds(case)
    wrong = {**feeds, name: np.zeros(shape, feeds[name].dtype)}
    with pytest.raises(Exception, match=r"aim_edge.SelectiveScan 'the_node': " + message):
        session.run(None, wrong)
    assert ort_cases.failures(case, feeds, session.run(None, feeds)) == []


@pytest.mark.parametrize(
    ("lowering", "precision"),
    [
        ("plugin", "float32"),
        ("plugin-fused", "float32"),
        ("plugin-fused", "float16"),
        ("plugin-layers", "float32"),
        ("plugin-layers", "float16"),
    ],
)
def test_the_demo(lowering: str, precision: str, options: Any, tmp_path: Path) -> None:
    """The graphs without bodies and with them give what the bodies give where the library is not."""
    pytest.importorskip("torch", reason="NOT RUN: needs torch, to export the demo")
    from ort_decode import decode, differences

    from aim_edge.export import export_bundle
    from aim_edge.runtime import Bundle

    bundle = Bundle.open(
        export_bundle("demo", tmp_path / "demo", lowering=lowering, precision=precision, state_dtype=precision)
    )
    labels = np.array([3])
    tokens = np.random.default_rng(0).integers(0, bundle.manifest.contract.dims.vocab_size, (1, 5))

    def decoded(graph: str, options: Any) -> Any:
        return decode(bundle, lambda file: open_session(str(bundle.path / file), options), labels, tokens, graph)

    wanted, states = decoded("step", ort.SessionOptions())
    exact = precision == "float32"
    for graph in ("step.trt", "scan.trt", "step"):
        found, after = decoded(graph, options)
        told = differences(found, wanted)
        assert told["cosine"] > (0.999999 if exact else 0.9999), (graph, told)
        assert told["norm_ratio"] < (1e-4 if exact else 0.01), (graph, told)
        for name, value in states.items():
            error = np.abs(after[name].astype(np.float32) - value).max() / np.abs(value).max()
            assert error <= (1e-4 if exact else 2e-2), (graph, name)


@pytest.mark.parametrize(
    ("lowering", "precision"), [("plugin", "float32"), ("plugin-fused", "float32"), ("plugin-fused", "float16")]
)
def test_a_transformer(lowering: str, precision: str, options: Any, tmp_path: Path) -> None:
    """Its step with the library, without bodies and with them, gives what the bodies and the scan give."""
    pytest.importorskip("torch", reason="NOT RUN: needs torch, to export a model")
    from make_gpt import checkpoint
    from ort_decode import decode, differences

    from aim_edge.export import export_bundle
    from aim_edge.runtime import Bundle

    kinds = {"precision": precision, "state_dtype": precision}
    bundle = Bundle.open(
        export_bundle(checkpoint("tiny", 25), tmp_path / "b", lowering=lowering, **kinds)  # type: ignore[arg-type]
    )
    labels, tokens = np.array([3, 0]), np.random.default_rng(0).integers(0, 48, (2, 25))

    def decoded(graph: str, options: Any) -> Any:
        return decode(bundle, lambda file: open_session(str(bundle.path / file), options), labels, tokens, graph)

    wanted, states = decoded("scan", ort.SessionOptions())
    exact = precision == "float32"
    for graph, used in (("step", ort.SessionOptions()), ("step.trt", options), ("step", options)):
        found, after = decoded(graph, used)
        told = differences(found, wanted)
        assert told["cosine"] > (0.999999 if exact else 0.9999), (graph, told)
        assert told["norm_ratio"] < (1e-4 if exact else 0.01), (graph, told)
        for name, value in states.items():
            error = np.abs(after[name].astype(np.float32) - value).max() / np.abs(value).max()
            assert error <= (1e-4 if exact else 2e-2), (graph, name)


def test_an_image_decoder_of_convolutions_with_norms(options: Any, tmp_path: Path) -> None:
    """The graphs without bodies and with them give what the bodies give where the library is not."""
    torch = pytest.importorskip("torch", reason="NOT RUN: needs torch, to export a tokenizer")
    from aim_edge.aim import Checkpoint, VqConfig, VqModel
    from aim_edge.export import export_bundle
    from golden.cases import load_case

    model = load_case("mamba2_mlp").model
    torch.manual_seed(0)
    config = VqConfig(n_embed=model.config.vocab_size, ch=128, ch_mult=(1, 1), z_channels=64, num_res_blocks=1)
    tokenizer = VqModel(config).eval()
    for name, parameter in tokenizer.named_parameters():
        if ".norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    given = Checkpoint(model, tokenizer, None, {}, "golden mamba2_mlp", "0" * 64)
    bundle = export_bundle(
        given, tmp_path / "bundle", lowering="plugin-fused", precision="float16", fused_convolutions=True
    )
    codes = np.random.default_rng(0).integers(0, config.n_embed, (1, 3, 3), np.int32)

    def images(file: str, options: Any) -> Any:
        return open_session(str(bundle / file), options).run(None, {"codes": codes})[0]

    wanted = images("vq_decode.onnx", ort.SessionOptions())
    for file in ("vq_decode.trt.onnx", "vq_decode.onnx"):
        error = images(file, options) - wanted
        assert 10 * np.log10(np.square(wanted).mean() / np.square(error).mean()) > 50, file
