"""Where the CUDA toolkit is: asked of nvcc itself, which may be a wrapper around one that lives elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


def toolkits() -> list[Path]:
    """Roots that hold include/ and lib or lib64: $CUDA_HOME, nvcc's own, and the nvidia wheels of this Python."""
    roots = [Path(os.environ["CUDA_HOME"])] if "CUDA_HOME" in os.environ else []
    nvcc = shutil.which("nvcc")
    if nvcc:
        dry = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True)
        top = re.search(r"^#\$ TOP=(.*)$", dry.stderr, re.MULTILINE)
        if top:
            roots.append(Path(top.group(1).strip()).resolve())
    for place in sys.path:
        roots += sorted(Path(place).glob("nvidia/cu1*")) + sorted(Path(place).glob("nvidia/cuda_runtime"))
    return [root for root in roots if root.is_dir()]


def headers() -> Path | None:
    folders = (root / "include" for root in toolkits())
    return next((folder for folder in folders if (folder / "cuda_runtime_api.h").is_file()), None)


def runtime_libraries() -> list[str]:
    found = [root / folder for root in toolkits() for folder in ("lib64", "lib")]
    return [str(path) for folder in found for path in sorted(folder.glob("libcudart.so*"))]
