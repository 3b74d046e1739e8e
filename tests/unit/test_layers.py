"""The layers keep to themselves: who may import or include what, and what must never be loaded.

Imports are read from the source, wherever in a file they stand: a lazy one and one for type checkers count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Layer:
    """What a layer may import besides itself, the standard library and `aim_edge` for its version.

    Attributes:
        ours: modules of aim_edge; what lies below them too, but for `closed`.
        libraries: of others.
        closed: modules below `ours` that are the other layer's own affair.
        at_start: None, or the only libraries that may be imported before a function runs.
    """

    ours: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    at_start: tuple[str, ...] | None = None


LAYERS = {
    "package": Layer(),
    "aim": Layer((), ("torch", "numpy", "PIL", "safetensors", "huggingface_hub", "mamba_ssm")),
    "export": Layer(
        ("aim", "runtime"), ("torch", "numpy", "onnx", "onnx_ir", "jinja2", "PIL", "tomllib", "tomli"),
        closed=("runtime.backends",),
    ),
    "plugins": Layer(),
    "runtime": Layer((), ("numpy", "PIL")),
    "cli": Layer(
        ("aim", "export", "plugins", "runtime"), ("typer", "rich", "numpy", "onnx"), at_start=("typer", "rich")
    ),
}
# A backend's modules share its name's beginning; each may load its own engine's library and no other.
ENGINES = {"ort": ("onnxruntime",)}
MAY_LACK_PYTHON = ("plugins",)
OWN_LIBRARIES = {
    "cli/credentials.py": ("c2pa", "cryptography"),
    "cli/doctor.py": ("onnxruntime",),  # asks whether it loads
    "cli/power.py": ("pynvml",),
    "cli/signing.py": ("c2pa", "cryptography"),
    "export/engines_rtx.py": ("tensorrt_rtx_bindings",),
    "export/engines_trt.py": ("tensorrt",),
    "export/quality_clip.py": ("transformers",),
    "export/quality_inception.py": ("torch_fidelity",),
}


@dataclass(frozen=True)
class Import:
    """A module that a file names; `lazy` where it is loaded only when a function runs, or never."""

    module: str
    lazy: bool


def find_imports(path: Path, package: tuple[str, ...]) -> Iterator[Import]:
    """Every module that a file imports, relative ones made absolute; of `from a import b` both a and a.b.

    Args:
        path: the file.
        package: the parts of the package that it is in, such as ("aim_edge", "runtime", "backends").
    """

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else node.module or ""
            yield Import(base, lazy)
            yield from (Import(f"{base}.{alias.name}", lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.startswith("."):
                yield Import(first.value, lazy)
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        inside = inside or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def import_breaches(root: Path, name: str) -> tuple[list[str], int]:
    """What a layer imports and must not, and how many files were read."""
    layer, files = LAYERS[name], sorted((root / name).rglob("*.py"))
    bad = set()
    for path in files:
        relative = path.relative_to(root)
        package = ("aim_edge", *(() if name == "package" else relative.parts[:-1]))
        libraries = layer.libraries + OWN_LIBRARIES.get(relative.as_posix(), ())
        if relative.parts[:-1] == ("runtime", "backends"):
            libraries += next((own for start, own in ENGINES.items() if path.stem.split("_")[0] == start), ())
        for found in find_imports(path, package):
            top, _, ours = found.module.partition(".")
            if top != "aim_edge":
                allowed = top in sys.stdlib_module_names or under(found.module, libraries)
                early = not found.lazy and layer.at_start is not None
                allowed &= not early or top in sys.stdlib_module_names or under(found.module, layer.at_start or ())
            elif ours.split(".")[0] not in LAYERS:  # aim_edge itself
                allowed = True
            else:
                allowed = under(ours, (name, *layer.ours)) and not under(ours, layer.closed)
                early = not found.lazy and layer.at_start is not None
                allowed &= not early or under(ours, (name,))
            if not allowed:
                bad.add(f"{relative} imports {found.module}" + ("" if found.lazy else ", at its start"))
    return sorted(bad), len(files)


@pytest.mark.parametrize("name", LAYERS)
def test_imports(name: str) -> None:
    bad, files = import_breaches(ROOT, name)
    assert not bad, "\n".join(bad)
    assert files or name in MAY_LACK_PYTHON


@pytest.mark.parametrize(
    ("file", "code", "breach"),
    [
        ("runtime/backends/bad.py", "from ...export import bundle", "imports aim_edge.export.bundle"),
        ("runtime/backends/bad.py", "import onnxruntime", "imports onnxruntime"),
        ("runtime/backends/ort_more.py", "import tensorrt", "imports tensorrt"),
        ("runtime/bad.py", "def f():\n    import torch.nn", "imports torch.nn"),
        ("runtime/bad.py", "import importlib\nimportlib.import_module('onnx')", "imports onnx"),
        ("runtime/bad.py", "from aim_edge import aim", "imports aim_edge.aim"),
        ("runtime/bad.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", "imports torch"),
        ("export/bad.py", "from aim_edge.runtime.backends import ort", "imports aim_edge.runtime.backends"),
        ("export/bad.py", "from .. import cli", "imports aim_edge.cli"),
        ("export/bad.py", "def f():\n    import tensorrt_rtx_bindings", "imports tensorrt_rtx_bindings"),
        ("aim/bad.py", "from ..runtime.contract import DTYPES", "imports aim_edge.runtime.contract"),
        ("plugins/bad.py", "import numpy", "imports numpy"),
        ("package/bad.py", "from .runtime import Bundle", "imports aim_edge.runtime"),
        ("cli/bad.py", "from aim_edge.runtime import Generator", "at its start"),
        ("cli/bad.py", "import numpy as np", "at its start"),
        ("cli/bad.py", "def f():\n    import torch", "imports torch"),
    ],
)
def test_the_walk_sees_a_breach(file: str, code: str, breach: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    bad, files = import_breaches(tmp_path, Path(file).parts[0])
    assert files == 1
    assert any(breach in line for line in bad), bad


def test_the_walk_lets_through_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "good.py").write_text(
        "import json\nimport rich.table\nimport aim_edge\nfrom .console import output\n"
        "def f():\n    from aim_edge.runtime import Generator\n    import numpy\n"
    )
    assert import_breaches(tmp_path, "cli") == ([], 1)


INCLUDE = re.compile(r"""^\s*#\s*include\s*([<"])([^>"]+)[>"]""", re.MULTILINE)
FRAMEWORKS = {
    "TensorRT": re.compile(r"Nv[A-Z]\w*\.h"),
    "ONNX Runtime": re.compile(r"(.*/)?onnxruntime"),
    "other": re.compile(r"(torch|ATen|c10|onnx|google/protobuf|pybind11|nanobind)/|Python\.h"),
}
# Folder of plugins/ -> the frameworks whose headers it may include. Of ours, only aim_kernels/ and its own; the
# C interface is built into the kernels' library, and may use what src/ has for itself; the adapters share operators/.
PLUGIN_FOLDERS: dict[str, tuple[str, ...]] = {
    "include": (),
    "src": (),
    "capi": (),
    "operators": (),
    "tensorrt": ("TensorRT",),
    "onnxruntime": ("ONNX Runtime",),
}
ALSO_OWN = {"capi": "src", "tensorrt": "operators", "onnxruntime": "operators"}
SOURCES = (".h", ".hpp", ".cuh", ".cu", ".cpp", ".cc", ".inl")
# The tests' CPU emulator compiles src/ with its own.
FROM_ELSEWHERE = {"emulated_bulk.h", "emulated_cluster.h", "emulated_mma.h", "emulated_tile.h"}


