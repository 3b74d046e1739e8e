"""What a GPU draws, as NVIDIA's management library (NVML) tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aim_edge.runtime.bench_energy import PowerMeter

_INSTANT = "NVML's power at the instant"
# What newer GPUs give there is their mean over the last second; the driver does not tell which it is.
_USAGE = "NVML's power usage, on newer GPUs a mean over the last second"


@contextmanager
def open_meter(bus_id: str) -> Iterator[PowerMeter]:
    """The meter of one GPU.

    Args:
        bus_id: its PCI bus id, such as "0000:3b:00.0".

    Raises:
        EnergyError: no nvidia-ml-py, no NVML, a GPU that does not tell its power, or one that is shared by MIG.
    """
    from aim_edge.runtime.bench_energy import INSTALL, EnergyError

    try:
        import pynvml
    except ImportError as error:
        raise EnergyError(f"the package nvidia-ml-py is missing ({error}); {INSTALL}") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise EnergyError(f"NVML does not start: {error}; it comes with NVIDIA's driver; {INSTALL} reads it") from error
    try:
        try:
            meter = _Meter(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id))
            meter()  # so that a GPU that tells nothing is known before the work
        except pynvml.NVMLError as error:
            raise EnergyError(f"NVML does not tell the power of GPU {bus_id}: {error}") from error
        yield meter
    finally:
        pynvml.nvmlShutdown()


class _Meter:
    """Watts of one GPU; `source` says what a reading is."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        from aim_edge.runtime.bench_energy import EnergyError

        self._nvml, self._handle, self._error = nvml, handle, EnergyError
        if self._is_shared():
            raise EnergyError("the GPU is split by MIG: its power is that of all parts, so a part's is not known")
        self._instant = self._read_instant() is not None
        self.source = _INSTANT if self._instant else _USAGE

    def __call__(self) -> float:
        try:
            watts = self._read_instant() if self._instant else self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000
        except self._nvml.NVMLError as error:
            raise self._error(f"NVML does not tell the GPU's power: {error}") from error
        if watts is None:
            raise self._error("NVML stopped telling the GPU's power at the instant")
        return float(watts)

    def _is_shared(self) -> bool:
        try:
            return bool(self._nvml.nvmlDeviceGetMigMode(self._handle)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):  # a GPU without MIG
            return False

    def _read_instant(self) -> float | None:
        """Watts; None where the driver or the GPU has no such reading. Raises NVMLError."""
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is None:  # an older package than the extra asks for
            return None
        try:
            value = self._nvml.nvmlDeviceGetFieldValues(self._handle, [field])[0]
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_FunctionNotFound):
            return None
        found = (value.nvmlReturn, value.valueType)
        known = found == (self._nvml.NVML_SUCCESS, self._nvml.NVML_VALUE_TYPE_UNSIGNED_INT)
        return value.value.uiVal / 1000 if known else None
