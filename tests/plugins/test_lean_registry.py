"""A real TensorRT, the lean runtime, loads the plugin library on the CPU and creates every plugin; it builds none.

The library is compiled against the headers of 10.14 and loaded by TensorRT 11: what a Jetson does whose TensorRT is
newer than the headers were.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from needs import missing

Field = tuple[str, str, Any]

VALID: dict[str, list[Field]] = {
    "CausalConv1d": [("aim_edge_version", "int32", 1), ("activation", "string", "silu"), ("has_active", "int32", 0)],
    "SelectiveScan": [
        ("aim_edge_version", "int64", 1),
        ("kind", "string", "mamba2"),
        ("nheads", "int64", 24),
        ("headdim", "int64", 64),
        ("d_state", "int64", 128),
        ("ngroups", "int64", 1),
        ("dt_softplus", "int64", 1),
        ("has_z", "int64", 0),
        ("has_active", "int64", 0),
    ],
    "RmsNormGated": [("aim_edge_version", "int32", 1), ("ngroups", "int32", 1), ("eps", "float32", 1e-5)],
    "AdaLnNorm": [
        ("aim_edge_version", "int32", 1),
        ("gate_index", "int64", 2),
        ("shift_index", "int32", 0),
        ("scale_index", "int32", 1),
        ("eps", "float32", 1e-5),
    ],
    "EmbedNorm": [
        ("aim_edge_version", "int32", 1),
        ("position_offset", "int64", 1),
        ("shift_index", "int64", 0),
        ("scale_index", "int32", 1),
        ("eps", "float32", 1e-5),
    ],
    "FinalNorm": [
        ("aim_edge_version", "int32", 1),
        ("gate_index", "int64", 35),
        ("eps", "float32", 1e-5),
        ("final_eps", "float32", 1e-5),
    ],
    "GroupNormSilu": [
        ("aim_edge_version", "int32", 1),
        ("groups", "int64", 32),
        ("silu", "int32", 1),
        ("eps", "float32", 1e-6),
    ],
    "AddGroupNormSilu": [
        ("aim_edge_version", "int32", 1),
        ("groups", "int64", 32),
        ("silu", "int32", 1),
        ("eps", "float32", 1e-6),
    ],
    "NormConv": [
        ("aim_edge_version", "int32", 1),
        ("groups", "int64", 32),
        ("eps", "float32", 1e-6),
        ("has_norm", "int32", 1),
        ("has_residual", "int64", 0),
    ],
    "UpsampleConv": [("aim_edge_version", "int32", 1), ("groups", "int64", 32), ("eps", "float32", 1e-6)],
    "NormConvImage": [("aim_edge_version", "int32", 1)],
    "CachedAttention": [("aim_edge_version", "int32", 1), ("nheads", "int64", 12), ("headdim", "int32", 64)],
    "SwiGlu": [("aim_edge_version", "int32", 1)],
    "Linear": [("aim_edge_version", "int32", 1)],
    "LinearQuantized": [("aim_edge_version", "int32", 1), ("bits", "int64", 4), ("group_size", "int32", 128)],
    "Mamba2DecodeStep": [
        ("aim_edge_version", "int64", 1),
        ("nheads", "int64", 24),
        ("headdim", "int64", 64),
        ("d_state", "int64", 128),
        ("ngroups", "int64", 1),
        ("d_conv", "int64", 4),
        ("eps", "float32", 1e-5),
        ("has_active", "int64", 1),
    ],
}


def with_field(operator: str, added: Field) -> list[Field]:
    """An operator's fields and one more, ahead of eps."""
    fields = VALID[operator]
    at = [name for name, _, _ in fields].index("eps")
    return [*fields[:at], added, *fields[at:]]


