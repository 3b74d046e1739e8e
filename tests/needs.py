"""What tests do where this machine lacks something that CI must have."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skips the test; in CI, where everything that needs no GPU must be there, fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have this: {what}")
    pytest.skip(f"this machine lacks it: {what}")


def rtx_version() -> str:
    """TensorRT-RTX's version; where it is not installed, the test is not run."""
    from aim_edge.export.engines_rtx import RtxBuilder  # not needed by those who only ask `missing`
    from aim_edge.runtime import BackendMissingError

    try:
        return RtxBuilder().version
    except BackendMissingError as error:
        missing(str(error))
