"""Layers of a float16 bundle that compute in float32, and the search that proposes which."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from aim_edge.aim import decode_logits, load_checkpoint
from aim_edge.cli import main
from aim_edge.export import GATES, examine, export_bundle, locate
from aim_edge.export.parity import compare_steps
from aim_edge.export.sensitivity import propose
from aim_edge.runtime import BundleError, Generator
from aim_edge.runtime.bundle import read_manifest
from golden.cases import SMALL, Case, load_case

LOWERINGS = ("primitive", "onnx", "plugin")


def worst_cosine(case: Case, path: Path, via: str) -> float:
    reference = decode_logits(case.model, case["labels"], case["tokens"])
    with Generator.open(path) as generator:
        logits = generator.decode_logits(case["labels"], case["tokens"], via=via)
    steps = compare_steps(reference, logits)
    assert all(abs(step.norm_ratio - 1) <= 0.01 for step in steps)
    return min(step.cosine for step in steps)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("state_dtype", ["float32", "float16"])
def test_some_layers_and_all_but_none_are_exact(name: str, lowering: str, state_dtype: str, tmp_path: Path) -> None:
    case, found = load_case(name), {}
    count = case.model.config.n_layer
    for kept in ((), (1,), tuple(range(count))):
        path = export_bundle(
            case.checkpoint(), tmp_path / f"kept{len(kept)}", lowering=lowering, precision="float16",
            state_dtype=state_dtype, keep_float32=kept,
        )  # fmt: skip
        assert read_manifest(path).keep_float32 == kept
        for via in ("step", "scan"):
            found[len(kept), via] = worst_cosine(case, path, via)
            assert found[len(kept), via] >= 0.9999
        for graph in ("step", "scan"):
            types = {
                int(weight.name.split(".")[2]): weight.data_type
                for weight in onnx.load(path / f"{graph}.onnx", load_external_data=False).graph.initializer
                if weight.name.endswith("mixer.in_proj.weight.T")
            }
            assert types == {i: TensorProto.FLOAT if i in kept else TensorProto.FLOAT16 for i in range(count)}
    for via in ("step", "scan"):
        assert 1 - found[count, via] < 1 - found[0, via]


def test_an_operators_body_serves_both_precisions(tmp_path: Path) -> None:
    """One body without overloads, which ONNX Runtime of Python 3.10 does not know; without a kept layer, as before."""
    for kept, kinds in (([2], {"Cast", "CastLike"}), ([], {"Cast"})):
        path = export_bundle("demo", tmp_path / f"b{kept}", lowering="plugin", precision="float16", keep_float32=kept)
        for graph in ("step", "scan"):
            onnx.checker.check_model(str(path / f"{graph}.onnx"))
            model = onnx.load(path / f"{graph}.onnx", load_external_data=False)
            assert model.ir_version == 8 and not any(function.overload for function in model.functions)
            assert {function.name for function in model.functions} == {"CausalConv1d", "SelectiveScan", "RmsNormGated"}
            for function in model.functions:
                assert {node.op_type for node in function.node if node.op_type.startswith("Cast")} == kinds
            assert not onnx.load(path / f"{graph}.trt.onnx", load_external_data=False).functions


def test_what_cannot_be_kept_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (
        ({"keep_float32": [6], "precision": "float16"}, r"keep_float32 holds \[6\]; allowed: layers 0\.\.5"),
        ({"keep_float32": [-1], "precision": "float16"}, r"keep_float32 holds \[-1\]"),
        ({"keep_float32": [0]}, "precision 'float32'; it is for float16"),
        ({"keep_float32": [0], "precision": "float16", "lowering": "plugin-fused"}, "other than plugin-fused"),
    ):
        with pytest.raises(ValueError, match=message):
            export_bundle("demo", tmp_path / "b", **given)  # type: ignore[arg-type]
        assert not (tmp_path / "b").exists()
    arguments = ["export", "demo", str(tmp_path / "b"), "--precision", "float16"]
    assert main([*arguments, "--keep-float32", "2", "--keep-float32", "4"]) == 0
    assert main(["inspect", str(tmp_path / "b")]) == 0
    assert "layers 2, 4 in float32" in " ".join(capsys.readouterr().out.split())
    file = tmp_path / "b" / "manifest.json"
    values = json.loads(file.read_text())
    del values["keep_float32"]  # as it was before the option
    file.write_text(json.dumps(values))
    assert read_manifest(tmp_path / "b").keep_float32 == ()
    for wrong in ([9], "2", [True]):
        file.write_text(json.dumps(values | {"keep_float32": wrong}))
        with pytest.raises(BundleError, match="keep_float32 is"):
            read_manifest(tmp_path / "b")


def overflowing(layer: int, largest: float) -> Case:
    """A case where the layer's z, or its weights, exceed float16; the norm behind z takes its size away again."""
    case = load_case("mamba2_group")
    case = replace(case, model=copy.deepcopy(case.model))
    weight = case.model.backbone.layers[layer].mixer.in_proj.weight[: case.model.config.d_inner]
    with torch.no_grad():
        weight *= largest / weight.abs().max()
    return case


