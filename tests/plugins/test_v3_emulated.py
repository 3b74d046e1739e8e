"""The IPluginV3 objects run on the CPU, over emulated kernels: the same program as on a GPU (v3_proof.sh)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from plugin_needs import ROOT


def test_every_operator_gives_the_reference(emulated: tuple[Path, Path]) -> None:
    program, library = emulated
    run = subprocess.run([program, library], capture_output=True, text=True, timeout=300, check=False)
    lines = run.stdout.splitlines()
    failures = [line for line in lines if line.startswith("FAIL")]
    assert run.returncode == 0 and not failures, "\n".join([*failures, run.stderr[-2000:]])
    for operator in json.loads((ROOT / "plugins" / "operators.json").read_text())["operators"]:
        assert any(line.startswith(f"PASS  {operator} ") for line in lines), operator
    assert lines[-1].endswith(" cases, 0 failures")
