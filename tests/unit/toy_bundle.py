"""A tiny model that follows the contract, as ONNX graphs and as NumPy: what the runtime's tests run.

Every size that could be mistaken for another differs from it, the state feeds the logits, and so do the
token, the position and the class: a swapped half, axis or row changes what is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aim_edge.runtime.bundle import new_bundle, record_files, write_manifest
from aim_edge.runtime.contract import Contract, ModelDims, build_contract
from aim_edge.runtime.manifest import CheckpointRecord, Manifest
from aim_edge.runtime.sampler import SamplingConfig

DIMS = ModelDims(
    d_model=8, n_layer=2, vocab_size=23, num_classes=4, num_tokens=12, adaln_factor=3, nheads=2, headdim=3,
    d_state=5, d_conv=4, conv_dim=7, image_channels=3, image_height=12, image_width=9, grid_height=4, grid_width=3,
)  # fmt: skip
CELL = 3
DECAY = np.float32(0.8)
ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32}
CONDITION = ("modulation", "final_modulation", "class_embedding")


def make_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The toy's parameters, float32."""
    random = np.random.default_rng(seed)
    d = DIMS
    shapes: dict[str, tuple[int, ...]] = {
        "class_table": (d.num_classes + 1, d.d_model),
        "modulation_table": (d.num_classes + 1, d.n_layer, d.adaln_factor, d.d_model),
        "final_table": (d.num_classes + 1, 2, d.d_model),
        "token_table": (d.vocab_size, d.d_model),
        "position_table": (d.num_tokens, d.d_model),
        "head": (d.d_model, d.vocab_size),
    }
    for i in range(d.n_layer):
        shapes[f"conv_{i}"] = (d.d_model, d.conv_dim)
        shapes[f"key_{i}"] = (d.conv_dim, d.nheads * d.headdim)
        shapes[f"state_{i}"] = (d.conv_dim, d.d_state)
        shapes[f"out_{i}"] = (d.nheads * d.headdim, d.d_model)
    weights = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return {name: w / np.float32(1 if "table" in name else np.sqrt(w.shape[0])) for name, w in weights.items()}


@dataclass
class ToyModel:
    """The same in NumPy, canonical state, for comparison."""

    weights: dict[str, np.ndarray]
    labels: np.ndarray

    def __post_init__(self) -> None:
        rows = 2 * len(self.labels)
        self.conv = [np.zeros((rows, DIMS.conv_dim, DIMS.d_conv - 1), np.float32) for _ in range(DIMS.n_layer)]
        shape = (rows, DIMS.nheads, DIMS.headdim, DIMS.d_state)
        self.ssm = [np.zeros(shape, np.float32) for _ in range(DIMS.n_layer)]

    def step(self, token: np.ndarray, position: int) -> np.ndarray:
        w = self.weights
        ids = np.concatenate([self.labels, np.full_like(self.labels, DIMS.num_classes)])
        x = w["class_table"][ids] if position == 0 else w["token_table"][np.concatenate([token, token])]
        for i in range(DIMS.n_layer):
            h = np.tanh(x + w["modulation_table"][ids][:, i, 1])
            u = h @ w[f"conv_{i}"]
            self.conv[i] = np.concatenate([self.conv[i][:, :, 1:], u[:, :, None]], axis=2)
            c = self.conv[i].sum(axis=2)
            key = (c @ w[f"key_{i}"]).reshape(-1, DIMS.nheads, DIMS.headdim, 1)
            b = (c @ w[f"state_{i}"])[:, None, None, :]
            self.ssm[i] = DECAY * self.ssm[i] + key * b
            y = (self.ssm[i] * b).sum(axis=-1).reshape(len(x), -1)
            x = x + np.tanh(y @ w[f"out_{i}"])
        logits: np.ndarray = (x + w["final_table"][ids][:, 0] + w["position_table"][position]) @ w["head"]
        return logits


