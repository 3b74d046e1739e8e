"""Tests that need hardware which is not here are reported as not run, never as passed."""

from __future__ import annotations

import ctypes.util
import importlib.util
import subprocess
from functools import lru_cache

import pytest
import torch

torch.set_num_threads(2)

REASONS = {"gpu": "NOT RUN: needs an NVIDIA GPU", "tensorrt": "NOT RUN: needs a full TensorRT and an NVIDIA GPU"}


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether the driver lists a device."""
    if ctypes.util.find_library("cuda") is None:
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return listed.returncode == 0 and "GPU 0" in listed.stdout


def is_here(marker: str) -> bool:
    """Whether what a marker asks for is on this machine."""
    return has_gpu() and (marker == "gpu" or importlib.util.find_spec("tensorrt") is not None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, reason in REASONS.items():
            if item.get_closest_marker(marker) and not is_here(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in REASONS.values():
        count = sum(reason in str(report.longrepr) for report in skipped)
        if count:
            terminalreporter.write_line(f"{count} tests {reason}", yellow=True)
