"""Bundles broken on purpose: each fault leaves a gate, and the diagnosis names the layer or the cause.

Most are planted in the ONNX files, whose digests the manifest then takes: what is caught is the fault, not the edit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from aim_edge.aim import Checkpoint, VqModel
from aim_edge.cli import main
from aim_edge.export import Diagnosis, examine, export_bundle, locate
from aim_edge.runtime.bundle import read_manifest, record_files, write_manifest
from golden.cases import load_case

CASE = "mamba2_group"  # six layers; headdim, d_state and nheads all differ
SWAPPED = (2, 4)  # of different modulation groups


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_case(CASE).checkpoint()


@pytest.fixture
def bundle(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return export_bundle(checkpoint, tmp_path / "bundle")


def edit(path: Path, change: Callable[[onnx.GraphProto], None], graphs: tuple[str, ...] = ("step", "scan")) -> None:
    """Changes graphs of a bundle, and its manifest's digests with them."""
    for name in graphs:
        model = onnx.load(path / f"{name}.onnx")
        change(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, path / f"{name}.onnx")
    write_manifest(path, replace(read_manifest(path), files=record_files(path)))


def set_weight(graph: onnx.GraphProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    weight = next(i for i in graph.initializer if i.name == name)
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))


def insert_after(graph: onnx.GraphProto, output: str, make: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Nodes that read what `output` was, now under another name, and give `output`."""
    at, node = next((i, n) for i, n in enumerate(graph.node) if output in n.output)
    node.output[list(node.output).index(output)] = f"{output}_before"
    for offset, added in enumerate(make(f"{output}_before", output), start=1):
        graph.node.insert(at + offset, added)


def constant(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def diagnose(path: Path, checkpoint: Checkpoint) -> Diagnosis:
    """The bundle leaves a gate, and this is why."""
    seen = examine(path, checkpoint)
    assert not seen.report.passed
    diagnosis = locate(path, checkpoint, seen)
    assert diagnosis.findings and diagnosis.findings[0].certainty == "certain", diagnosis
    return diagnosis


def first_outside(diagnosis: Diagnosis) -> str:
    return next(f.where for f in diagnosis.findings if f.cause == "first-outside")


def test_a_good_bundle_has_no_findings(bundle: Path, checkpoint: Checkpoint) -> None:
    assert not locate(bundle, checkpoint).findings


def test_two_layers_swapped_in_the_weights(bundle: Path, checkpoint: Checkpoint) -> None:
    a, b = (f"backbone.layers.{layer}." for layer in SWAPPED)

    def swap(graph: onnx.GraphProto) -> None:
        values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        for name in [n for n in values if n.startswith(a)]:
            other = b + name.removeprefix(a)
            set_weight(graph, name, lambda _, value=values[other]: value)
            set_weight(graph, other, lambda _, value=values[name]: value)

    edit(bundle, swap)
    diagnosis = diagnose(bundle, checkpoint)
    assert diagnosis.findings[0].cause == "weights-of-another-layer"
    assert diagnosis.findings[0].where == "layers 2 and 4"
    assert diagnosis.findings[0].text.startswith("layers 2 and 4 are swapped: 9 weights")
    assert first_outside(diagnosis) == "conv_state_2"


def test_two_layers_swapped_in_the_graph(bundle: Path, checkpoint: Checkpoint) -> None:
    """Every weight is the checkpoint's by its name; the nodes read the other layer's."""
    a, b = (f"backbone.layers.{layer}." for layer in SWAPPED)

    def swap(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            for i, name in enumerate(node.input):
                for own, other in ((a, b), (b, a)):
                    if name.startswith(own):
                        node.input[i] = other + name.removeprefix(own)

    edit(bundle, swap)
    diagnosis = diagnose(bundle, checkpoint)
    assert (diagnosis.findings[0].cause, diagnosis.findings[0].where) == ("layers-swapped", "layers 2 and 4")
    assert "weights in 5 graphs are the checkpoint's" in diagnosis.notes[0]


@pytest.mark.parametrize("whole", [True, False])
def test_one_weight_with_a_flipped_sign(bundle: Path, checkpoint: Checkpoint, whole: bool) -> None:
    name = "backbone.layers.3.mixer.D.as_4x1"

    def flip(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[slice(None) if whole else slice(1)] *= -1
        return changed

    edit(bundle, lambda graph: set_weight(graph, name, flip))
    diagnosis = diagnose(bundle, checkpoint)
    finding = diagnosis.findings[0]
    assert (finding.cause, finding.where) == ("weight-sign", "backbone.layers.3.mixer.D")
    assert "layer 3" in finding.text and "step" in finding.text and ("all of 4" if whole else "1 of 4") in finding.text
    assert first_outside(diagnosis) == "conv_state_4", "D comes after layer 3's states"


def test_one_weight_altered(bundle: Path, checkpoint: Checkpoint) -> None:
    name = "backbone.layers.1.mixer.conv1d.weight"
    edit(bundle, lambda graph: set_weight(graph, name, lambda array: array * np.float32(1.1)), ("step",))
    diagnosis = diagnose(bundle, checkpoint)
    assert (diagnosis.findings[0].cause, diagnosis.findings[0].where) == ("weight-altered", name)
    assert "relative difference 0.1" in diagnosis.findings[0].text
    assert first_outside(diagnosis) == "ssm_state_1"


def test_a_transposed_state(bundle: Path, checkpoint: Checkpoint) -> None:
    """Of one layer; in its memory only, as shapes that differ would be refused when the bundle is opened."""
    shape = read_manifest(bundle).contract.states[5].shape

    def transpose(graph: onnx.GraphProto) -> None:
        size = constant(graph, "planted_shape", np.array([0, *shape], np.int64))
        insert_after(graph, "ssm_state_out_2", lambda before, after: [
            helper.make_node("Transpose", [before], ["planted"], perm=[0, 1, 3, 2]),
            helper.make_node("Reshape", ["planted", size], [after]),
        ])  # fmt: skip

    edit(bundle, transpose)
    diagnosis = diagnose(bundle, checkpoint)
    assert (diagnosis.findings[0].cause, diagnosis.findings[0].where) == ("state-transposed", "ssm_state_2")
    assert "layer 2" in diagnosis.findings[0].text
    assert len([f for f in diagnosis.findings if f.cause == "state-transposed"]) == 1


def test_two_states_exchanged(bundle: Path, checkpoint: Checkpoint) -> None:
    other = {"ssm_state_out_1": "ssm_state_out_4", "ssm_state_out_4": "ssm_state_out_1"}

    def exchange(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = [other.get(name, name) for name in node.output]
            node.input[:] = [other.get(name, name) for name in node.input]

    edit(bundle, exchange)
    finding = diagnose(bundle, checkpoint).findings[0]
    assert (finding.cause, finding.where) == ("states-exchanged", "ssm_state_1, ssm_state_4")


@pytest.mark.parametrize(("planted", "words"), [(-1, "embedding of t - 1,"), (1, "embedding of t + 1,")])
def test_position_offset_off_by_one(bundle: Path, checkpoint: Checkpoint, planted: int, words: str) -> None:
    def shift(graph: onnx.GraphProto) -> None:
        gather = next(n for n in graph.node if n.input and "position_embeddings" in n.input[0])
        zero, one = (constant(graph, f"planted_{n}", np.array(n, np.int32)) for n in (0, planted))
        nodes = [
            helper.make_node("Add", [gather.input[1], one], ["planted_sum"]),
            helper.make_node("Max", ["planted_sum", zero], ["planted_position"]),
        ]
        gather.input[1] = "planted_position"
        at = list(graph.node).index(gather)
        for node in reversed(nodes):
            graph.node.insert(at, node)

    edit(bundle, shift)
    finding = diagnose(bundle, checkpoint).findings[0]
    assert finding.cause == "position-offset" and words in finding.text


def test_guidance_rows_swapped(bundle: Path, checkpoint: Checkpoint) -> None:
    def swap(graph: onnx.GraphProto) -> None:
        rows = next(n for n in graph.node if n.op_type == "Concat" and n.input[0] == "class_ids")
        rows.input[:] = reversed(rows.input)

    edit(bundle, swap, ("condition",))
    finding = diagnose(bundle, checkpoint).findings[0]
    assert (finding.cause, finding.where) == ("guidance-rows-swapped", "logits and states")


def test_guidance_rows_swapped_in_the_logits(bundle: Path, checkpoint: Checkpoint) -> None:
    def swap(graph: onnx.GraphProto) -> None:
        insert_after(graph, "logits", lambda before, after: [
            helper.make_node("Split", [before], ["planted_a", "planted_b"], axis=0),
            helper.make_node("Concat", ["planted_b", "planted_a"], [after], axis=0),
        ])  # fmt: skip

    edit(bundle, swap)
    finding = diagnose(bundle, checkpoint).findings[0]
    assert (finding.cause, finding.where) == ("guidance-rows-swapped", "logits")


def test_float16_overflow_in_one_layer(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Nothing but an overflow: one layer's state is scaled up where it is written and down where it is read.

    In the state, because ONNX Runtime computes float16 in float32 on a CPU: within a step nothing overflows there.
    """
    path = export_bundle(checkpoint, tmp_path / "bundle", precision="float16", state_dtype="float16")

    def scaled(kind: str, source: str, target: str) -> list[onnx.NodeProto]:
        """Twice by 60000, which takes every number but the smallest beyond float16."""
        once = f"{target}_once"
        return [
            helper.make_node(kind, [source, "planted_large"], [once]),
            helper.make_node(kind, [once, "planted_large"], [target]),
        ]

    def overflow(graph: onnx.GraphProto) -> None:
        constant(graph, "planted_large", np.array(60000, np.float16))
        for node in graph.node:
            node.input[:] = ["planted_state" if name == "conv_state_3" else name for name in node.input]
        insert_after(graph, "conv_state_out_3", lambda before, after: scaled("Mul", before, after))
        for node in reversed(scaled("Div", "conv_state_3", "planted_state")):
            graph.node.insert(0, node)

    edit(path, overflow)
    diagnosis = diagnose(path, checkpoint)
    finding = diagnosis.findings[0]
    assert (finding.cause, finding.where) == ("overflow", "conv_state_3")
    assert "float16 overflow in layer 3's" in finding.text and "at step 0" in finding.text
    assert "float32" in finding.action


def test_a_state_near_the_end_of_float16(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = export_bundle(checkpoint, tmp_path / "bundle", precision="float16", state_dtype="float16")

    def raise_it(graph: onnx.GraphProto) -> None:
        high = constant(graph, "planted_high", np.array(60000, np.float16))
        insert_after(graph, "conv_state_out_3", lambda old, new: [helper.make_node("Add", [old, high], [new])])

    edit(path, raise_it)
    seen = examine(path, checkpoint, steps=1)  # one more step, and it does overflow
    findings = {f.cause: f for f in locate(path, checkpoint, seen).findings}
    assert set(findings) == {"first-outside", "near-overflow"}
    assert {f.where for f in findings.values()} == {"conv_state_3"}


def test_a_stale_vq(bundle: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """vq_decode of another training run: codes and logits agree, images do not."""
    torch.manual_seed(1)
    other = replace(checkpoint, vq=VqModel(checkpoint.vq.config).eval())
    shutil.copy(export_bundle(other, tmp_path / "other") / "vq_decode.onnx", bundle)
    edit(bundle, lambda graph: None, ())
    diagnosis = diagnose(bundle, checkpoint)
    assert [f.cause for f in diagnosis.findings] == ["stale-vq"]
    assert "vq_decode" in diagnosis.findings[0].text and "codes and logits agree" in diagnosis.findings[0].text


def test_an_image_of_nan(bundle: Path, checkpoint: Checkpoint) -> None:
    name = "decoder.conv_in.bias"
    edit(bundle, lambda graph: set_weight(graph, name, lambda a: np.full_like(a, np.nan)), ("vq_decode",))
    seen = examine(bundle, checkpoint)
    assert seen.drawn is None and [f.where for f in seen.report.non_finite] == ["image"]
    assert name in locate(bundle, checkpoint, seen).findings[0].text


def test_the_command_line_exits_with_1_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_bundle("demo", tmp_path / "bundle", lowering="onnx")
    name = "backbone.layers.2.mixer.out_proj.weight.T"
    edit(path, lambda graph: set_weight(graph, name, np.negative), ("step",))
    files = [tmp_path / "report.html", tmp_path / "report.json"]
    arguments = [str(path), "--steps", "20", "--html", str(files[0]), "--json", str(files[1])]
    assert main(["validate", *arguments]) == 1
    out = capsys.readouterr().out
    assert "parity FAIL" in out
    assert "diagnosis: certain: layer 2: backbone.layers.2.mixer.out_proj.weight has its sign flipped in step" in out
    assert "layer 2" in files[0].read_text()
    values = json.loads(files[1].read_text())
    assert values["diagnosis"]["findings"][0]["cause"] == "weight-sign" and not values["passed"]
