"""Where the tests of the plugins build, and what they do where this machine lacks something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "test-plugins"


def missing(what: str) -> NoReturn:
    """Skips the test; in CI, where everything that needs no GPU must be there, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have this: {what}")
    pytest.skip(f"this machine lacks it: {what}")
