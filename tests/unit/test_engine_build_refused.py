"""build_engines with TensorRT: what is refused, and that nothing is recorded of it."""

# ruff: noqa: F811  (fixtures are imported, and asked for by their names)
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_stage import GPU, Play, build, change, left_over, library, play, toy, toy_made, with_plugins  # noqa: F401
from fake_builder import F16, F32, Layer, Network, World, model_layers
from toy_bundle import make_bundle

from aim_edge.cli import main
from aim_edge.export import EngineBuildError, TrtOptions, build_engines
from aim_edge.export import engines as engines_module
from aim_edge.export.engines_common import Job
from aim_edge.export.engines_trt import check_faults
from aim_edge.export.engines_trt_types import constrain
from aim_edge.export.engines_trt_versions import Dialect
from aim_edge.runtime import BackendMissingError, Bundle
from aim_edge.runtime.bundle import read_manifest
from aim_edge.runtime.contract import GraphSpec, TensorSpec


def drop(name: str) -> Callable[[str, list[dict[str, Any]]], Any]:
    return lambda graph, layers: [layer for layer in layers if layer["Name"] != name]


def retype(name: str, text: str) -> Callable[[str, list[dict[str, Any]]], Any]:
    side = [{"Format/Datatype": text}]
    return lambda graph, layers: [
        layer | {"Inputs": side, "Outputs": side}
        if name in (layer["Name"], "") and layer["LayerType"] == "Gemm"
        else layer
        for layer in layers
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"reshape": drop("scan_1")}, r"1 of the network's 4 plugins are not in the engine: scan_1 \(SelectiveScan\)"),
        ({"reshape": retype("", "Row major linear FP32")}, r"float16 was asked for, but no layer computes in it"),
        ({"reshape": retype("sum", "Channel major FP16 format where channel % 8 == 0")},
         r"1 layers were to compute in float32 and do in float16: sum"),
        ({"unparsed": {"step"}}, r"does not parse it: node 7 'unnamed' \(\?\): no importer for Det"),
        ({"port_types": {"logits": F16}}, r"tensors are not the contract's: logits is \('float16'"),
        ({"fails": {"step": "no implementation of x"}}, r"no engine for sm90: no impl.*raise --work.*--prefer-prec"),
        ({"raises": {"step": RuntimeError("CUDA error 700")}}, r"builds no engine for sm90: CUDA error 700"),
    ],
)  # fmt: skip
def test_what_is_not_as_asked_is_refused(
    more: dict[str, Any], message: str, toy: Path, play: Play, library: Path
) -> None:
    with_plugins(toy)
    play("8.6.0", plugin=True, **more)
    with pytest.raises(EngineBuildError, match=rf"step\.trt\.onnx: .*{message}"):
        build(toy, graphs=["step"], options=TrtOptions(plugins=library))
    assert Bundle.open(toy).manifest.engines == {} and left_over(toy) == []
    assert not (toy / "engines").exists()


def test_float32_that_became_float16_is_refused(toy: Path, play: Play) -> None:
    contract = read_manifest(make_bundle(toy.parent / "float32")).contract
    change(toy, precision="float32", state_dtype="float32", contract=contract)
    play("10.3.0.26", dtype="float32", reshape=retype("product", "Half"))
    with pytest.raises(EngineBuildError, match=r"float32 was asked for, but 1 layers compute in float16: product"):
        build(toy)


def test_a_graph_without_plugins_or_float16_is_refused(toy: Path, play: Play, library: Path) -> None:
    world = play("8.6.0", dtype="float32")
    world.layers = lambda graph: model_layers((), "float32")
    with pytest.raises(EngineBuildError, match=r"step\.onnx: no layer of it computes in float16, but the bundle does"):
        build(toy, graphs=["step"])
    with_plugins(toy)
    play("8.6.0")
    with pytest.raises(EngineBuildError, match=r"step\.trt\.onnx: TensorRT 8\.6\.0 made no plugin of its operators"):
        build(toy, graphs=["step"], options=TrtOptions(plugins=library))


@pytest.mark.parametrize(("weights", "counted"), [("float16", "float16 plugins"), ("float32", "float32 plugins")])
def test_a_plugin_with_float16_weights_computes_in_float16(weights: str, counted: str, toy: Path, play: Play) -> None:
    play("8.6.0")
    network = Network(World(read_manifest(toy).contract, lambda graph: [
        Layer("CONSTANT", "table", (), [("w", F32)], weights=np.zeros(2, weights)),
        Layer("PLUGIN_V2", "whole", ["class_embedding", "w"], [("logits", F32)], operator="Mamba2Step"),
    ]), 0)  # fmt: skip
    network.fill("step")
    wanted = constrain(Dialect(sys.modules["tensorrt"]), network, "float16")
    assert wanted.counts == {counted: 1} and wanted.plugins == [("whole", "Mamba2Step")]