def include_breaches(plugins: Path) -> tuple[list[str], int]:
    """What plugins/ includes and must not, and how many files were read."""
    bad, files = [], 0
    for path in sorted(path for path in plugins.rglob("*") if path.suffix in SOURCES):
        files += 1
        relative = path.relative_to(plugins)
        folder = relative.parts[0]
        if folder not in PLUGIN_FOLDERS:
            bad.append(f"{relative}: no such folder is known here; known: {', '.join(PLUGIN_FOLDERS)}")
            continue
        for bracket, header in INCLUDE.findall(path.read_text(encoding="utf-8")):
            framework = next((name for name, form in FRAMEWORKS.items() if form.match(header)), None)
            if framework is not None:
                allowed = framework in PLUGIN_FOLDERS[folder]
            elif header.startswith("aim_kernels/") or header in FROM_ELSEWHERE:
                allowed = True
            else:  # beside the file, or in the layer's own folder; without "..". In brackets, also none of ours
                bases = (path.parent, plugins / folder, plugins / ALSO_OWN.get(folder, folder))
                own = any((base / header).is_file() for base in bases)
                ours = any((plugins / name / header).is_file() for name in PLUGIN_FOLDERS)
                allowed = ".." not in header and (own or (bracket == "<" and not ours))
            if not allowed:
                bad.append(f"{relative} includes {header}")
    return bad, files


def test_includes() -> None:
    bad, files = include_breaches(ROOT / "plugins")
    assert not bad, "\n".join(bad)
    assert files


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("src/bad.cu", "#include <NvInferRuntime.h>"),
        ("include/aim_kernels/bad.h", '#  include "torch/extension.h"'),
        ("capi/bad.cpp", "#include <Python.h>"),
        ("tensorrt/bad.cpp", '#include "onnxruntime_c_api.h"'),
        ("onnxruntime/bad.cpp", "#include <NvInfer.h>"),
        ("tensorrt/bad.cpp", '#include "../src/host.h"'),
        ("tensorrt/bad.cpp", '#include "host.h"'),
        ("tensorrt/bad.cpp", "#include <host.h>"),
        ("operators/bad.cpp", "#include <NvInferRuntime.h>"),
        ("operators/bad.h", '#include "onnxruntime_c_api.h"'),
        ("operators/bad.cpp", '#include "host.h"'),
        ("elsewhere/bad.cpp", "#include <cstdint>"),
    ],
)
def test_the_walk_sees_a_bad_include(file: str, line: str, tmp_path: Path) -> None:
    for path, text in ((tmp_path / "src" / "host.h", "#pragma once\n"), (tmp_path / file, line + "\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    bad, files = include_breaches(tmp_path)
    assert files == 2
    assert len(bad) == 1 and bad[0].startswith(file)


def loaded_by(code: str) -> tuple[set[str], float]:
    """The modules that a fresh interpreter has after `code`, and its seconds from start to end."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; sys.stdout.write(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split()), time.perf_counter() - begin


def test_runtime_is_light() -> None:
    """Half a second, the interpreter's start included; the best of three, as a busy machine is not its fault."""
    runs = [loaded_by("import aim_edge.runtime") for _ in range(3)]
    assert not runs[0][0] & {"torch", "onnx", "onnx_ir", "onnxruntime", "tensorrt", "typer", "rich"}
    assert min(seconds for _, seconds in runs) < 0.5


def test_help_is_light() -> None:
    modules, _ = loaded_by("from aim_edge.cli import main\nassert main(['--version']) == 0\nmain(['export', '--help'])")
    assert "aim_edge.cli.export" in modules
    assert not modules & {"torch", "onnx", "onnx_ir", "onnxruntime", "numpy", "PIL"}
