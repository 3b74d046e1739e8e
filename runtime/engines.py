"""What an engine file says of itself, read without a GPU and without the library that built it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from .errors import BundleError
from .manifest import EngineRecord

TENSORRT = "TensorRT"
TENSORRT_RTX = "TensorRT-RTX"
# As TensorRT-RTX 1.4, 1.6 and 1.7 write it: magic, 0, format, bytes of the file, version, magic again, GPUs as bits.
_HEADER = struct.Struct("<4sIQQ4B4sI")
_MAGIC, _FORMAT = b"vtrt", 2
_PLAN_TAIL = b"trt"  # of the first four bytes of a plan: b"ftrt" from TensorRT 8 on, and others for other kinds
_SMS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")  # by bit, from the lowest


@dataclass(frozen=True)
class EngineHeader:
    """The head of a TensorRT-RTX engine: the version that built it, in full, the GPUs it is for, its size in bytes."""

    version: str
    sms: tuple[str, ...]
    bytes: int


def read_engine_header(path: str | os.PathLike[str]) -> EngineHeader:
    """Reads the head of an engine file.

    The body is not looked at: only a digest tells whether it is what was built.

    Raises:
        BundleError: it is no engine of TensorRT-RTX, one of an unknown format, or it is cut off or has grown.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(head) < _HEADER.size or head[: len(_MAGIC)] != _MAGIC:
        raise BundleError(f"{path}: begins with {head[:4]!r}; expected {_MAGIC!r}, an engine of {TENSORRT_RTX}")
    _, zero, form, length, *version, magic, bits = _HEADER.unpack(head)
    if (zero, form, magic) != (0, _FORMAT, _MAGIC) or not bits or bits >> len(_SMS):
        raise BundleError(
            f"{path}: a head of format {form} for GPUs {bits:#x}; expected format {_FORMAT} and GPUs of "
            f"{', '.join(_SMS)}, as {TENSORRT_RTX} 1.4 to 1.7 write them"
        )
    if length != size:
        raise BundleError(f"{path}: {size} bytes found, {length} expected by its head; build it again")
    sms = tuple(name for bit, name in enumerate(_SMS) if bits >> bit & 1)
    return EngineHeader(".".join(map(str, version)), sms, length)


def engine_problem(root: Path, name: str, engines: EngineRecord) -> str | None:
    """Why a file's head is not that of the engines recorded with it, or None.

    TensorRT documents nothing of its plans' heads, so that of them only the first bytes are looked at.
    """
    if engines.library == TENSORRT:
        return _plan_problem(root, name)
    if engines.library != TENSORRT_RTX:
        known = f"{TENSORRT} and {TENSORRT_RTX}"
        return f"{name}: an engine of {engines.library!r}; expected one of {known}, which this aim-edge knows"
    try:
        found = read_engine_header(root / name)
    except (BundleError, OSError) as error:
        return str(error).replace(str(root / name), name)
    if found.version != engines.version:
        return f"{name}: built by {engines.library} {found.version}; {engines.version} expected"
    if found.sms != engines.sms:
        return f"{name}: built for {', '.join(found.sms)}; {', '.join(engines.sms)} expected"
    return None


def _plan_problem(root: Path, name: str) -> str | None:
    try:
        with open(root / name, "rb") as file:
            head = file.read(4)
    except OSError as error:
        return str(error).replace(str(root / name), name)
    if head[1:] != _PLAN_TAIL:
        return f"{name}: begins with {head!r}; expected b'ftrt' or the like, an engine of {TENSORRT}"
    return None