def test_a_step_that_tensorrt_8_is_known_to_get_wrong_is_refused() -> None:
    cached = GraphSpec("step.onnx", (TensorSpec("k_cache_0", "float32", ("rows", 4, 25, 16)),), ())
    job = Job("step", Path("gpt/step.onnx"), cached, "sm90", ((1, 1, 1),), (1, 1, 1))
    with pytest.raises(EngineBuildError, match=r"step\.onnx: TensorRT 8\.6\.0 makes of .* wrong; .* plugin-fused"):
        check_faults(job, (8, 6), "8.6.0")
    for other, release in ((job, (10, 3)), (replace(job, plugins=True), (8, 6)), (replace(job, graph="scan"), (8, 6))):
        check_faults(other, release, "any")


def test_plugins_that_call_cudnn_are_refused_where_it_is_not_used(toy: Path, play: Play) -> None:
    world = play("8.6.0")
    whole = world.layers

    def layers(graph: str) -> list[Layer]:
        norm = Layer("PLUGIN_V2", "norm", ["y32"], [("normed", F32)], operator="InstanceNormalization_TRT")
        return [*whole(graph), norm]

    world.layers = layers
    with pytest.raises(EngineBuildError, match=r"vq_decode\.onnx: .*\(InstanceNormalization_TRT\), which call cuDNN"):
        build(toy, graphs=["vq_decode"])
    record = build(toy, graphs=["vq_decode"], options=TrtOptions(tactic_sources="default"))
    assert record.graphs["vq_decode"].plugins == {"InstanceNormalization_TRT": 1}


def test_out_of_memory_is_told_and_survived(toy: Path, play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    world = play("8.6.0", fails={"scan": "Error Code 1: Cuda Runtime (out of memory)"})
    assert main(["build", str(toy), "--target", "tensorrt", "--workspace", "512"]) == 2
    err = capsys.readouterr().err
    assert "scan.onnx: TensorRT 8.6.0 builds no engine for sm90: Error Code 1: Cuda Runtime (out of memory)" in err
    assert "workspace limit 512 MiB; 3072 of 81920 MiB of device memory are free" in err
    assert "with a smaller --workspace or a smaller largest --batch it takes less" in err
    assert Bundle.open(toy).manifest.engines == {}
    world.fails.clear()
    assert main(["build", str(toy), "--target", "tensorrt"]) == 0


def test_too_little_workspace_is_told(toy: Path, play: Play) -> None:
    play("8.6.0", fails={"step": "Could not find any implementation for node x due to insufficient workspace."})
    with pytest.raises(EngineBuildError, match="raise --workspace"):
        build(toy)


@pytest.mark.parametrize("target", ["trt:sm86", "trt:sm90,sm87"])
def test_not_the_gpu_at_hand(target: str, toy: Path, play: Play) -> None:
    play("8.6.0")
    with pytest.raises(ValueError, match=rf"target is 'trt:sm8\d', but the GPU at hand is {GPU}, trt:sm90"):
        build_engines(toy, [target])


def test_no_gpu_or_no_tensorrt(toy: Path, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play("8.6.0")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendMissingError, match=r'needs TensorRT .*pip install "aim-edge\[tensorrt\]"'):
        build(toy)
    play("8.4.3")
    with pytest.raises(EngineBuildError, match=r"TensorRT 8\.4\.3 is here; 8\.5 or later is needed"):
        build(toy)

    play("8.6.0", broken=True)
    with pytest.raises(EngineBuildError, match=r"TensorRT 8\.6\.0 does not start: CUDA initialization failure"):
        build(toy)

    def none() -> Any:
        raise BackendMissingError("no CUDA driver here")

    monkeypatch.setattr(engines_module, "Device", none)
    with pytest.raises(BackendMissingError, match="no CUDA driver"):
        build(toy)


def test_other_lowerings_are_refused(toy: Path, play: Play) -> None:
    play("8.6.0")
    change(toy, lowering="onnx")
    with pytest.raises(ValueError, match=r"of the lowering 'onnx'; TensorRT takes .*--lowering primitive or plugin"):
        build(toy)
    change(toy, lowering="plugin")
    with pytest.raises(ValueError, match=r"of the lowering 'plugin'; TensorRT-RTX takes no plugins"):
        build_engines(toy, ["tensorrt", "rtx:sm86"])
