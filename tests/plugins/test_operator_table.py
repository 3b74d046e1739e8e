"""The C++ table of the operators is what operators.json gives, and its order is what the C++ code relies on."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SCRIPT = PLUGINS / "scripts" / "generate_operator_table.py"
TABLE: dict[str, Any] = json.loads((PLUGINS / "operators.json").read_text())
HEADER = (PLUGINS / "operators" / "operator_table.h").read_text()


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_operator_table", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_header_is_what_the_table_gives() -> None:
    run = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_header_holds_every_attribute_and_tensor() -> None:
    """Read by another way than the one that wrote it."""
    blocks = HEADER.split("constexpr OperatorRow")[1].split("OperatorKind::")[1:]
    assert [re.match(r"k(\w+)", block).group(1) for block in blocks] == list(TABLE["operators"])  # type: ignore[union-attr]
    for block, operator in zip(blocks, TABLE["operators"].values(), strict=True):
        assert re.findall(r'\{"(\w+)", AttributeType', block) == list(operator["attributes"])
        tensors = operator["inputs"] + operator["outputs"]
        assert re.findall(r'\{"(\w+)", Element', block) == [tensor["name"] for tensor in tensors]
    assert f"kOperatorVersion = {TABLE['version']};" in HEADER


def test_the_order_that_the_code_relies_on() -> None:
    operators = TABLE["operators"]
    # call.cpp: a string attribute is its index; 0 is Mamba-1, and Activation's numbers are the table's.
    assert operators["SelectiveScan"]["attributes"]["kind"]["allowed"] == ["mamba1", "mamba2"]
    assert operators["CausalConv1d"]["attributes"]["activation"]["allowed"] == ["none", "silu"]
    for operator in operators.values():
        # check_attribute: the version is compared with the library's; inputs that may lack come last.
        assert next(iter(operator["attributes"])) == "aim_edge_version"
        optional = ["if" in tensor for tensor in operator["inputs"]]
        assert optional == sorted(optional)


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("rows", [(1, ["rows"])]),
        ("d_conv - 1", [(1, ["d_conv"]), (-1, [])]),
        ("9", [(9, [])]),
        ("128 * blocks", [(128, ["blocks"])]),
        ("2 * a * b + c", [(2, ["a", "b"]), (1, ["c"])]),
    ],
)
def test_expressions(generator: ModuleType, expression: str, terms: list[tuple[int, list[str]]]) -> None:
    assert generator.parse(expression) == terms


@pytest.mark.parametrize("expression", ["a / b", "a * b * c", "a + b + c + d"])
def test_expressions_that_the_header_cannot_hold(generator: ModuleType, expression: str) -> None:
    with pytest.raises(ValueError, match="shape expression"):
        generator.parse(expression)
