"""Writes operators/operator_table.h from operators.json, so that the adapters check attributes and shapes by the table.

    python plugins/scripts/generate_operator_table.py           write the header
    python plugins/scripts/generate_operator_table.py --check   exit 1 if the header is not what would be written

The header is checked in: building the plugins needs no Python.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).resolve().parent.parent
TABLE = PLUGINS / "operators.json"
HEADER = PLUGINS / "operators" / "operator_table.h"

ELEMENTS = {"T": "kActivation", "S": "kState", "H": "kHalf", "float32": "kFloat32", "int32": "kInt32"}
ATTRIBUTE_TYPES = {"int": "kInt", "float": "kFloat", "string": "kString"}
REALS = ("eps", "final_eps")  # members of operators/table.h's Reals
# Limits of the C++ structs in operators/table.h.
MAX_TERMS, MAX_SYMBOLS, MAX_RANK, MAX_ALLOWED = 3, 2, 6, 2
# An image's channels may come last, or always do.
IMAGES = {None: "", True: ", Images::kEither", "always": ", Images::kChannelsLast"}


def camel(name: str) -> str:
    """nheads -> kNheads, d_conv -> kDConv: the enumerator of a size, an attribute or an operator."""
    return "k" + "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def snake(name: str) -> str:
    """CausalConv1d -> causal_conv1d: the namespace of an operator's tensors."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def parse(expression: str) -> list[tuple[int, list[str]]]:
    """A sum of products, as (factor, symbols) for each term: "2 * a * b - 1" -> [(2, [a, b]), (-1, [])]."""
    if not re.fullmatch(r"[\w*+\- ]+", expression):
        raise ValueError(f"shape expression {expression!r}: expected sums and products of names and integers")
    terms = []
    for sign, product in re.findall(r"([+-]?)([^+-]+)", expression):
        factor, symbols = (-1 if sign == "-" else 1), []
        for part in product.split("*"):
            if part.strip().isdigit():
                factor *= int(part)
            else:
                symbols.append(part.strip())
        if len(symbols) > MAX_SYMBOLS:
            raise ValueError(f"shape expression {expression!r}: at most {MAX_SYMBOLS} names in a product")
        terms.append((factor, symbols))
    if len(terms) > MAX_TERMS:
        raise ValueError(f"shape expression {expression!r}: at most {MAX_TERMS} terms")
    return terms


def symbols_of(operators: dict[str, Any]) -> list[str]:
    """Every size and every integer attribute, in order of first use."""
    seen: dict[str, None] = {}
    for operator in operators.values():
        for name, attribute in operator["attributes"].items():
            if attribute["type"] != "float":
                seen[name] = None
        for tensor in operator["inputs"] + operator["outputs"]:
            for expression in tensor["shape"] + tensor.get("mamba1_shape", []):
                for _, symbols in parse(expression):
                    seen.update(dict.fromkeys(symbols))
    return list(seen)


def shape(expressions: list[str]) -> str:
    if len(expressions) > MAX_RANK:
        raise ValueError(f"shape {expressions}: at most {MAX_RANK} dimensions")
    dims = []
    for expression in expressions:
        parsed = parse(expression)
        terms = []
        for factor, symbols in parsed:
            names = [camel(s) for s in symbols] + ["kOne"] * (MAX_SYMBOLS - len(symbols))
            terms.append(f"{{{factor}, {{{', '.join(names)}}}}}")
        dims.append(f'{{"{expression}", {len(parsed)}, {{{", ".join(terms)}}}}}')
    return f"{{{len(expressions)}, {{{', '.join(dims)}}}}}"


