"""What a GPU draws while something is timed: the mean of power readings that a thread takes beside it.

Who calls brings the meter: reading power takes a library that is none of an engine's.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol

from .cuda import Device
from .errors import EngineError

PERIOD = 0.05  # seconds from a reading to the next
# A mean of fewer says little of the runs and much of the moment.
LEAST_READINGS = 5
INSTALL = 'pip install "aim-edge[energy]"'


class EnergyError(RuntimeError):
    """Power cannot be read here: the message says why, and what to do."""


class PowerMeter(Protocol):
    """Reads what one GPU draws.

    Attributes:
        source: what a reading is, for people.
    """

    source: str

    def __call__(self) -> float:
        """Watts now. Raises EnergyError."""


# The GPU's PCI bus id, such as "0000:3b:00.0" -> its meter. Raises EnergyError when entered.
OpenMeter = Callable[[str], AbstractContextManager[PowerMeter]]


class Power:
    """Watches timed runs where there is a meter.

    Attributes:
        reason: why nothing is measured, or "".
    """

    def __init__(self, meter: PowerMeter | None, reason: str = "") -> None:
        self.meter, self.reason = meter, reason
        self._source = "" if meter is None else meter.source

    def describe(self) -> dict[str, str]:
        """JSON-ready: "source" (what a reading is) and "reason" (why nothing was measured, or "")."""
        return {"source": self._source, "reason": self.reason}

    def watch(self) -> Watch:
        """A context in which readings are taken."""
        return Watch(self)


class Watch:
    """Readings of one stretch of time. A meter that fails is not asked again; the runs go on."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._readings: list[float] = []
        self._problem: Exception | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if self._power.meter is not None:
            self._thread = threading.Thread(target=self._read, args=(self._power.meter,), daemon=True)
            self._thread.start()
        return self

    def _read(self, meter: PowerMeter) -> None:
        try:
            while True:
                self._readings.append(meter())
                if self._over.wait(PERIOD):
                    return
        except Exception as error:  # told by __exit__, in the thread that can
            self._problem = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        if isinstance(self._problem, EnergyError):
            self._power.meter, self._power.reason = None, str(self._problem)
        elif self._problem is not None and error is None:
            raise self._problem

    def figures(self, seconds: float, batch: int) -> dict[str, Any]:
        """JSON-ready: "energy", or nothing where it was not measured.

        Args:
            seconds: median of the runs that were watched.
            batch: images of each.

        Returns:
            {"energy": {"watts": mean, "joules_per_image": watts times seconds an image, "readings": how many}} or {}.
        """
        if self._problem is not None or len(self._readings) < LEAST_READINGS:
            return {}
        watts = sum(self._readings) / len(self._readings)
        return {
            "energy": {"watts": watts, "joules_per_image": watts * seconds / batch, "readings": len(self._readings)}
        }


@contextmanager
def open_power(open_meter: OpenMeter | None, device: Device | None, backend: str) -> Iterator[Power]:
    """The watch over a device's power; without a meter it says why.

    Args:
        open_meter: gives a meter; None: none is wanted.
        device: the GPU; None where the backend runs on the CPU.
        backend: its name, for the message.
    """
    with ExitStack() as stack:
        meter, reason = None, ""
        if device is None:
            reason = f"energy is read from an NVIDIA GPU, with {INSTALL}; {backend} runs on the CPU"
        elif open_meter is None:
            reason = "no power meter was given"
        else:
            try:
                meter = stack.enter_context(open_meter(_bus_id(device)))
            except (EnergyError, EngineError) as error:
                reason = str(error)
        yield Power(meter, reason)


def _bus_id(device: Device) -> str:
    """CUDA numbers GPUs in an order of its own; this id is the driver's everywhere."""
    text = ctypes.create_string_buffer(32)
    device.driver.call("cuDeviceGetPCIBusId", text, len(text), device.ordinal)
    return text.value.decode(errors="replace")
