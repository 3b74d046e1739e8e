"""The kernel library's part in the decode loop, by ctypes: drawing codes, and pixels from images.

The structs are those of plugins/capi/aim_kernels_c.h; nothing that is called here allocates or waits.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from ..cuda import Stream
from ..errors import EngineError
from ..sampler import SamplingConfig

_REMEDY = "build it with: aim-edge plugins build"


class Sampling(ctypes.Structure):
    """aim_sampling: how codes are drawn. It lies on the device, so that a captured graph draws with what it holds."""

    _fields_ = [
        ("seed", c_uint64), ("top_p", c_double), ("guidance_scale", c_float), ("temperature", c_float),
        ("top_k", c_int32), ("reserved", c_int32 * 3),
    ]  # fmt: skip

    @classmethod
    def of(cls, config: SamplingConfig, seed: int) -> Sampling:
        """A config and a seed in [0, 2^64). A top_k too large for the field means all, which is 0."""
        top_k = config.top_k if config.top_k < 1 << 31 else 0
        return cls(seed, config.top_p, config.guidance_scale, config.temperature, top_k)


class SampleParams(ctypes.Structure):
    """aim_sample_params."""

    _fields_ = [
        ("size", c_uint64), ("batch", c_int64), ("vocab_size", c_int32), ("num_tokens", c_int32), ("logits", c_void_p),
        ("sampling", c_void_p), ("image_index", c_void_p), ("token", c_void_p), ("position", c_void_p),
        ("tokens", c_void_p), ("status", c_void_p), ("active", c_void_p),
    ]  # fmt: skip


class ImageParams(ctypes.Structure):
    """aim_image_params."""

    _fields_ = [
        ("size", c_uint64), ("batch", c_int64), ("channels", c_int32), ("height", c_int32), ("width", c_int32),
        ("reserved", c_int32), ("image", c_void_p), ("pixels", c_void_p), ("status", c_void_p),
    ]  # fmt: skip


def load_library(path: Path) -> Any:
    """The library. Raises EngineError."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"{path}: cannot be loaded: {error}") from error


def library_version(library: Any) -> int | None:
    """What `aim_version` says, or None where the library has none."""
    function = getattr(library, "aim_version", None)
    if function is None:
        return None
    function.argtypes, function.restype = (), c_int
    return int(function())


class Kernels:
    """The functions that the runtime calls.

    Args:
        path: of the library, for messages.
        library: of `load_library`.

    Raises:
        EngineError: it lacks one.
    """

    def __init__(self, path: Path, library: Any) -> None:
        self.path = path
        for name, kind in (("aim_sample", SampleParams), ("aim_image_to_uint8", ImageParams)):
            if not hasattr(library, name):
                raise EngineError(f"{path} has no {name}, which draws and decodes on the device; {_REMEDY}, or give "
                                  "sampler='host'")  # fmt: skip
            function = getattr(library, name)
            function.argtypes, function.restype = (ctypes.POINTER(kind), c_void_p), c_int
        library.aim_last_error.argtypes, library.aim_last_error.restype = (), c_char_p
        self._library = library

    def sample(self, params: SampleParams, stream: Stream) -> None:
        """Enqueues drawing one code an image. Raises EngineError."""
        self._call("aim_sample", params, stream)

    def image_to_uint8(self, params: ImageParams, stream: Stream) -> None:
        """Enqueues the conversion of images to pixels. Raises EngineError."""
        self._call("aim_image_to_uint8", params, stream)

    def _call(self, name: str, params: Any, stream: Stream) -> None:
        params.size = ctypes.sizeof(params)
        if code := getattr(self._library, name)(ctypes.byref(params), stream.handle):
            text = (self._library.aim_last_error() or b"").decode(errors="replace")
            raise EngineError(f"{self.path}: {name} returned {code}: {text}")
