"""Every lowering of the golden models against PyTorch and against the golden numbers, through ONNX Runtime.

opset 27's own operators have no complete ONNX Runtime kernels yet, so that form runs in onnx's reference
evaluator, which is slow: on the smallest case only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from aim_edge.aim import decode_logits
from aim_edge.export import export_bundle
from aim_edge.export.parity import compare_steps
from aim_edge.runtime import Bundle, Generator
from golden.cases import SMALL, Case, load_case
from parity.reference import run_state

RUNNABLE = ("primitive", "onnx", "plugin", "plugin-fused", "plugin-layers")


def pairs() -> list[tuple[str, str]]:
    """Every model in every lowering that has it: Mamba2Layers has no MLP."""
    return [(name, one) for name in SMALL for one in RUNNABLE if (name, one) != ("mamba2_mlp", "plugin-layers")]


def export(case: Case, tmp_path: Path, lowering: str, precision: str = "float32", state_dtype: str = "float32") -> Path:
    return export_bundle(
        case.checkpoint(), tmp_path / "bundle", lowering=lowering, precision=precision, state_dtype=state_dtype
    )


@pytest.mark.parametrize(("name", "lowering"), pairs())
def test_float32(name: str, lowering: str, tmp_path: Path) -> None:
    case = load_case(name)
    reference = decode_logits(case.model, case["labels"], case["tokens"])
    with Generator.open(export(case, tmp_path, lowering)) as generator:
        step = generator.decode_logits(case["labels"], case["tokens"])
        scan = generator.decode_logits(case["labels"], case["tokens"], via="scan")
    for logits in (step, scan):
        np.testing.assert_allclose(logits, reference, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(logits.argmax(-1), reference.argmax(-1))
        np.testing.assert_allclose(logits, case["step_logits"], rtol=0, atol=3e-3)
        if "exact_step_logits" in case:
            np.testing.assert_allclose(logits, case["exact_step_logits"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("name", "lowering"), pairs())
@pytest.mark.parametrize("state_dtype", ["float32", "float16"])
def test_float16(name: str, state_dtype: str, lowering: str, tmp_path: Path) -> None:
    case = load_case(name)
    reference = decode_logits(case.model, case["labels"], case["tokens"])
    with Generator.open(export(case, tmp_path, lowering, "float16", state_dtype)) as generator:
        for via in ("step", "scan"):
            logits = generator.decode_logits(case["labels"], case["tokens"], via=via)
            for step in compare_steps(reference, logits):
                assert step.cosine >= 0.9999, (via, step)
                assert abs(step.norm_ratio - 1) <= 0.01, (via, step)


@pytest.mark.parametrize(("name", "lowering"), pairs())
def test_states_follow_and_carry_over(name: str, lowering: str, tmp_path: Path) -> None:
    """Half by scan, half by step, from a snapshot: states as PyTorch's, in the canonical layout."""
    case = load_case(name)
    labels, tokens = case["labels"][:, 0], case["tokens"]
    expected = run_state(case.model, labels, tokens)
    given = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    half = tokens.shape[1] // 2
    with Generator.open(export(case, tmp_path, lowering)) as generator:
        first, second = generator.session(len(labels)), generator.session(len(labels))
        for session in (first, second):
            session.set_condition(labels)
        first.scan(given[:, :half], 0)
        second.restore(first.snapshot())
        for t in range(half, tokens.shape[1]):
            second.step(given[:, t], t)
        found = second.snapshot()
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=5e-5, err_msg=key)


def test_images_start_apart(tmp_path: Path) -> None:
    """Position is per image: two images at different positions in one batch decode as they do alone."""
    case = load_case("mamba2_group")
    labels, tokens = case["labels"][:, 0], case["tokens"]
    given = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    reference = decode_logits(case.model, labels, tokens)
    with Generator.open(export(case, tmp_path, "primitive")) as generator:
        ahead = generator.session(2)
        ahead.set_condition(labels)
        ahead.scan(given[:, :7], 0)
        mixed = ahead.snapshot()
        for value in mixed.values():
            value[1], value[3] = 0, 0  # the second image's two rows start anew
        ahead.restore(mixed)
        for t in range(5):
            logits = ahead.step(np.array([given[0, 7 + t], given[1, t]]), np.array([7 + t, t]))
            np.testing.assert_allclose(logits[[0, 2]], reference[7 + t][[0, 2]], rtol=0, atol=1e-4)
            np.testing.assert_allclose(logits[[1, 3]], reference[t][[1, 3]], rtol=0, atol=1e-4)


