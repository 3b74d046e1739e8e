"""Tests that need hardware which is not here are reported as not run, never as passed.

The kernels' tests run on GPU machines that have NumPy and pytest only, so nothing else may be needed here.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Generator
from functools import lru_cache

import pytest

with contextlib.suppress(ImportError):
    import torch

    # More of them wait for each other in loops, twenty times as long as they work where another process has a core.
    torch.set_num_threads(1)

REASONS = {"gpu": "not run: needs an NVIDIA GPU", "tensorrt": "not run: needs TensorRT on an NVIDIA GPU"}


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether the CUDA driver counts a device. Jetson has no nvidia-smi to ask."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def is_here(marker: str) -> bool:
    """Whether what a marker asks for is on this machine."""
    return has_gpu() and (marker == "gpu" or importlib.util.find_spec("tensorrt") is not None)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Lets the project's `timeout` setting stand where pytest-timeout is not installed."""
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "seconds a test may take (needs pytest-timeout)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, reason in REASONS.items():
            if item.get_closest_marker(marker) and not is_here(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Ends the summary with one line: how many tests were not run, and why."""
    yield
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    counts = {reason: sum(reason in text for text in skipped) for reason in REASONS.values()}
    counts["not run: other reasons, given above as SKIPPED"] = len(skipped) - sum(counts.values())
    why = ", ".join(f"{count} {reason.removeprefix('not run: ')}" for reason, count in counts.items() if count)
    if skipped:
        terminalreporter.write_line(f"NOT RUN: {len(skipped)} tests ({why})", yellow=True, bold=True)