def test_the_search_proposes_the_layer_that_overflows(tmp_path: Path) -> None:
    case = overflowing(3, 6e4)
    labels, tokens = case["labels"].reshape(-1).astype(np.int32), case["tokens"].astype(np.int32)
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    found = propose(case.model, labels, tokens, GATES["float16"])
    assert found.keep == (3,) and found.effects[0].layer == 3 and np.isnan(found.effects[0].cosine)
    assert all(effect.cosine > 0.999 for effect in found.effects[1:]) and np.isnan(found.cosine)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert propose(case.model, labels, tokens, GATES["float16"], kept=(3,)).keep == ()
    with pytest.raises(ValueError, match=r"kept holds \[6\]; allowed: layers 0\.\.5"):
        propose(case.model, labels, tokens, GATES["float16"], kept=(6,))


def test_what_is_proposed_is_named_and_cures_the_bundle(tmp_path: Path) -> None:
    case = overflowing(3, 1e6)
    path = export_bundle(case.checkpoint(), tmp_path / "half", precision="float16")
    seen = examine(path, case.checkpoint())
    assert not seen.report.passed
    finding = next(f for f in locate(path, case.checkpoint(), seen).findings if f.cause == "half-precision")
    assert finding.where == "layers 3" and "--keep-float32 3," in finding.action and "layer 3: nan" in finding.text
    path = export_bundle(case.checkpoint(), tmp_path / "cured", precision="float16", keep_float32=[3])
    assert examine(path, case.checkpoint()).report.passed


def test_the_demo_needs_none(tmp_path: Path) -> None:
    demo = load_checkpoint("demo")
    labels = np.array([0, 9], np.int32)
    tokens = np.random.default_rng(0).integers(0, 512, (2, 32), np.int32)
    found = propose(demo.aim, labels, tokens, GATES["float16"])  # type: ignore[arg-type]
    assert found.keep == () and found.cosine > 0.9999 and len(found.effects) == 6


def test_against_a_checkpoint_is_against_pytorch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = export_bundle("demo", tmp_path / "b", lowering="onnx")
    files = [tmp_path / "r.html", tmp_path / "r.json"]
    arguments = ["validate", str(path), "--against", "demo", "--html", str(files[0]), "--json", str(files[1])]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "against PyTorch float32" in out and "drift, first 32 steps to last 32: 1 - cosine" in out
    values = json.loads(files[1].read_text())
    assert values["against"] is None and len(values["steps"]) == 256
    assert set(values["drift"]) == {"cosine_distance", "max_abs", "kl"} and values["first_parting"] is None
    assert 0 < values["worst"]["max_rel"] < 1e-4 and 0 < values["worst_states"]["max_rel"] < 1e-3
    assert files[0].read_text().count("data:image/png;base64,") == 6
