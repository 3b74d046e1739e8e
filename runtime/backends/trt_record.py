"""Which of a bundle's engines a GPU and a library can run, or why none."""

from __future__ import annotations

from pathlib import Path

from ..bundle import Bundle, sha256_of
from ..cuda import Device
from ..errors import BundleError
from ..manifest import EngineRecord
from .trt_api import Library, version_numbers

PREFIXES = {"TensorRT": "trt", "TensorRT-RTX": "rtx"}
# From Ampere on, an engine built to be hardware-compatible runs on other architectures too.
_COMPATIBLE_FROM = 80


def pick_record(bundle: Bundle, library: Library, device: Device, target: str) -> EngineRecord:
    """The engines for a target; "" is what this GPU's own would be called.

    Raises:
        BundleError: none are recorded, or they are for another library, version or architecture.
    """
    prefix = PREFIXES[library.name]
    wanted = target or f"{prefix}:{device.sm}"
    recorded = bundle.manifest.engines
    here = f"{device.name} ({device.sm})"
    build = f"aim-edge build {bundle.path} --target " + ("tensorrt" if prefix == "trt" else f"rtx:{device.sm}")
    if wanted not in recorded:
        found = ", ".join(recorded) or "none"
        raise BundleError(f"{bundle.path}: no engines of {wanted!r} for {here}; recorded: {found}; build them: {build}")
    record = recorded[wanted]
    where = f"{bundle.path}: the engines of {wanted!r}"
    if record.library != library.name:
        raise BundleError(f"{where} are of {record.library}; {library.name} is what this backend loads")
    if not _runs_on(record, device.sm):
        raise BundleError(f"{where} are for {', '.join(record.sms)}; {here} is here; build them: {build}")
    if not _loads_with(record, library.version):
        raise BundleError(
            f"{where} were built by {record.library} {record.version}; {library.version} is here, and loads engines of "
            f"its own version only; build them: {build}"
        )
    if "weight-stripped" in record.flags:
        raise BundleError(f"{where} are without weights, which this runtime does not put back; build them: {build}")
    return record


def find_library(bundle: Bundle, record: EngineRecord, given: str) -> Path | None:
    """The kernel library: the one given, or the recorded one, or None.

    Raises:
        BundleError: the given one is missing, or not the one that the engines were built with.
    """
    plugin = record.plugin
    if not given:
        return None if plugin is None else bundle.path / plugin.file
    path = Path(given)
    if not path.is_file():
        raise BundleError(f"library is {given!r}; no such file")
    if plugin is not None and (digest := sha256_of(path)) != plugin.sha256:
        raise BundleError(
            f"{path}: SHA-256 {digest} found; {plugin.sha256} expected, the library that the engines of "
            f"{record.target!r} were built with; leave library away to take {bundle.path / plugin.file}"
        )
    return path


def _runs_on(record: EngineRecord, sm: str) -> bool:
    if sm in record.sms:
        return True
    numbers = [name.removeprefix("sm") for name in (sm, *record.sms)]
    compatible = "hardware-compatible" in record.flags and all(map(str.isdecimal, numbers))
    return compatible and all(int(number) >= _COMPATIBLE_FROM for number in numbers)


def _loads_with(record: EngineRecord, version: str) -> bool:
    if record.version == version:
        return True
    same_major = version_numbers(record.version)[:1] == version_numbers(version)[:1]
    return "version-compatible" in record.flags and same_major