def test_opset_27_form_in_the_reference_evaluator(tmp_path: Path) -> None:
    case = load_case("mamba2_mlp")
    path = export(case, tmp_path, "onnx-opset27")
    contract = Bundle.open(path).manifest.contract
    engines = {name: ReferenceEvaluator(onnx.load(path / f"{name}.onnx")) for name in ("condition", "step", "scan")}

    def run(graph: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        names = [spec.name for spec in contract.graphs[graph].outputs]
        return dict(zip(names, engines[graph].run(None, inputs), strict=True))

    labels, tokens = case["labels"][:, 0].astype(np.int32), case["tokens"].astype(np.int32)
    given = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    condition = run("condition", class_ids=labels)
    state = {s.input: np.zeros((2 * len(labels), *s.shape), np.float32) for s in contract.states}
    position = np.zeros(len(labels), np.int32)
    whole = run("scan", tokens=given, position=position, **condition, **state)
    steps = []
    for t in range(given.shape[1]):
        out = run("step", token=given[:, t], position=position + np.int32(t), **condition, **state)
        state = {s.input: out[s.output] for s in contract.states}
        steps.append(out["logits"])
    reference = decode_logits(case.model, labels, tokens)
    np.testing.assert_allclose(np.stack(steps), reference, rtol=0, atol=1e-4)
    np.testing.assert_allclose(whole["logits"].swapaxes(0, 1), reference, rtol=0, atol=1e-4)
    for spec in contract.states:
        np.testing.assert_allclose(whole[spec.output], state[spec.input], rtol=0, atol=1e-4)


@pytest.mark.parametrize("lowering", [*RUNNABLE, "onnx-opset27"])
def test_graphs_are_valid_onnx_of_the_promised_opset(lowering: str, tmp_path: Path) -> None:
    path = export(load_case("mamba2_group" if lowering == "plugin-layers" else "mamba2_mlp"), tmp_path, lowering)
    contract = Bundle.open(path).manifest.contract
    for name, spec in contract.graphs.items():
        model = onnx.load(path / spec.file)
        onnx.checker.check_model(model, full_check=True)
        opsets = {i.domain: i.version for i in model.opset_import}
        assert opsets[""] == (27 if lowering == "onnx-opset27" else 17)
        domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
        own = {"onnx": {"com.microsoft"}}.get(lowering, {"aim_edge"} if lowering.startswith("plugin") else set())
        fused = lowering in ("plugin-fused", "plugin-layers")
        with_own = ("step", "scan", *(("vq_decode", "vq_encode") if fused else ()))
        assert domains == (own if name in with_own else set())
        assert [i.name for i in model.graph.input] == [i.name for i in spec.inputs]
        assert [o.name for o in model.graph.output] == [o.name for o in spec.outputs]
        if lowering.startswith("plugin") and name in with_own:
            assert model.functions, "the operators' bodies"
            bare = onnx.load(path / f"{name}.trt.onnx")
            assert not bare.functions and len(bare.graph.node) == len(model.graph.node)


@pytest.mark.parametrize(("name", "lazy"), [*((name, False) for name in SMALL), ("mamba2_adaln", True)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_fused_step_begins_with_one_node(precision: str, name: str, lazy: bool, tmp_path: Path) -> None:
    """Before the first mixer no other operator, but for a shape; the vectors are those of the published order."""
    case = load_case(name)
    path = tmp_path / "bundle"
    export_bundle(case.checkpoint(), path, lowering="plugin-fused", precision=precision, lazy_states=lazy)
    graph = onnx.load(path / "step.trt.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds[:2] == ["Reshape", "EmbedNorm"] and kinds.count("EmbedNorm") == 1
    assert kinds[2] == ("MatMul" if precision == "float32" else "Linear")
    reshape, norm, product = graph.node[:3]
    assert list(norm.input[:3]) == ["token", "position", "class_embedding"]
    assert reshape.input[0] == "modulation" and norm.input[5] == reshape.output[0]
    assert product.input[0] == norm.output[0]
    attributes = {attribute.name: attribute.i for attribute in norm.attribute}
    assert (attributes["shift_index"], attributes["scale_index"]) == (0, case.model.config.adaln_factor // 3)
    assert attributes["position_offset"] == int(case.model.config.decode_position_offset)


@pytest.mark.parametrize(("precision", "head"), [("float32", "Gemm"), ("float16", "LinearFloat32")])
def test_a_fused_step_ends_in_two_nodes(precision: str, head: str, tmp_path: Path) -> None:
    """No casts, and the branch gated where the published order has the gate of the last MLP."""
    path = export(load_case("mamba2_mlp"), tmp_path, "plugin-fused", precision)
    graph = onnx.load(path / "step.trt.onnx", load_external_data=False).graph
    norm, last = [node for node in graph.node if node.op_type != "Identity"][-2:]  # those name the outputs
    assert (norm.op_type, last.op_type) == ("FinalNorm", head)
    dims = Bundle.open(path).manifest.contract.dims
    gate = next(attribute.i for attribute in norm.attribute if attribute.name == "gate_index")
    assert gate == 6 * dims.n_layer - 1
