"""The library of plugins that a build loads and lays beside its engines."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

PLUGIN_LIBRARY = "libaim_edge_tensorrt.so"
ENVIRONMENT = "AIM_EDGE_PLUGINS"
BUILT_AT = Path("build", "plugins", PLUGIN_LIBRARY)  # where `aim-edge plugins build` puts it
HOW = f"aim-edge plugins build; then --plugins FILE, or {ENVIRONMENT}=FILE"
# Of a library from before aim_version(); its operators are of the first version.
_UNVERSIONED = 1


@dataclass(frozen=True)
class PluginLibrary:
    """A plugin library; `told` is False where it cannot tell its version, which is then that of its operators."""

    path: Path
    version: int
    told: bool


def find_plugin_library(given: str | Path | None) -> Path | None:
    """The library that was given, or that AIM_EDGE_PLUGINS names, or that was built here; None where there is none.

    Raises:
        ValueError: the one that was given or named is not there.
    """
    named = os.environ.get(ENVIRONMENT, "")
    if given is None and not named:
        return BUILT_AT.resolve() if BUILT_AT.is_file() else None
    path, by = (Path(named), ENVIRONMENT) if given is None else (Path(given), "plugins")
    if not path.is_file():
        raise ValueError(f"{by} is '{path}'; no such file. Expected {PLUGIN_LIBRARY}: {HOW}")
    return path.resolve()


def describe_plugin_library(path: Path) -> PluginLibrary:
    """Asks a library for its version. TensorRT must have loaded it before: a first load here would register its
    plugins a second time.

    Raises:
        ValueError: it does not load.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # for another processor, or what it needs is missing
        raise ValueError(f"plugins is '{path}', which does not load ({error}); {HOW}") from error
    try:
        version = int(library.aim_version())
    except AttributeError:
        return PluginLibrary(path, _UNVERSIONED, False)
    return PluginLibrary(path, version, True)