VALID["LinearFloat32"], VALID["LinearQuantizedFloat32"] = VALID["Linear"], VALID["LinearQuantized"]
VALID["Mamba2LazyStep"] = with_field("Mamba2DecodeStep", ("fold_every", "int64", 16))
VALID["Mamba2Layers"] = VALID["Mamba2LayersQuantized"] = VALID["Mamba2DecodeStep"]
VALID["Mamba2StepQuantized"] = with_field("Mamba2DecodeStep", ("position_offset", "int64", 1))
VALID["Mamba2Step"] = with_field("Mamba2StepQuantized", ("half_weights", "int64", 1))
MAMBA1 = {"kind": "mamba1", "nheads": 1536, "headdim": 1, "d_state": 16}


def changed(operator: str, **values: Any) -> list[Field]:
    return [(name, kind, values.get(name, value)) for name, kind, value in VALID[operator]]


def without(operator: str, left_out: str) -> list[Field]:
    return [field for field in VALID[operator] if field[0] != left_out]


# What is wrong, and what the message must say: found and expected.
WRONG: list[tuple[str, list[Field], str]] = [
    *(
        (name, changed(name, aim_edge_version=2), "version 2 of the operators; this library has version 1")
        for name in VALID
    ),
    *(
        (name, without(name, field), f"'{field}' is missing")
        for name, fields in VALID.items()
        for field, _, _ in fields
    ),
    *((name, [*fields, ("colour", "int32", 1)], "unknown attribute 'colour'") for name, fields in VALID.items()),
    *((name, [*fields, fields[0]], "'aim_edge_version' is given twice") for name, fields in VALID.items()),
    *((name, [], "is missing") for name in VALID),
    ("CausalConv1d", changed("CausalConv1d", activation="relu"), "'activation' is 'relu'; expected 'none' or 'silu'"),
    ("CausalConv1d", changed("CausalConv1d", activation=""), "'activation' is ''"),
    ("CausalConv1d", changed("CausalConv1d", has_active=2), "'has_active' is 2; expected 0 or 1"),
    ("CausalConv1d", [("aim_edge_version", "float32", 1.0)], "expected one integer"),
    ("CausalConv1d", [("activation", "int32", 1)], "expected a string"),
    ("AdaLnNorm", changed("AdaLnNorm", gate_index=-1), "'gate_index' is -1; expected 0 to"),
    ("EmbedNorm", changed("EmbedNorm", position_offset=2), "'position_offset' is 2; expected 0 or 1"),
    ("EmbedNorm", changed("EmbedNorm", scale_index=-1), "'scale_index' is -1; expected 0 to"),
    ("EmbedNorm", changed("EmbedNorm", eps=-1.0), "eps is -1; supported: 0 or more"),
    ("FinalNorm", changed("FinalNorm", gate_index=-1), "'gate_index' is -1; expected 0 to"),
    ("FinalNorm", changed("FinalNorm", eps=-1.0), " eps is -1; supported: 0 or more"),
    ("FinalNorm", changed("FinalNorm", final_eps=-1.0), "final_eps is -1; supported: 0 or more"),
    ("CachedAttention", changed("CachedAttention", headdim=12), "headdim is 12; supported: 8 to 128 in steps of 8"),
    ("RmsNormGated", [("eps", "int32", 0)], "expected one FLOAT32"),
    ("RmsNormGated", changed("RmsNormGated", ngroups=0), "'ngroups' is 0; expected 1 to"),
    ("RmsNormGated", changed("RmsNormGated", eps=-1.0), "eps is -1; supported: 0 or more"),
    ("RmsNormGated", changed("RmsNormGated", eps=float("nan")), "eps is nan"),
    ("SelectiveScan", changed("SelectiveScan", kind="mamba3"), "'kind' is 'mamba3'; expected 'mamba1' or 'mamba2'"),
    ("SelectiveScan", changed("SelectiveScan", headdim=65), "headdim is 65; supported: 16, 32"),
    ("SelectiveScan", changed("SelectiveScan", d_state=512), "d_state is 512; supported: 16, 32"),
    ("SelectiveScan", changed("SelectiveScan", ngroups=5), "supported: an ngroups that divides nheads"),
    ("SelectiveScan", changed("SelectiveScan", nheads=2**40), "'nheads' is 1099511627776; expected 1 to 2147483647"),
    ("SelectiveScan", changed("SelectiveScan", kind="mamba1"), "supported for Mamba-1: 1 and 1"),
    ("SelectiveScan", changed("SelectiveScan", nheads=-3), "'nheads' is -3"),
    ("NormConv", changed("NormConv", has_norm=2), "'has_norm' is 2; expected 0 or 1"),
    ("NormConv", changed("NormConv", groups=513), "out_channels is 65664; supported: 128 to 2048 in steps of 128"),
    ("UpsampleConv", changed("UpsampleConv", eps=-1.0), "eps is -1; supported: 0 or more"),
    ("Mamba2DecodeStep", changed("Mamba2DecodeStep", d_conv=9), "d_conv is 9; supported: 2, 3, 4"),
    ("Mamba2DecodeStep", changed("Mamba2DecodeStep", headdim=8), "headdim is 8; supported: 16, 32"),
    ("Mamba2DecodeStep", changed("Mamba2DecodeStep", has_active=-1), "'has_active' is -1; expected 0 or 1"),
    ("Mamba2Layers", changed("Mamba2Layers", d_state=8), "d_state is 8; supported: 16, 32"),
    (
        "Mamba2LayersQuantized",
        changed("Mamba2LayersQuantized", nheads=3, headdim=16),
        "nheads * headdim 48; with weight_bits 8 supported: steps of 32",
    ),
    ("Mamba2Step", changed("Mamba2Step", position_offset=2), "'position_offset' is 2; expected 0 or 1"),
    ("Mamba2Step", changed("Mamba2Step", half_weights=2), "'half_weights' is 2; expected 0 or 1"),
    ("Mamba2StepQuantized", changed("Mamba2StepQuantized", d_state=8), "d_state is 8; supported: 16, 32"),
    ("Mamba2LazyStep", changed("Mamba2LazyStep", fold_every=129), "capacity is 129; supported: 2 to 128"),
    ("Mamba2LazyStep", changed("Mamba2LazyStep", fold_every=0), "'fold_every' is 0; expected 1 to"),
    # A field that only an engine holds is not an attribute of a graph.
    ("SelectiveScan", [*VALID["SelectiveScan"], ("scan_workspace", "int64", 1)], "unknown attribute 'scan_workspace'"),
]


