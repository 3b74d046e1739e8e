"""int8 and int4 weights of the demo: as good as float16 on held-out codes, drawn through ONNX Runtime, and recorded.

held_out_codes.npz has 16 of the demo's held-out pictures as codes of its tokenizer (aim/demo_data.py has the pictures).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from aim_edge.aim import load_checkpoint
from aim_edge.cli import main
from aim_edge.export import Side, compare_bundles, export_bundle
from aim_edge.export.held_out import LOSS, compare_held_out, read_codes
from aim_edge.export.quantize import GROUP, Quantised, compensate, quantise, round_rows
from aim_edge.runtime import Bundle, BundleError, Generator
from aim_edge.runtime.floor import step_bytes
from aim_edge.runtime.sampler import SamplingConfig

CODES = Path(__file__).parent / "held_out_codes.npz"
BITS = {"int8": 8, "int4": 4, "layers-int8": 8}  # of the bundles; plugin-fused but for the last


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantised")
    made = {}
    for kind in ("None", *BITS):
        lowering, weights = split(kind)
        made[kind] = export_bundle(
            "demo", folder / kind, lowering=lowering, precision="float16", state_dtype="float16", weights=weights
        )
    return made


def split(kind: str) -> tuple[str, str | None]:
    """Lowering and weights of a bundle."""
    weights = kind.removeprefix("layers-")
    return "plugin-fused" if weights == kind else "plugin-layers", None if weights == "None" else weights


@pytest.mark.parametrize("kind", BITS)
def test_held_out_codes_are_foretold_as_well(bundles: dict[str, Path], kind: str) -> None:
    labels, tokens = read_codes(CODES, 8)
    report = compare_held_out(Side(bundles[kind]), Side(bundles["None"]), labels, tokens)
    weights = str(split(kind)[1])
    assert (report.weights, report.against_weights, report.allowed) == (weights, "float16", LOSS[weights])
    assert report.passed, report.line()
    assert 2.0 < report.against_cross_entropy < 3.0  # the demo's own is 2.53
    assert report.kl <= {"int8": 1e-3, "int4": 0.05}[weights]
    assert json.dumps(report.to_dict())


def test_a_worse_model_is_found_out(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Another model in the same form: what every layer gives is doubled."""
    worse = load_checkpoint("demo")
    with torch.no_grad():
        for name, parameter in worse.aim.named_parameters():
            if name.endswith("out_proj.weight"):
                parameter.mul_(2)
    bad = export_bundle(worse, tmp_path / "bad", lowering="plugin-fused", precision="float16", weights="int8")
    labels, tokens = read_codes(CODES, 2)
    report = compare_held_out(Side(bad), Side(bundles["None"]), labels, tokens)
    assert not report.passed
    assert report.loss > 0.01


@pytest.mark.parametrize("kind", BITS)
def test_a_quantised_bundle_draws_and_keeps_its_gates(bundles: dict[str, Path], kind: str) -> None:
    with Generator.open(bundles[kind], backend="ort-cpu") as generator:
        images, tokens = generator.generate([0, 9], seed=1)
        assert images.shape == (2, 64, 64, 3)
        # scan and step are one model: continued from a prefix, the same codes follow.
        _, same = generator.generate([0, 9], seed=1, prefix_tokens=tokens[:, :128])
    assert (same == tokens).mean() > 0.6
    report = compare_bundles(Side(bundles[kind]), Side(bundles["None"]), images=1, steps=32).report
    assert report.passed, report.failures


@pytest.mark.parametrize("kind", BITS)
def test_what_the_bundle_says_and_holds(bundles: dict[str, Path], kind: str, tmp_path: Path) -> None:
    lowering, weights = split(kind)
    assert weights is not None
    manifest = Bundle.open(bundles[kind]).manifest
    record = manifest.quantisation
    assert record is not None
    assert (record.weights, record.bits) == (weights, BITS[kind])
    assert bool(record.images) == bool(record.calibration_sha256) == (weights == "int4")
    for graph in ("step.trt.onnx", "scan.trt.onnx"):
        model = onnx.load(str(bundles[kind] / graph), load_external_data=False)
        counts = Counter(node.op_type for node in model.graph.node)
        one = lowering == "plugin-layers" and graph == "step.trt.onnx"  # operator for all of it
        assert counts["LinearQuantized"] == (0 if one else 2 * manifest.contract.dims.n_layer)
        assert counts["LinearQuantizedFloat32"] == (not one)
        assert counts["Mamba2StepQuantized"] == one
        assert not counts["Linear"] and not counts["Mamba2Step"]
    sizes = {name: (path / "weights.data").stat().st_size for name, path in bundles.items()}
    assert sizes[kind] < sizes["None"]
    moved = step_bytes(manifest.contract, "float16", record).weights
    plain = step_bytes(manifest.contract, "float16").weights
    assert {"int8": 0.50, "int4": 0.25}[weights] * plain < moved < {"int8": 0.52, "int4": 0.28}[weights] * plain
    file = bundles[kind] / "manifest.json"
    values = json.loads(file.read_text())
    values["quantisation"]["bits"] = 5
    with pytest.raises(BundleError, match="quantisation is"):
        type(manifest).from_dict(values)
    del values["quantisation"]  # as it was before the option
    assert type(manifest).from_dict(values).quantisation is None


