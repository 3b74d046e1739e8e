"""The layers keep to themselves: who may import whom, and what the runtime must never load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("aim", "export", "runtime", "plugins", "cli")
# Which of our own modules a layer may import, and which libraries it must not touch.
ALLOWED = {
    "aim": ("aim_edge.aim",),
    "export": ("aim_edge", "aim_edge.aim", "aim_edge.export", "aim_edge.runtime"),
    "runtime": ("aim_edge.runtime",),
    "plugins": ("aim_edge.plugins",),
    "cli": ("aim_edge",),
}
FORBIDDEN = {
    "aim": ("onnx", "onnx_ir", "onnxruntime", "tensorrt"),
    "export": ("tensorrt", "onnxruntime"),
    "runtime": ("torch", "onnx", "onnx_ir", "safetensors"),
    "plugins": ("torch", "onnx", "onnx_ir", "onnxruntime", "numpy"),
    "cli": (),
}


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, relative ones made absolute."""
    layer = path.relative_to(ROOT).parts
    package = ("aim_edge", *layer[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            found.add(".".join((*base, node.module or "")).rstrip("."))
    return found


def under(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in prefixes)


def python_files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports(layer: str) -> None:
    files = python_files(layer)
    bad = []
    for path in files:
        for module in imports(path):
            ours = under(module, ("aim_edge",))
            if ours and not under(module, ALLOWED[layer]):
                bad.append(f"{path.relative_to(ROOT)} imports {module}")
            if under(module, FORBIDDEN[layer]):
                bad.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not bad, "\n".join(bad)


def test_every_layer_is_walked() -> None:
    assert all(python_files(layer) for layer in LAYERS if layer != "plugins")


def test_the_walk_sees_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime" / "backends").mkdir(parents=True)
    (tmp_path / "runtime" / "backends" / "bad.py").write_text("from ...export import bundle\nimport torch.nn\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)imports aim_edge\.export.*|imports torch\.nn"):
        test_imports("runtime")


KERNELS = re.compile(r'#include\s*[<"](Nv|onnxruntime|torch|ATen|Python\.h)')


def test_kernels_include_no_framework() -> None:
    sources = [
        path
        for folder in ("include", "src", "capi")
        for path in (ROOT / "plugins" / folder).rglob("*")
        if path.suffix in (".h", ".cuh", ".cu", ".cpp")
    ]
    assert sources
    bad = [str(path.relative_to(ROOT)) for path in sources if KERNELS.search(path.read_text(encoding="utf-8"))]
    assert not bad


RUNTIME_CHECK = """
import sys, time
start = time.perf_counter()
import aim_edge.runtime
seconds = time.perf_counter() - start
heavy = sorted({"torch", "onnx", "onnx_ir", "onnxruntime", "tensorrt"} & set(sys.modules))
print(seconds, *heavy)
"""


def test_runtime_is_light() -> None:
    """Half a second, the best of three: a busy machine is not the package's fault."""
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", RUNTIME_CHECK], capture_output=True, text=True, check=True)
        seconds, *heavy = done.stdout.split()
        assert not heavy
        times.append(float(seconds))
    assert min(times) < 0.5
