"""As much of nvidia-ml-py's module as reading a GPU's power takes."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any


class FakeNvml(ModuleType):
    """The module `pynvml`.

    Attributes:
        instant, usage: milliwatts of both readings; an error is raised, and of None there is no such reading.
        mig: 1: the GPU is split; an error is raised.
        fails: function name -> the error that it raises.
        calls: what was called, in order, with the bus id asked for.
    """

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_FunctionNotFound(NVMLError):
        pass

    NVML_SUCCESS, NVML_DEVICE_MIG_ENABLE = 0, 1
    NVML_VALUE_TYPE_UNSIGNED_INT, NVML_FI_DEV_POWER_INSTANT = 1, 186

    def __init__(self, *, instant: Any = 300_000, usage: Any = 100_000, mig: Any = 0, **fails: Exception) -> None:
        super().__init__("pynvml")
        self.instant, self.usage, self.mig, self.fails = instant, usage, mig, fails
        self.calls: list[str] = []

    def _call(self, name: str, told: str = "") -> None:
        self.calls.append(name + told)
        if name in self.fails:
            raise self.fails[name]

    def nvmlInit(self) -> None:
        self._call("nvmlInit")

    def nvmlShutdown(self) -> None:
        self._call("nvmlShutdown")

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> str:
        self._call("nvmlDeviceGetHandleByPciBusId", f" {bus_id}")
        return "handle"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [_value(self.mig), 0]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(_value(self.usage))

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[Any]:
        assert handle == "handle" and fields == [self.NVML_FI_DEV_POWER_INSTANT]
        milliwatts = _value(self.instant)
        return [SimpleNamespace(nvmlReturn=3 if milliwatts is None else 0, valueType=1,
                                value=SimpleNamespace(uiVal=milliwatts))]  # fmt: skip


def _value(given: Any) -> Any:
    if isinstance(given, Exception):
        raise given
    return given