IN_HALF = "and precision 'float16'"


@pytest.mark.parametrize(
    ("lowering", "precision", "weights", "message"),
    [
        ("primitive", "float16", "int8", f"needs lowering 'plugin-fused' or 'plugin-layers' {IN_HALF}"),
        ("plugin-layers", "float32", "int8", f"needs lowering 'plugin-fused' or 'plugin-layers' {IN_HALF}"),
        ("plugin-layers", "float16", "int4", "needs lowering 'plugin-fused' and precision 'float16'"),
        ("plugin-fused", "float32", "int4", "needs lowering 'plugin-fused' and precision 'float16'"),
        ("plugin-fused", "float16", "int5", "weights is 'int5'; allowed: int8, int4"),
    ],
)
def test_what_cannot_be_had_is_refused(
    lowering: str, precision: str, weights: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle("demo", tmp_path / "b", lowering=lowering, precision=precision, weights=weights)


def _unpacked(held: Quantised) -> np.ndarray:
    raw = held.words().view(np.uint8)
    if held.bits == 8:
        return raw.view(np.int8)
    return np.stack([raw & 15, raw >> 4], -1).reshape(len(raw), -1).astype(np.int8) - 8


def test_the_stored_form() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 192, generator=generator)
    matrix[3] = 0
    x = torch.randn(400, 192, generator=generator).double() @ torch.randn(192, 192, generator=generator).double()
    made: list[tuple[Quantised, float]] = [(round_rows(matrix.numpy()), 0.01), (compensate(matrix, x.T @ x), 0.2)]
    for held, bound in made:
        assert np.array_equal(_unpacked(held), held.codes)
        assert held.words().shape == (5, 192 * held.bits // 32)
        assert held.scale.shape == (5, 1 if held.bits == 8 else -(-192 // GROUP))
        error = (torch.from_numpy(held.dense()) - matrix).double()
        assert float((x @ error.T).norm() / (x @ matrix.double().T).norm()) < bound
        assert not held.dense()[3].any()


def test_compensation_is_better_than_rounding() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(24, 256, generator=generator)
    x = torch.randn(1000, 32, generator=generator).double() @ torch.randn(32, 256, generator=generator).double()
    moment = x.T @ x / len(x)
    error = [
        float((x @ (torch.from_numpy(held.dense()) - matrix).double().T).norm())
        for held in (compensate(matrix, moment), compensate(matrix, torch.eye(256, dtype=torch.float64)))
    ]
    assert error[0] < 0.7 * error[1]


def test_unfit_models_are_refused_by_name() -> None:
    model = load_checkpoint("demo").aim
    layer = model.backbone.layers[1].mixer.out_proj
    layer.bias = torch.nn.Parameter(torch.zeros(layer.weight.shape[0]))
    sampling = SamplingConfig.from_dict({"guidance_scale": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0})
    with pytest.raises(ValueError, match=r"layers\.1\.mixer\.out_proj has a bias"):
        quantise(model, "int8", sampling=sampling)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"labels": None}, "lacks"), ({"tokens": np.zeros((3, 4), int)}, "expected"), ({}, "images is 9")],
)
def test_bad_codes_are_refused(change: dict[str, np.ndarray | None], message: str, tmp_path: Path) -> None:
    arrays = {"labels": np.zeros(2, int), "tokens": np.zeros((2, 4), int), **change}
    np.savez(tmp_path / "c.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        read_codes(tmp_path / "c.npz", 9)


def test_the_command_gates(bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["validate", str(bundles["int8"]), "--against", str(bundles["None"]), "--codes", str(CODES)]
    command += ["--images", "1", "--json", str(tmp_path / "r.json")]
    assert main(command) == 0
    assert json.loads((tmp_path / "r.json").read_text())["passed"] is True
    monkeypatch.setitem(LOSS, "int8", -1.0)
    assert main(command) == 1
    assert main(["validate", str(bundles["int8"]), "--codes", str(CODES)]) == 2
