"""The file of timings that makes a second build fast."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


class TimingCache:
    """Timings of layers, shared by all engines of a call and kept in a file.

    Args:
        given: the file; None: one of this version and GPU in the user's cache folder.
        version: of TensorRT.
        gpu: its name.
        say: called with a sentence where timings could not be used or kept.

    Raises:
        ValueError: what was given is a folder.
    """

    def __init__(self, given: str | Path | None, version: str, gpu: str, say: Callable[[str], None]) -> None:
        self.path = default_path(version, gpu) if given is None else Path(given)
        if self.path.is_dir():
            raise ValueError(f"timing_cache is '{self.path}', a folder; expected a file")
        self._must, self._say = given is not None, say
        self._cache: Any = None
        self._owner: Any = None  # what made the cache is kept as long as the cache

    def use(self, config: Any) -> None:
        """Has a build use the timings so far.

        Raises:
            OSError: the file that was given cannot be read; of the one in the cache folder it is only said.
        """
        if self._cache is not None:
            config.set_timing_cache(self._cache, ignore_mismatch=False)
            return
        self._owner = config
        data = self._read()
        if data:
            self._cache = config.create_timing_cache(data)
            if self._cache is not None and config.set_timing_cache(self._cache, ignore_mismatch=False):
                return
            self._say(f"{self.path}: timings of another TensorRT or GPU, or damaged; they are made anew")
        self._cache = config.create_timing_cache(b"")
        config.set_timing_cache(self._cache, ignore_mismatch=False)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            if self._must:
                raise
            self._say(f"{self.path}: the timings cannot be read: {error}")
            return b""

    def save(self, config: Any) -> None:
        """Writes the timings back whole.

        Raises:
            OSError: the file that was given cannot be written; of the one in the cache folder it is only said.
        """
        cache = config.get_timing_cache()
        if cache is None:
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(memoryview(cache.serialize()))
                os.replace(partial, self.path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            if self._must:
                raise
            self._say(f"{self.path}: the timings are not kept: {error}")


def default_path(version: str, gpu: str) -> Path:
    """Where timings of a version of TensorRT and a GPU are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if base else Path.home() / ".cache"
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"
    return folder / "aim-edge" / f"timing-{version}-{slug}.cache"
