import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from service.telemetry.gpu import Driver, GpuCollector, GpuReading, gpu_named

READING = GpuReading("GPU-1", 3_000, 80_000, 0.25)
NAMES = ["padrec_gpu_memory_used_bytes", "padrec_gpu_memory_total_bytes", "padrec_gpu_utilization_ratio"]


def told(collector: GpuCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        sample.name: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels == {"gpu": "GPU-1"}
    }


def test_what_the_driver_says() -> None:
    assert told(GpuCollector(lambda: READING)) == dict(zip(NAMES, [3_000, 80_000, 0.25], strict=True))


def test_what_it_does_not_say_is_missing() -> None:
    part = GpuReading("GPU-1", 3_000, 80_000, None)
    assert told(GpuCollector(lambda: part)) == dict(zip(NAMES[:2], [3_000, 80_000], strict=True))


def test_without_a_gpu_there_is_nothing_and_the_rest_is_told() -> None:
    def fail() -> GpuReading:
        raise RuntimeError("no driver")

    registry = CollectorRegistry()
    registry.register(GpuCollector(fail))
    Gauge("value", "A value.", registry=registry).set(7)
    assert generate_latest(registry).decode() == "# HELP value A value.\n# TYPE value gauge\nvalue 7.0\n"


def test_a_driver_that_hangs_costs_one_thread_and_comes_back() -> None:
    release, calls = threading.Event(), []

    def read() -> GpuReading:
        calls.append(1)
        release.wait(30)
        return READING

    collector = GpuCollector(read, patience=0.01)
    assert told(collector) == {}
    assert told(collector) == {}
    assert len(calls) == 1
    release.set()
    collector._thread.join(30)
    collector = GpuCollector(read, patience=30)
    assert told(collector) != {}


def test_it_is_not_asked_before_a_scrape() -> None:
    calls: list[int] = []

    def read() -> GpuReading:
        calls.append(1)
        return READING

    CollectorRegistry().register(GpuCollector(read))
    assert calls == []


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, 0),
        ("cuda", "", 0),
        ("cuda:2", None, 2),
        ("cuda:1", "4, 6", 6),
        ("cuda", "GPU-8932f937-d72c", "GPU-8932f937-d72c"),
    ],
)
def test_which_gpu_is_meant(device: str, visible: str | None, expected: int | str) -> None:
    assert gpu_named(device, visible) == expected


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A driver of two GPUs, the second of which says nothing of its utilisation."""

    class NVMLError(Exception):
        pass

    def utilization(handle: int) -> Any:
        if handle == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=40)

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        inits=0,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: int(uuid[-1]),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=10 + handle, total=100),
        nvmlDeviceGetUtilizationRates=utilization,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}",
    )

    def init() -> None:
        fake.inits += 1

    fake.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_the_driver_is_asked_about_the_workers_gpu(nvml: Any) -> None:
    driver = Driver("auto", None)
    assert driver() == driver() == GpuReading("GPU-0", 10, 100, 0.4)
    assert nvml.inits == 1
    assert Driver("cuda:1", None)() == GpuReading("GPU-1", 11, 100, None)
    assert Driver("cuda", "GPU-1")() == GpuReading("GPU-1", 11, 100, None)
