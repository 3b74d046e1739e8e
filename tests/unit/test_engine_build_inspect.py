"""What is read from the words of TensorRT's inspector, as its versions have them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aim_edge.export.engines_trt_inspect import find_problems, read_inspection
from aim_edge.export.engines_trt_types import Wanted


def tensors(*formats: str) -> list[dict[str, Any]]:
    return [{"Name": "t", "Location": "Device", "Dimensions": [4, 8], "Format/Datatype": text} for text in formats]


def layer(name: str, kind: str, inputs: list[Any], outputs: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": inputs,
        "Outputs": outputs,
        "TacticName": "k",
        "StreamId": 0,
    } | more


HALF, FLOAT, INT = "Row major linear FP16 format", "Row major linear FP32", "Row major linear INT32"
LAYERS_86 = [
    layer("Reformatting CopyNode for Input Tensor 0 to MatMul_4", "Reformat", tensors(FLOAT), tensors(HALF)),
    layer(
        "MatMul_4",
        "CaskGemmMatrixMultiply",
        tensors("Channel major FP16 format where channel % 8 == 0", HALF),
        tensors(HALF),
    ),
    layer("PWN(Sigmoid_5, Mul_6)", "PointWiseV2", tensors(FLOAT), tensors(FLOAT)),
    layer("SelectiveScan_7", "PluginV2", tensors(HALF, FLOAT), tensors(HALF, FLOAT)),
    layer("{ForeignNode[Cast_8...Add_9]}", "Myelin", tensors(HALF), tensors(FLOAT)),
    layer(
        "Conv_10 + Relu_11", "CaskConvolution", tensors(FLOAT), tensors(HALF), Weights={"Type": "Half", "Count": 1250}
    ),
    layer("ArgMax_12", "TopK", tensors(FLOAT), tensors(FLOAT, INT)),
    layer("Gather_13", "Gather", tensors(FLOAT, INT), tensors(FLOAT)),
    layer("Add_14", "ElementWise", tensors(INT, INT), tensors(INT)),
    layer("Odd_15", "ElementWise", tensors("N/A due to dynamic shapes"), tensors("N/A due to dynamic shapes")),
]
WANTED = Wanted(
    {"MatMul_4": "float16", "Sigmoid_5": "float32", "Mul_6": "float32"}, [("SelectiveScan_7", "SelectiveScan")]
)


def read(layers: Any, wanted: Wanted = WANTED) -> Any:
    return read_inspection(json.dumps({"Layers": layers, "Bindings": ["x"]}), wanted)


def test_layers_of_8_6() -> None:
    found = read(LAYERS_86)
    types = ["moves", "float16", "float32", "plugin", "fused", "float16", "float32", "moves", "int32", "unknown"]
    assert [fact.type for fact in found.layers] == types and found.readable
    assert found.counts() == {"float16": 2, "float32": 2, "plugin": 1, "fused": 1, "int32": 1, "unknown": 1}
    assert found.plugins(WANTED) == {"SelectiveScan": 1}
    assert found.layers[3].inputs == ("float16", "float32")
    assert find_problems(found, WANTED, True) == []


def test_layers_of_later_versions() -> None:
    found = read([
        layer("gemm_1", "gemm", tensors("Half"), tensors("Half")),
        layer("f_2", "kgen", tensors("Float"), tensors("Float")),
        layer("x", "PluginV3", tensors("Half"), tensors("Half")),
        layer("b", "kgen", tensors("BFloat16"), tensors("BF16")),
        layer("w", "Wait", [], []),
    ])  # fmt: skip
    assert [fact.type for fact in found.layers] == ["float16", "float32", "plugin", "bfloat16", "moves"]


def test_a_plugin_is_known_by_its_name_or_its_kind() -> None:
    other = Wanted(plugins=[("scan_0", "SelectiveScan"), ("conv_0", "CausalConv1d")])
    found = read(["scan_0", layer("__conv_0", "PluginV2DynamicExt", [], []), "norm"], other)
    assert found.plugins(other) == {"SelectiveScan": 1, "CausalConv1d": 1}
    assert found.counts() == {"plugin": 2, "unknown": 1}
    assert find_problems(found, other, True) == []
    assert find_problems(read(["scan_0"], other), other, None) == [
        "1 of the network's 2 plugins are not in the engine: conv_0 (CausalConv1d)"
    ]


def test_layers_of_other_profiles_are_counted_once_and_judged_all_the_same() -> None:
    again = [layer | {"Name": f"{layer['Name']} [profile 1]"} for layer in LAYERS_86]
    found = read(LAYERS_86 + again)
    assert found.counts() == read(LAYERS_86).counts() and found.plugins(WANTED) == {"SelectiveScan": 1}
    assert len(found.layers) == 2 * len(LAYERS_86) and find_problems(found, WANTED, True) == []
    plain = Wanted({"a": "float32"})
    wide = layer("a", "Gemm", tensors(FLOAT), tensors(FLOAT))
    narrow = layer("a [profile 1]", "Gemm", tensors(HALF), tensors(HALF))
    problems = find_problems(read([wide, narrow], plain), plain, None)
    assert problems == ["1 layers were to compute in float32 and do in float16: a [profile 1]"]


@pytest.mark.parametrize("text", ["", "no", "[]", "{}", '{"Layers": 3}', '{"Layers": []}', "null"])
def test_other_forms_are_unreadable_and_no_problem(text: str) -> None:
    found = read_inspection(text, WANTED)
    assert not found.readable and found.counts() == {} and find_problems(found, WANTED, True) == []


@pytest.mark.parametrize("odd", [{}, {"Name": 3, "LayerType": None, "Inputs": "x", "Outputs": 7}, 5, None])
def test_odd_layers_are_unknown(odd: Any) -> None:
    assert read([odd]).layers[0].type == "unknown"


def floats_86() -> list[dict[str, Any]]:
    return [layer("a", "Gemm", tensors(FLOAT), tensors(FLOAT))]


def test_problems() -> None:
    plain = Wanted({"a": "float32", "b": "float32", "c": "float16"})
    floats = read(floats_86(), plain)
    assert find_problems(floats, plain, True) == [
        "float16 was asked for, but no layer computes in it (1 float32): a float32"
    ]
    assert find_problems(floats, plain, False) == find_problems(floats, plain, None) == []
    halves = read([layer("c", "Gemm", tensors(HALF), tensors(HALF))], plain)
    assert find_problems(halves, plain, False) == ["float32 was asked for, but 1 layers compute in float16: c"]
    plugin = read([layer("p", "PluginV2", tensors(HALF), tensors(HALF)), *floats_86()], plain)
    assert find_problems(plugin, plain, True) == []  # all products may be plugins
    alone = Wanted(plugins=[("p", "Mamba2Step")])
    for untold in ("p", layer("p", "PluginV2", [], []), layer("p", "PluginV2", [{"Name": "x"}], tensors("Int32"))):
        assert find_problems(read([untold], alone), alone, True) == []
    wide = read([layer("p", "PluginV2", tensors("Int32"), tensors(FLOAT))], alone)
    assert find_problems(wide, alone, True)[0].endswith("computes in it (1 plugin): p float32/int32")
    fused = read([layer("{ForeignNode[a...c]}", "Myelin", tensors(FLOAT), tensors(FLOAT))], plain)
    assert find_problems(fused, plain, True) == []  # what is in it is not told


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "narrowed"),
    [
        ("a", HALF, HALF, True), ("a + b", HALF, HALF, True), ("PWN(PWN(a), b)", HALF, HALF, True),
        ("a", FLOAT, HALF, False), ("a", HALF, FLOAT, False),  # fused with a cast
        ("a + c", HALF, HALF, False), ("c", HALF, HALF, False), ("unheard", HALF, HALF, False),
    ],
)  # fmt: skip
def test_layers_that_were_narrowed(name: str, inputs: str, outputs: str, narrowed: bool) -> None:
    wanted = Wanted({"a": "float32", "b": "float32", "c": "float16"})
    found = read([layer(name, "ElementWise", tensors(inputs), tensors(outputs))], wanted)
    told = [f"1 layers were to compute in float32 and do in float16: {name}"] if narrowed else []
    assert find_problems(found, wanted, None) == told
    assert find_problems(found, wanted, None, ordered=False) == []


def test_many_names_are_cut() -> None:
    names = [f"layer_{n}" for n in range(9)]
    wanted = Wanted(dict.fromkeys(names, "float32"))
    found = read([layer(name, "Gemm", tensors(HALF), tensors(HALF)) for name in names], wanted)
    assert find_problems(found, wanted, None)[0].endswith("layer_3, layer_4 and 4 more")