def create(library: Path, operator: str, fields: list[Field]) -> tuple[dict[str, Any], str]:
    """What the registry made of the fields, and its messages; a crash fails here."""
    if importlib.util.find_spec("tensorrt_lean_bindings") is None:
        missing("the wheels tensorrt-lean-cu13-bindings and tensorrt-lean-cu13-libs")
    command = [sys.executable, str(Path(__file__).with_name("lean_registry.py")), str(library), operator]
    run = subprocess.run([*command, json.dumps(fields)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, f"exit status {run.returncode}: {run.stderr}"
    return json.loads(run.stdout), run.stderr


@pytest.mark.parametrize("operator", VALID)
def test_the_registry_makes_the_plugin(library: Path, operator: str) -> None:
    told, messages = create(library, operator, VALID[operator])
    assert told["loaded"] and set(VALID) <= set(told["creators"])
    assert told["announced"] == [name for name, _, _ in VALID[operator]]
    assert told["made"] and told["named"] == [operator, "1", ""], messages
    assert not messages


def test_a_mamba1_scan(library: Path) -> None:
    told, messages = create(library, "SelectiveScan", changed("SelectiveScan", **MAMBA1))
    assert told["made"], messages


@pytest.mark.parametrize(("operator", "fields", "message"), WRONG)
def test_a_wrong_attribute_is_refused_with_a_message(
    library: Path, operator: str, fields: list[Field], message: str
) -> None:
    told, messages = create(library, operator, fields)
    assert told["made"] is False
    assert f"aim_edge: {operator}: " in messages and message in messages
