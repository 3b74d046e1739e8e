"""Graphs of one operator for ONNX Runtime, and what they must give: by the table, on random numbers.

A graph takes float32 and casts to and from the operator's own types, so that NumPy need not know bfloat16 and ONNX
Runtime's type inference meets them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernels import reference
from numpy.typing import NDArray
from onnx import TensorProto, helper

Arrays = dict[str, NDArray[Any]]

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[2] / "plugins" / "operators.json").read_text())["operators"]
DOMAIN = "aim_edge"
ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
    "int32": TensorProto.INT32,
}
BOUNDS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
PACKED = ("weight", "in_proj", "out_proj", "head")  # codes, where they are int32
# All different, so that no two dimensions can be taken for one another.
SIZES = {"nheads": 6, "headdim": 16, "d_state": 32, "ngroups": 2, "d_conv": 4}


@dataclass(frozen=True)
class Case:
    """An operator with its attributes, sizes and types."""

    operator: str
    attributes: Mapping[str, Any]
    sizes: Mapping[str, int]
    activations: str = "float32"
    states: str = "float32"

    def __str__(self) -> str:
        shown = ("kind", "activation", "silu", "bits")
        options = [f"{k}={v}" for k, v in self.attributes.items() if k in shown or k[:4] == "has_"]
        length = f"L={self.sizes.get('length', 1)}"
        return " ".join([self.operator, f"{self.activations}/{self.states}", length, *options])

    def inputs(self) -> list[dict[str, Any]]:
        return [t for t in TABLE[self.operator]["inputs"] if self.attributes.get(t.get("if", ""), 1)]

    def outputs(self) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = TABLE[self.operator]["outputs"]
        return outputs

    def dtype(self, tensor: Mapping[str, Any]) -> str:
        name: str = tensor["dtype"]
        return {"T": self.activations, "H": self.activations, "S": self.states}.get(name, name)

    def shape(self, tensor: Mapping[str, Any]) -> tuple[int, ...]:
        mamba1 = self.attributes.get("kind") == "mamba1"
        texts = tensor.get("mamba1_shape", tensor["shape"]) if mamba1 else tensor["shape"]
        return tuple(eval(text, {}, dict(self.sizes)) for text in texts)


def make_case(operator: str, activations: str, states: str, length: int = 1, rows: int = 3, **options: Any) -> Case:
    """A case of SIZES; `options` are attributes that differ from the plainest."""
    sizes = {**SIZES, "rows": rows, "length": length, "channels": 40, "d": 96}
    sizes |= {"d_model": 96, "vectors": 5, "in_features": 96, "out_features": 40}
    bits = options.get("bits", 8)
    sizes |= {"bits": bits, "group_size": 0 if bits == 8 else 128, "words": 96 * bits // 32, "scales": 1}
    sizes |= {"batch": rows, "height": 5, "width": 7, "groups": 4}
    sizes |= {"positions": options.pop("images", rows), "num_tokens": 9, "num_positions": 9, "vocab_size": 29}
    sizes |= {"layers": 2, "ngroups": options.pop("groups_of_B", SIZES["ngroups"])}
    sizes |= {"capacity": 5, "in_words": 24, "out_words": sizes["nheads"] * sizes["headdim"] // 4}
    sizes |= {"chunks": 2, "blocks": 1, "out_channels": 3}
    if options.get("kind") == "mamba1":
        sizes |= {"nheads": 48, "headdim": 1, "ngroups": 1}
    sizes["conv_dim"] = sizes["nheads"] * sizes["headdim"] + 2 * sizes["ngroups"] * sizes["d_state"]
    plain = {"kind": "mamba2", "activation": "silu", "dt_softplus": 1, "has_z": 0, "has_active": 0, "eps": 1e-5}
    plain["final_eps"] = 2e-5
    plain |= {"has_norm": 0, "has_residual": 0, "fold_every": 1, "position_offset": 1}
    plain["half_weights"] = int(activations != "float32")
    plain |= {"aim_edge_version": 1, "silu": 1, "gate_index": 4, "shift_index": 0, "scale_index": 2, **sizes}
    attributes = {name: options.get(name, plain[name]) for name in TABLE[operator]["attributes"]}
    return Case(operator, attributes, sizes, activations, states)


def all_cases() -> list[Case]:
    """Every operator in every pair of types, with and without what is optional."""
    cases = []
    for activations in ("float32", "float16", "bfloat16"):
        cases.append(make_case("RmsNormGated", activations, "float32", 5))
        cases.append(make_case("AdaLnNorm", activations, "float32"))
        cases.append(make_case("EmbedNorm", activations, "float32"))
        cases.append(make_case("EmbedNorm", activations, "float32", rows=4, images=2, position_offset=0, eps=0.2))
        cases.append(make_case("FinalNorm", activations, "float32", eps=0.2))
        cases.append(make_case("SwiGlu", activations, "float32"))
        cases.append(make_case("Linear", activations, "float32"))
        cases.append(make_case("GroupNormSilu", activations, "float32"))
        cases.append(make_case("GroupNormSilu", activations, "float32", silu=0))
        cases.append(make_case("AddGroupNormSilu", activations, "float32"))
        if activations != "float32":
            cases.append(make_case("LinearFloat32", activations, "float32"))
            cases += [make_case(name, activations, "float32", bits=bits)
                      for name in ("LinearQuantized", "LinearQuantizedFloat32") for bits in (8, 4)]  # fmt: skip
            cases += [make_case("NormConv", activations, "float32", rows=2, has_norm=norm, has_residual=residual)
                      for norm in (0, 1) for residual in (0, 1)]  # fmt: skip
            cases += [make_case(name, activations, "float32", rows=2) for name in ("UpsampleConv", "NormConvImage")]
        for states in ("float32", "float16"):
            if activations == "float16":
                cases += [
                    make_case("Mamba2LayersQuantized", activations, states),
                    make_case("Mamba2LayersQuantized", activations, states, has_active=1, groups_of_B=1),
                    make_case("Mamba2StepQuantized", activations, states),
                    make_case("Mamba2StepQuantized", activations, states, rows=4, images=2, groups_of_B=1),
                ]
            types = (activations, states)
            cases += [
                make_case("CausalConv1d", *types, 5),
                make_case("CausalConv1d", *types, 1, activation="none", has_active=1),
                make_case("SelectiveScan", *types, 1),
                make_case("SelectiveScan", *types, 7, has_active=1),
                make_case("SelectiveScan", *types, 7, has_z=1, dt_softplus=0),
                make_case("SelectiveScan", *types, 70, rows=2, has_z=1, has_active=1),
                make_case("SelectiveScan", *types, 6, kind="mamba1", has_z=1),
                make_case("CachedAttention", *types),
                make_case("Mamba2DecodeStep", *types),
                make_case("Mamba2DecodeStep", *types, has_active=1),
                make_case("Mamba2Layers", *types),
                make_case("Mamba2Layers", *types, has_active=1, groups_of_B=1),
                make_case("Mamba2Step", *types),
                make_case("Mamba2Step", *types, rows=4, images=2, groups_of_B=1, has_active=1, position_offset=0),
                make_case("Mamba2LazyStep", *types),
                make_case("Mamba2LazyStep", *types, has_active=1),
            ]
    return cases


def make_model(case: Case, attributes: Mapping[str, Any] | None = None, known: bool = True) -> bytes:
    """The graph of a case.

    Args:
        case: the operator.
        attributes: of the node, in place of the case's; None as a value leaves one out.
        known: whether the graph gives the shapes of its inputs.
    """
    given = {k: v for k, v in {**case.attributes, **(attributes or {})}.items() if v is not None}
    nodes, ins, outs = [], [], []
    for tensor in case.inputs():
        element = "int32" if tensor["dtype"] == "int32" else "float32"
        name, shape = tensor["name"], case.shape(tensor)
        by_name = ["rows", *shape[1:]] if tensor["shape"][0] == "rows" else shape
        ins.append(helper.make_tensor_value_info(name, ELEMENTS[element], by_name if known else None))
        nodes.append(helper.make_node("Cast", [name], [f"{name}_cast"], to=ELEMENTS[case.dtype(tensor)]))
    names = [f"{tensor['name']}_cast" for tensor in case.inputs()]
    results = [f"{tensor['name']}_own" for tensor in case.outputs()]
    nodes.append(helper.make_node(case.operator, names, results, name="the_node", domain=DOMAIN, **given))
    for tensor, own in zip(case.outputs(), results, strict=True):
        nodes.append(helper.make_node("Cast", [own], [f"{tensor['name']}_out"], to=TensorProto.FLOAT))
        outs.append(helper.make_tensor_value_info(f"{tensor['name']}_out", TensorProto.FLOAT, None))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(helper.make_graph(nodes, "case", ins, outs), opset_imports=opsets, ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def rounded(array: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """To the nearest number of a dtype, in float32."""
    if dtype == "bfloat16":
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return array.astype(dtype).astype(np.float32)


def make_feeds(case: Case, seed: int = 0) -> Arrays:
    """Random inputs that the operator's types hold exactly; row 1 is the inactive one."""
    random = np.random.default_rng(seed)
    feeds: Arrays = {}
    for tensor in case.inputs():
        shape = case.shape(tensor)
        values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.7)
        if tensor["name"] in ("in_proj", "out_proj"):
            values *= np.float32(0.1)
        if tensor["name"].endswith("_scale"):
            values = np.abs(values) * np.float32(0.001)
        if tensor["name"] == "A":
            values = -np.exp(values)
        if tensor["name"] == "counters":  # an empty history beside a state that holds something
            values = np.broadcast_to(np.array([0, 1, 0], np.float32), shape)
        if tensor["name"] in ("dt", "dt_bias") and not case.attributes.get("dt_softplus", 1):
            values = np.abs(values) * np.float32(0.1)
        if tensor["name"] == "position":
            feeds["position"] = (np.arange(shape[0], dtype=np.int32) * 4 + 5) % case.sizes["num_tokens"]
        elif tensor["name"] == "token":
            feeds["token"] = (np.arange(shape[0], dtype=np.int32) * 11 + 3) % case.sizes["vocab_size"]
        elif tensor["name"] in PACKED and tensor["dtype"] == "int32":
            feeds[tensor["name"]] = random.integers(-(2**31), 2**31, shape, np.int32)
        elif tensor["dtype"] == "int32":
            feeds[tensor["name"]] = (np.arange(shape[0]) != 1).astype(np.int32)
        else:
            feeds[tensor["name"]] = rounded(values, case.dtype(tensor))
    return feeds


