"""Energy in aim-edge bench: NVML by a fake module, and readings beside the timed runs."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from fake_nvml import FakeNvml
from test_bench import check_page
from toy_bundle import make_bundle
from trt_case import Make, make_case  # noqa: F401

from aim_edge.cli.power import open_meter
from aim_edge.runtime import bench_energy
from aim_edge.runtime.bench import BenchSettings, run_bench
from aim_edge.runtime.bench_energy import EnergyError, Power
from aim_edge.runtime.bench_figures import PARTS

BUS_ID = "0000:3b:00.0"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is done before a second reading; the first is taken whatever happens."""
    monkeypatch.setattr("aim_edge.runtime.floor._COPY_BYTES", 4096)
    monkeypatch.setattr(bench_energy, "LEAST_READINGS", 1)


def install(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None) -> FakeNvml | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # None: the import fails
    return nvml


def bench(run: Run, root: Path, out: Path, *more: object) -> tuple[dict[str, Any], str]:
    status, said, told = run("bench", root, "--batch", "1,2", "--repeats", 2, "--no-cold-start", "--json", out, *more)
    assert status == 0, told
    return json.loads(out.read_text()), said


def test_the_command_measures_every_part(make: Make, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, html = FakeNvml(), tmp_path / "b.html"
    install(monkeypatch, nvml)
    found, said = bench(run, make().root, tmp_path / "b.json", "--backend", "tensorrt", "--html", html)
    assert nvml.calls == ["nvmlInit", f"nvmlDeviceGetHandleByPciBusId {BUS_ID}", "nvmlShutdown"]
    assert found["energy"] == {"source": "NVML's power at the instant", "reason": ""} and "energy" in found["timed"]
    for one in found["batches"]:
        for part in PARTS:
            energy = one[part]["energy"]
            assert energy["watts"] == 300 and energy["readings"] >= 1
            assert energy["joules_per_image"] == pytest.approx(300 * one[part]["median"] / one["batch"])
    assert "J/image" in said and "energy: NVML's power at the instant, its mean" in said
    page = html.read_text(encoding="utf-8")
    check_page(page)
    assert page.count('<td class="number">300</td>') == 6


def test_a_missing_package_is_told(make: Make, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    found, said = bench(run, make().root, tmp_path / "b.json", "--backend", "tensorrt")
    assert "energy: not measured: the package nvidia-ml-py is missing" in said
    assert 'pip install "aim-edge[energy]"' in said and "J/image" not in said
    assert all("energy" not in one[part] for one in found["batches"] for part in PARTS)


def test_on_the_cpu_nvml_is_not_asked(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    install(monkeypatch, nvml)
    found, said = bench(run, make_bundle(tmp_path / "bundle"), tmp_path / "b.json", "--option", "threads=1")
    assert nvml.calls == [] and 'pip install "aim-edge[energy]"; ort-cpu runs on the CPU' in found["energy"]["reason"]
    assert "energy: not measured: energy is read from an NVIDIA GPU" in said


def test_too_few_readings_are_no_mean(make: Make, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml())
    monkeypatch.setattr(bench_energy, "LEAST_READINGS", 10**9)
    found, said = bench(run, make().root, tmp_path / "b.json", "--backend", "tensorrt")
    assert found["energy"]["reason"] == "" and "energy" not in found["batches"][0]["tokens"]
    assert "batch 2: energy of tokens, pixels, generate: not measured: the runs were too short" in said


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (FakeNvml(mig=1), "split by MIG"),
        (FakeNvml(nvmlInit=FakeNvml.NVMLError("Driver Not Loaded")), "NVML does not start: Driver Not Loaded"),
        (FakeNvml(nvmlDeviceGetHandleByPciBusId=FakeNvml.NVMLError("Not Found")), f"GPU {BUS_ID}: Not Found"),
        (FakeNvml(instant=None, usage=FakeNvml.NVMLError_NotSupported("Not Supported")), "power: Not Supported"),
    ],
)
def test_what_nvml_cannot_tell(nvml: FakeNvml, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nvml)
    with pytest.raises(EnergyError, match=reason), open_meter(BUS_ID):
        pass
    assert ("nvmlShutdown" in nvml.calls) == (reason[:9] != "NVML does")


@pytest.mark.parametrize("instant", [None, FakeNvml.NVMLError_NotSupported(), FakeNvml.NVMLError_FunctionNotFound()])
def test_without_the_power_at_the_instant_the_usage_is_read_and_named(
    instant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeNvml(instant=instant, usage=123_456, mig=FakeNvml.NVMLError_NotSupported()))
    with open_meter(BUS_ID) as meter:
        assert meter() == pytest.approx(123.456) and "mean over the last second" in meter.source


def test_an_older_package_does_not_name_the_power_at_the_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(usage=123_456))
    monkeypatch.delattr(FakeNvml, "NVML_FI_DEV_POWER_INSTANT")
    with open_meter(BUS_ID) as meter:
        assert meter() == pytest.approx(123.456) and "mean over the last second" in meter.source


class Meter:
    """Gives what it was made with, one after the other, and sets `asked` at the last; then it repeats that one."""

    source = "a meter"

    def __init__(self, *values: float | Exception) -> None:
        self.values, self.asked = list(values), threading.Event()

    def __call__(self) -> float:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if len(self.values) == 1:
            self.asked.set()
        if isinstance(value, Exception):
            raise value
        return value


def test_a_mean_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_energy, "PERIOD", 0.001)
    meter = Meter(100.0, 200.0, 600.0, 300.0)
    with Power(meter).watch() as watch:
        assert meter.asked.wait(30)
        watch._over.set()
    watch._readings[3:] = []  # how often the last is repeated is the machine's affair
    assert watch.figures(2.0, 4) == {"energy": {"watts": 300.0, "joules_per_image": 150.0, "readings": 3}}


def test_a_meter_that_fails_is_not_asked_again() -> None:
    power = Power(Meter(EnergyError("lost")))
    with power.watch() as watch:
        pass
    assert watch.figures(1.0, 1) == {} and power.meter is None
    assert power.describe() == {"source": "a meter", "reason": "lost"}
    with power.watch() as watch:
        pass
    assert watch.figures(1.0, 1) == {}


def test_a_bug_in_a_meter_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), Power(Meter(ZeroDivisionError())).watch():
        pass


def test_the_runs_that_warm_up_are_not_watched(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    original = Power.watch

    def watch(self: Power) -> Any:
        events.append("watch")
        return original(self)

    @contextmanager
    def meters(bus_id: str) -> Any:
        assert bus_id == BUS_ID
        yield Meter(5.0)

    monkeypatch.setattr(Power, "watch", watch)
    settings = BenchSettings((2,), repeats=2, warmup=1, profile=False, cold_start=False)
    run_bench(make().root, "tensorrt", {}, settings, lambda what, done, total: events.append((what, done)), meters)
    assert events[1:] == [
        event for part in PARTS for event in
        ((f"batch 2: {part}", 0), "watch", (f"batch 2: {part}", 1), (f"batch 2: {part}", 2))
    ]  # fmt: skip
