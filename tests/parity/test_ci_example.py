"""examples/ci: the script from start to end on this machine, and the workflow that runs its steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from needs import missing, rtx_version

from aim_edge.plugins.build import CROSS_COMPILER
from aim_edge.plugins.toolkit import BuildError, find_nvcc, find_tensorrt_headers
from aim_edge.runtime import Bundle

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ci"
STEPS = ("export", "engines", "plugin", "gate")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """PATH begins with aim-edge and python3 as this interpreter has them, installed or not."""
    programs = tmp_path / "bin"
    programs.mkdir()
    python = shlex.quote(sys.executable)
    code = shlex.quote("import sys; from aim_edge.cli import main; sys.exit(main())")
    for name, command in (("aim-edge", f"{python} -c {code}"), ("python3", python)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OUT": str(tmp_path / "out"), "TARGETS": "rtx:sm86"}


def run(environment: dict[str, str], *steps: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(EXAMPLE / "run.sh"), *steps]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_the_script_from_start_to_end(environment: dict[str, str], tmp_path: Path) -> None:
    rtx_version()
    try:
        find_nvcc()
        find_tensorrt_headers()
    except BuildError as error:
        missing(str(error))
    if shutil.which(CROSS_COMPILER) is None:
        missing(f"{CROSS_COMPILER} (g++-aarch64-linux-gnu)")
    rules = (EXAMPLE / "gates.toml").read_text().replace("rtx:sm86,sm89,sm120", "rtx:sm86").replace("= 256 ", "= 64 ")
    (tmp_path / "gates.toml").write_text(rules)
    done = run(environment | {"RULES": str(tmp_path / "gates.toml")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("gate PASS: ") == 2
    out = tmp_path / "out"
    assert list(Bundle.open(out / "rtx").manifest.engines) == ["rtx:sm86"]
    assert Bundle.open(out / "jetson").manifest.lowering == "plugin-fused"
    library = (out / "plugin" / "libaim_edge_tensorrt.so").read_bytes()
    assert int.from_bytes(library[18:20], "little") == 183  # ELF's number for AArch64
    for name in ("rtx", "jetson"):
        assert ElementTree.parse(out / f"{name}.xml").getroot().get("failures") == "0"
        assert (out / f"{name}.md").read_text().startswith("### gate PASS")
    # The gate is not a formality: with other rules the same bundles fail, and say why.
    (tmp_path / "gates.toml").write_text(rules.replace("engines = 40", "engines = 1"))
    done = run(environment | {"RULES": str(tmp_path / "gates.toml")}, "gate")
    assert done.returncode == 1 and "size engines of rtx:sm86: FAILED" in done.stdout


def test_a_step_that_lacks_a_tool_says_what_installs_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    lacking = {name: value for name, value in environment.items() if name != "CUDA_HOME"}
    done = run(lacking | {"AIM_CUDART": str(tmp_path)}, "plugin")
    assert done.returncode == 2 and "nvcc" in done.stderr
    done = run(environment, "paint")
    assert done.returncode == 2 and "step is 'paint'; known: all, export, engines, plugin, gate" in done.stderr


def test_the_workflow_runs_the_scripts_steps_in_order() -> None:
    workflow = yaml.safe_load((EXAMPLE / "aim-edge.yml").read_text())
    jobs = workflow["jobs"]
    text = "\n".join(step.get("run", "") for step in jobs["bundle"]["steps"])
    assert tuple(re.findall(r"bash ci/run\.sh (\w+)", text)) == STEPS
    assert all(f"step_{step}()" in (EXAMPLE / "run.sh").read_text() for step in STEPS)
    gpu = jobs["validate-on-gpu"]
    assert gpu["needs"] == "bundle" and "gpu" in gpu["runs-on"]
    commands = "\n".join(step.get("run", "") for step in gpu["steps"])
    assert "--backend ort-cuda" in commands and "aim-edge build" not in commands