def expected(case: Case, feeds: Arrays) -> list[NDArray[np.float64]]:
    """The outputs in float64. An inactive row of a state is as it was; one of another output means nothing."""
    f = {name: value.astype(np.float64) for name, value in feeds.items() if name != "active"}
    for name in PACKED:
        if name in feeds and feeds[name].dtype == np.int32:
            f[name] = _codes(feeds[name], case.attributes.get("bits", 8))
    made = _EXPECTED[case.operator](case, f)
    active = feeds.get("active", np.ones(case.sizes["rows"], np.int32)) != 0
    for tensor, value in zip(case.outputs(), made, strict=True):
        value[~active] = f[tensor["aliases"]][~active] if "aliases" in tensor else np.nan
    return made


def _conv(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    silu = case.attributes["activation"] == "silu"
    return list(reference.causal_conv1d(f["x"], f["weight"], f["bias"], f["conv_state"], silu))


def _scan(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    a = case.attributes
    heads, groups = (a["nheads"], a["headdim"]), (a["ngroups"], a["d_state"])
    lead = f["x"].shape[:2]
    z = f["z"].reshape(*lead, *heads) if "z" in f else None
    y, state = reference.selective_scan(
        f["x"].reshape(*lead, *heads), f["dt"], f["A"], f["B"].reshape(*lead, *groups), f["C"].reshape(*lead, *groups),
        f["D"], f["dt_bias"], bool(a["dt_softplus"]), z, f["ssm_state"],
    )  # fmt: skip
    return [y.reshape(f["x"].shape), state]


def _norm(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    a = case.attributes
    return [reference.rms_norm_gated(f["y"], f["z"], f["weight"], a["ngroups"], a["eps"])]


def _ada_ln(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    indices = {name: case.attributes[f"{name}_index"] for name in ("gate", "shift", "scale")}
    return list(reference.ada_ln_norm(**f, **indices, eps=case.attributes["eps"]))


def _embed_norm(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    a, f = case.attributes, dict(f)
    f |= {name: f[name].astype(np.int32) for name in ("token", "position")}
    indices = {name: a[f"{name}_index"] for name in ("shift", "scale")}
    return list(reference.embed_norm(**f, **indices, position_offset=a["position_offset"], eps=a["eps"]))


def _final_norm(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    a = case.attributes
    return [reference.final_norm(**f, gate=a["gate_index"], eps=a["eps"], final_eps=a["final_eps"])]


def _step(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    return list(reference.mamba2_decode_step(**f, ngroups=case.attributes["ngroups"], eps=case.attributes["eps"]))


def _layers(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    apart = [f.pop(name) for name in ("residual", "modulation")]
    states = [f.pop(name) for name in ("conv_state", "ssm_state")]
    return list(reference.mamba2_layers(*apart, f, *states, case.attributes["eps"]))


def _layers_quantized(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    f = dict(f)
    for name in ("in_proj", "out_proj"):
        f[name] = f[name] * f.pop(f"{name}_scale")[..., None]
    return _layers(case, f)


def _whole_step(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    f = dict(f)
    token, position = (f.pop(name).astype(np.int32) for name in ("token", "position"))
    table, eps = f.pop("table"), case.attributes["eps"]
    embedding = [f.pop("class_embedding"), table, f.pop("position_table")]
    norms = [f.pop(name) for name in ("final_modulation", "norm_f", "norm_final")]
    head = f.pop("head") * f.pop("head_scale") if "head" in f else table
    f["residual"] = reference.step_embedding(token, position, *embedding, case.attributes["position_offset"])
    layers = _layers_quantized if "in_proj_scale" in f else _layers
    residual, *states = layers(case, f)
    return [reference.step_head(residual, *norms, head, eps), *states]


def _lazy_step(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    """Of an empty history that folds at once."""
    names = ("x_history", "B_history", "dt_history", "counters")
    out = _step(case, {name: value for name, value in f.items() if name not in names})
    counters = f["counters"] * 0
    counters[..., 1], counters[..., 2] = 1, f["A"]
    return [*out, *(f[name] for name in names[:3]), counters]


def _group_norm(case: Case, **f: NDArray[np.float64]) -> NDArray[np.float64]:
    eps, silu = case.attributes["eps"], bool(case.attributes["silu"])
    return reference.group_norm_silu(**f, groups=case.attributes["groups"], eps=eps, apply_silu=silu)


def _add_group_norm(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    total = rounded((f["x"] + f["residual"]).astype(np.float32), case.activations).astype(np.float64)
    return [_group_norm(case, x=total, weight=f["weight"], bias=f["bias"]), total]


def _taps(packed: NDArray[np.float64], outputs: int) -> NDArray[np.float64]:
    """(blocks, chunks, taps, 8, n, 8) as (outputs, inputs, taps)."""
    blocks, chunks, taps, _, n, _ = packed.shape
    return packed.transpose(0, 4, 1, 3, 5, 2).reshape(blocks * n, chunks * 64, taps)[:outputs]


def _attention(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    return list(reference.cached_attention(**{**f, "position": f["position"].astype(np.int32)}))


def _norm_conv(case: Case, f: Arrays) -> list[NDArray[np.float64]]:
    a, bias = f["x"], f["bias"]
    if "affine" in f:
        scale, shift = (f["affine"][..., i][:, :, None, None] for i in range(2))
        a = rounded(reference.silu(a * scale + shift).astype(np.float32), case.activations).astype(np.float64)
    outputs = len(bias)
    if case.operator == "UpsampleConv":
        batch, _, height, width = a.shape
        y = np.zeros((batch, outputs, 2 * height, 2 * width))
        for phase, packed in enumerate(f["weight"].reshape(4, -1, *f["weight"].shape[1:])):
            row, column = divmod(phase, 2)
            seen = np.zeros((outputs, a.shape[1], 3, 3))
            seen[:, :, row : row + 2, column : column + 2] = _taps(packed, outputs).reshape(outputs, -1, 2, 2)
            y[:, :, row::2, column::2] = reference.conv3x3(a, seen, bias)
    else:
        y = reference.conv3x3(a, _taps(f["weight"], outputs).reshape(outputs, -1, 3, 3), bias)
    if case.operator == "NormConvImage":
        return [y]
    if "residual" in f:
        y = rounded(y.astype(np.float32), case.activations) + f["residual"]
    y = rounded(y.astype(np.float32), case.activations).astype(np.float64)
    attributes = case.attributes
    return [y, reference.norm_affine(y, f["next_weight"], f["next_bias"], attributes["groups"], attributes["eps"])]


def _codes(words: NDArray[np.int32], bits: int) -> NDArray[np.float64]:
    """(..., words) as (..., in) codes."""
    parts = np.ascontiguousarray(words).view(np.uint8).astype(np.int16)
    if bits == 8:
        return ((parts ^ 128) - 128).astype(np.float64)
    return (np.stack([parts & 15, parts >> 4], -1).reshape(len(parts), -1) - 8).astype(np.float64)


_EXPECTED: dict[str, Callable[[Case, Arrays], list[NDArray[np.float64]]]] = {
    "CausalConv1d": _conv,
    "SelectiveScan": _scan,
    "RmsNormGated": _norm,
    "Mamba2DecodeStep": _step,
    "Mamba2Layers": lambda case, f: _layers(case, dict(f)),
    "Mamba2LayersQuantized": _layers_quantized,
    **dict.fromkeys(("Mamba2Step", "Mamba2StepQuantized"), _whole_step),
    "Mamba2LazyStep": _lazy_step,
    "AdaLnNorm": _ada_ln,
    "EmbedNorm": _embed_norm,
    "FinalNorm": _final_norm,
    "CachedAttention": _attention,
    "GroupNormSilu": lambda case, f: [_group_norm(case, **f)],
    "AddGroupNormSilu": _add_group_norm,
    **dict.fromkeys(("NormConv", "UpsampleConv", "NormConvImage"), _norm_conv),
    "SwiGlu": lambda case, f: [reference.silu(f["gate"]) * f["up"]],
    **dict.fromkeys(("Linear", "LinearFloat32"), lambda case, f: [f["x"] @ f["weight"].T]),
    **dict.fromkeys(
        ("LinearQuantized", "LinearQuantizedFloat32"), lambda case, f: [f["x"] @ (f["weight"] * f["scale"]).T]
    ),
}


def failures(case: Case, feeds: Arrays, found: Sequence[NDArray[np.float32]]) -> list[str]:
    """What of the outputs is not as expected, in words. A state is no better than what went into it."""
    bad = []
    for tensor, got, want in zip(case.outputs(), found, expected(case, feeds), strict=True):
        checked = ~np.isnan(want)
        bound = max(BOUNDS[case.activations], BOUNDS[case.dtype(tensor)])
        if case.operator.endswith("Float32"):  # the sums as they are
            bound = BOUNDS["float32"]
        if case.operator.startswith(("Mamba2Layers", "Mamba2Step")):  # what the layers round adds up
            bound *= 2
        if case.operator == "CachedAttention":  # its own key and value are read as the caches hold them
            bound = max(bound, BOUNDS[case.states])
        if got.shape != want.shape:
            bad.append(f"{tensor['name']}: shape {got.shape}; expected {want.shape}")
            continue
        error = np.abs(got[checked] - want[checked]).max() / np.abs(want[checked]).max()
        if not error <= bound:
            bad.append(f"{tensor['name']}: relative error {error:.2e}; allowed {bound:.0e}")
        if "aliases" in tensor and "active" in feeds:
            idle = feeds["active"] == 0
            if not np.array_equal(got[idle], feeds[tensor["aliases"]][idle]):
                bad.append(f"{tensor['name']}: inactive rows changed")
    return bad