def attribute_row(name: str, attribute: dict[str, Any]) -> str:
    if not attribute.get("required"):
        raise ValueError(f"attribute {name!r}: every attribute is required; optional ones are not implemented")
    real = attribute["type"] == "float"
    if real and name not in REALS:
        raise ValueError(f"attribute {name!r}: the float attributes that are implemented are {', '.join(REALS)}")
    allowed = attribute.get("allowed", [])
    if len(allowed) > MAX_ALLOWED:
        raise ValueError(f"attribute {name!r}: at most {MAX_ALLOWED} allowed values")
    if allowed and attribute["type"] == "int" and allowed != [0, 1]:
        raise ValueError(f"attribute {name!r}: integers are either free or one of 0 and 1")
    texts = ", ".join(f'"{value}"' for value in allowed)
    symbol = "kOne" if real else camel(name)
    kind = ATTRIBUTE_TYPES[attribute["type"]]
    least = attribute.get("least", 1)
    if least not in (0, 1):
        raise ValueError(f"attribute {name!r}: the least value is 0 or 1")
    place = f", &Reals::{name}" if real else ""
    return f'{{"{name}", AttributeType::{kind}, {symbol}, {len(allowed)}, {{{texts}}}, {least}{place}}}'


def tensor_row(tensor: dict[str, Any], inputs: list[str]) -> str:
    condition = camel(tensor["if"]) if "if" in tensor else "kOne"
    alias = inputs.index(tensor["aliases"]) if "aliases" in tensor else -1
    variant = shape(tensor["mamba1_shape"]) if "mamba1_shape" in tensor else "{}"
    element = ELEMENTS[tensor["dtype"]]
    last = IMAGES[tensor.get("channels_last")]
    return (
        f'{{"{tensor["name"]}", Element::{element}, {condition}, {alias},\n'
        f"             {shape(tensor['shape'])},\n             {variant}{last}}}"
    )


def rows(entries: list[str]) -> str:
    return "{" + "".join(f"\n            {entry}," for entry in entries) + "\n        }"


def operator_row(name: str, operator: dict[str, Any]) -> str:
    inputs = [tensor["name"] for tensor in operator["inputs"]]
    attributes = [attribute_row(*item) for item in operator["attributes"].items()]
    return (
        f'    {{\n        "{name}", OperatorKind::{camel(name)},\n'
        f"        {len(attributes)}, {rows(attributes)},\n"
        f"        {len(inputs)}, {rows([tensor_row(t, inputs) for t in operator['inputs']])},\n"
        f"        {len(operator['outputs'])}, {rows([tensor_row(t, inputs) for t in operator['outputs']])},\n    }},"
    )


def enumeration(kind: str, tensors: list[dict[str, Any]]) -> str:
    return f"enum {kind} {{ {', '.join(tensor['name'] for tensor in tensors)} }};"


def header(table: dict[str, Any]) -> str:
    operators = table["operators"]
    lines = [
        "// Generated from plugins/operators.json by plugins/scripts/generate_operator_table.py. Do not edit.",
        "#pragma once",
        "",
        '#include "table.h"',
        "",
        "namespace aim_edge {",
        "",
        f"constexpr int32_t kOperatorVersion = {table['version']};",
        "",
        "enum Symbol : int8_t {",
        "    kOne,",
        *(f"    {camel(symbol)}," for symbol in symbols_of(operators)),
        "    kSymbolCount",
        "};",
        "",
        f"enum class OperatorKind : int32_t {{ {', '.join(camel(name) for name in operators)} }};",
        "",
    ]
    for name, operator in operators.items():
        lines += [
            f"namespace {snake(name)} {{",
            enumeration("Input", operator["inputs"]),
            enumeration("Output", operator["outputs"]),
            f"}}  // namespace {snake(name)}",
        ]
    lines += ["", "constexpr OperatorRow kOperators[] = {", *(operator_row(*item) for item in operators.items()), "};"]
    lines += ["", f"constexpr int kOperatorCount = {len(operators)};", "", "}  // namespace aim_edge", ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the header is out of date")
    arguments = parser.parse_args()
    text = header(json.loads(TABLE.read_text()))
    if not arguments.check:
        HEADER.write_text(text)
        return 0
    if HEADER.is_file() and HEADER.read_text() == text:
        return 0
    sys.stderr.write(f"{HEADER.name} is not what {TABLE.name} gives: run plugins/scripts/generate_operator_table.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
