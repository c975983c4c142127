"""Memory and utilisation of the worker's GPU, read from the driver (NVML) when the metrics are asked for.

They are there only where there is an NVIDIA GPU and the extra `gpu` is installed.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.errors import first_line

_PATIENCE = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU as it is now.

    Attributes:
        utilization: share of the last moments in which it computed, 0 to 1; None where the driver does not say.
    """

    uuid: str
    used_bytes: int
    total_bytes: int
    utilization: float | None


class GpuCollector(Collector):
    """Tells what `read` finds; nothing where that fails, or takes longer than `patience` seconds.

    A driver that hangs costs one thread, and a scrape its patience: it is asked again only once it has answered.

    Args:
        read: asks the driver, on a thread of its own.
        patience: seconds that a scrape waits.
    """

    def __init__(self, read: Callable[[], GpuReading], patience: float = _PATIENCE) -> None:
        self._read, self._patience = read, patience
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reading: GpuReading | None = None
        self._has_failed = False

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The metrics without their values."""
        return _families().values()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The metrics as they are now."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._reading = None
                # A daemon: a driver that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._ask, name="gpu", daemon=True)
                self._thread.start()
            self._thread.join(self._patience)
            reading = None if self._thread.is_alive() else self._reading
        return () if reading is None else _told(reading)

    def _ask(self) -> None:
        try:
            self._reading = self._read()
        except Exception as error:
            if not self._has_failed:
                _log.info("no metrics of the GPU", reason=first_line(error))
            self._has_failed = True


class Driver:
    """Asks the driver about the GPU that torch calls `device`; called by one thread at a time.

    Args:
        device: `auto`, `cuda` or `cuda:N`.
        visible: CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, device: str, visible: str | None) -> None:
        self._device, self._visible = device, visible
        self._handle: Any = None  # filled by the first call: it takes a while

    def __call__(self) -> GpuReading:
        """The GPU as it is now.

        Raises:
            ImportError: the extra `gpu` is not installed.
            Exception: the driver's: there is no GPU, or it is lost.
        """
        import pynvml

        if self._handle is None:
            pynvml.nvmlInit()
            which = gpu_named(self._device, self._visible)
            find = (
                pynvml.nvmlDeviceGetHandleByIndex
                if isinstance(which, int)
                else pynvml.nvmlDeviceGetHandleByUUID
            )
            self._handle = find(which)
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        try:
            utilization = pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100
        except pynvml.NVMLError:  # of a part of a GPU (MIG) the driver does not say
            utilization = None
        uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
        return GpuReading(uuid, int(memory.used), int(memory.total), utilization)


def gpu_named(device: str, visible: str | None) -> int | str:
    """The driver's number of a GPU, or its UUID: torch counts only those that CUDA_VISIBLE_DEVICES names."""
    number = int(device.partition(":")[2] or 0)
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if not names:
        return number
    name = names[number]
    return int(name) if name.isdigit() else name


def _families() -> dict[str, GaugeMetricFamily]:
    documentation = {
        "padrec_gpu_memory_used_bytes": "Memory of the GPU that is in use, by whichever process.",
        "padrec_gpu_memory_total_bytes": "Memory of the GPU.",
        "padrec_gpu_utilization_ratio": "Share of the last moments in which the GPU computed something.",
    }
    return {name: GaugeMetricFamily(name, text, labels=("gpu",)) for name, text in documentation.items()}


def _told(reading: GpuReading) -> Iterable[GaugeMetricFamily]:
    values = (reading.used_bytes, reading.total_bytes, reading.utilization)
    for family, value in zip(_families().values(), values, strict=True):
        if value is not None:
            family.add_metric((reading.uuid,), value)
            yield family