class Graph:
    """Collects the nodes of one graph; constants are initializers shared by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, kind: str, *inputs: str | np.ndarray, out: str | None = None, **attributes: Any) -> str:
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        output = out or f"{kind.lower()}_{id(self):x}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        name = f"const_{id(self):x}_{len(self.constants)}"
        self.constants[name] = value
        return name


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _step_nodes(g: Graph, contract: Contract, token: str, position: str, prefix: str, logits: str) -> list[str]:
    """One step's nodes; states are read from and written to the contract's names behind `prefix`."""
    ids = g.op("Concat", token, token, axis=0)
    at = g.op("Concat", position, position, axis=0)
    first = g.op("Unsqueeze", g.op("Equal", at, np.array(0, np.int32)), ints(1))
    x = g.op("Where", first, "class_embedding", g.op("Gather", "token_table", ids))
    outputs = []
    for i in range(DIMS.n_layer):
        conv_spec, ssm_spec = contract.states[2 * i : 2 * i + 2]
        modulation = g.op("Gather", g.op("Gather", "modulation", np.array(i), axis=1), np.array(1), axis=1)
        u = g.op("MatMul", g.op("Tanh", g.op("Add", x, modulation)), f"conv_{i}")
        old_conv = g.op("Cast", prefix + conv_spec.input, to=TensorProto.FLOAT)
        kept = g.op("Slice", old_conv, ints(1), ints(9), ints(2))
        conv = g.op("Concat", kept, g.op("Unsqueeze", u, ints(2)), axis=2)
        c = g.op("ReduceSum", conv, ints(2), keepdims=0)
        key = g.op("Reshape", g.op("MatMul", c, f"key_{i}"), ints(-1, DIMS.nheads, DIMS.headdim, 1))
        b = g.op("Unsqueeze", g.op("MatMul", c, f"state_{i}"), ints(1, 2))
        ssm = g.op("Cast", prefix + ssm_spec.input, to=TensorProto.FLOAT)
        if ssm_spec.transposed:
            ssm = g.op("Transpose", ssm, perm=[0, 1, 3, 2])
        ssm = g.op("Add", g.op("Mul", ssm, np.array(DECAY)), g.op("Mul", key, b))
        y = g.op("ReduceSum", g.op("Mul", ssm, b), ints(3), keepdims=0)
        flat = g.op("Reshape", y, ints(-1, DIMS.nheads * DIMS.headdim))
        x = g.op("Add", x, g.op("Tanh", g.op("MatMul", flat, f"out_{i}")))
        if ssm_spec.transposed:
            ssm = g.op("Transpose", ssm, perm=[0, 1, 3, 2])
        for spec, value in ((conv_spec, conv), (ssm_spec, ssm)):
            outputs.append(g.op("Cast", value, out=prefix + spec.output, to=ELEMENT[spec.dtype]))
    x = g.op("Add", x, g.op("Gather", "final_modulation", np.array(0), axis=1))
    g.op("MatMul", g.op("Add", x, g.op("Gather", "position_table", at)), "head", out=logits)
    return outputs


def _save(path: Path, g: Graph, contract: Contract, graph: str, weights: dict[str, np.ndarray]) -> None:
    spec = contract.graphs[graph]
    ports = [[helper.make_tensor_value_info(t.name, ELEMENT[t.dtype], t.shape) for t in side]
             for side in (spec.inputs, spec.outputs)]  # fmt: skip
    used = {name for node in g.nodes for name in node.input} | {"token_table", "position_table", "head"}
    tables = {n: w for n, w in weights.items() if n in used or graph == "scan"}
    constants = [numpy_helper.from_array(value, name) for name, value in (g.constants | tables).items()]
    made = helper.make_graph(g.nodes, graph, *ports, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_contract(state_dtype: str = "float32", transposed: bool = False) -> Contract:
    return build_contract(DIMS, state_dtype=state_dtype, transposed_state=transposed)


def write_graphs(folder: Path, contract: Contract, weights: dict[str, np.ndarray]) -> None:
    """The five graphs of the toy."""
    g = Graph()
    null = g.op("Add", g.op("Mul", "class_ids", np.array(0, np.int32)), np.array(DIMS.num_classes, np.int32))
    ids = g.op("Concat", "class_ids", null, axis=0)
    for table, name in (("modulation_table", "modulation"), ("final_table", "final_modulation"),
                        ("class_table", "class_embedding")):  # fmt: skip
        g.op("Gather", table, ids, out=name)
    _save(folder / "condition.onnx", g, contract, "condition", weights)

    g = Graph()
    _step_nodes(g, contract, "token", "position", "", "logits")
    _save(folder / "step.onnx", g, contract, "step", weights)

    g, body = Graph(), Graph()
    outputs = _step_nodes(body, contract, "one_token", "at", "in_", "one_logits")
    body.op("Add", "at", np.array(1, np.int32), out="next_at")
    info = helper.make_tensor_value_info
    states = contract.states
    scan_body = helper.make_graph(
        body.nodes, "body",
        [info("in_" + s.input, ELEMENT[s.dtype], ("rows", *s.shape)) for s in states]
        + [info("at", TensorProto.INT32, ("batch",)), info("one_token", TensorProto.INT32, ("batch",))],
        [info(name, ELEMENT[s.dtype], ("rows", *s.shape)) for name, s in zip(outputs, states, strict=True)]
        + [info("next_at", TensorProto.INT32, ("batch",)),
           info("one_logits", TensorProto.FLOAT, ("rows", DIMS.vocab_size))],
        [numpy_helper.from_array(value, name) for name, value in body.constants.items()],
    )  # fmt: skip
    turned = g.op("Transpose", "tokens", perm=[1, 0])
    g.nodes.append(helper.make_node(
        "Scan", [*(s.input for s in states), "position", turned],
        [*(s.output for s in states), "last_position", "by_step"], num_scan_inputs=1, body=scan_body,
    ))  # fmt: skip
    g.op("Transpose", "by_step", out="logits", perm=[1, 0, 2])
    _save(folder / "scan.onnx", g, contract, "scan", weights)

    g = Graph()
    grey = g.op("Cast", "codes", to=TensorProto.FLOAT)
    grey = g.op("Sub", g.op("Mul", grey, np.float32(2 / (DIMS.vocab_size - 1)).reshape(())), np.array(1, np.float32))
    spread = g.op("Expand", g.op("Unsqueeze", grey, ints(1, 3, 5)), ints(1, 3, 1, CELL, 1, CELL))
    g.op("Reshape", spread, ints(-1, 3, DIMS.image_height, DIMS.image_width), out="image")
    _save(folder / "vq_decode.onnx", g, contract, "vq_decode", {})

    g = Graph()
    corner = g.op("Slice", "image", ints(0, 0, 0), ints(1, 99, 99), ints(1, 2, 3), ints(1, CELL, CELL))
    scaled = g.op("Mul", g.op("Add", g.op("Squeeze", corner, ints(1)), np.array(1, np.float32)),
                  np.array((DIMS.vocab_size - 1) / 2, np.float32))  # fmt: skip
    g.op("Cast", g.op("Round", scaled), out="codes", to=TensorProto.INT32)
    _save(folder / "vq_encode.onnx", g, contract, "vq_encode", {})


def make_manifest(contract: Contract, **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "aim_edge_version": "0", "contract": contract, "model_config": {}, "class_names": ("a", "b", "c", "d"),
        "sampling_defaults": SamplingConfig(guidance_scale=2.0), "precision": "float32",
        "state_dtype": contract.states[0].dtype, "lowering": "primitive", "tool_versions": {"onnx": onnx.__version__},
        "checkpoint": CheckpointRecord("toy", "0" * 64),
    }  # fmt: skip
    return Manifest(**(values | changes))


def make_bundle(out: Path, state_dtype: str = "float32", transposed: bool = False) -> Path:
    """Writes the toy as a bundle and returns its folder."""
    contract = make_contract(state_dtype, transposed)
    with new_bundle(out) as folder:
        write_graphs(folder, contract, make_weights())
        write_manifest(folder, make_manifest(contract, files=record_files(folder)))
    return out
