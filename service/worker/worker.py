"""A worker from start to end, whoever asks it."""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, Protocol

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from service.catalog.bundle import Bundle, DecodingDefaults
from service.config import WorkerSettings
from service.errors import UnavailableError
from service.processes import keep_for_good
from service.telemetry.gpu import Driver, GpuCollector
from service.telemetry.metrics import WorkerMetrics
from service.types import DecodeRequest
from service.worker.handler import DecodeHandler
from service.worker.loop import Engine, EngineLoop
from service.worker.metrics_server import metrics_server
from service.worker.scheduler import Scheduler

EngineBuilder = Callable[[Bundle, WorkerSettings], Engine]
_Happening = Literal["ready", "stop", "ended", "hung"]

# Lists that run may end after `stop`; less than a supervisor's patience.
DRAIN_SECONDS = 8.0
_REPLY_SECONDS = 1.0
_WATCH_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class Front(Protocol):
    """Where a worker is asked: `service.rpc.server.WorkerServer`, for one."""

    async def start(self) -> str:
        """Begin, and refuse requests; returns where it is asked."""
        ...

    async def serve(self, handler: DecodeHandler) -> None:
        """Take requests from now on."""
        ...

    async def drain(self) -> None:
        """Take no more requests; those that were taken still get their reply."""
        ...

    async def stop(self, grace: float) -> None:
        """End; what is not answered after `grace` seconds is cancelled."""
        ...


class Worker:
    """All that writes lists, behind a front; made inside an event loop.

    Args:
        bundle: what it serves.
        settings: all but where it listens, which is the front's.
        build_engine: loads the target; called on the engine's thread.
        front: where it is asked.
        beside: it takes the place of another worker, which may have the metrics' port still.

    Attributes:
        engine_loop: the engine's thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: WorkerSettings,
        build_engine: EngineBuilder,
        front: Front,
        *,
        beside: bool = False,
    ) -> None:
        self._was_ready = False
        self._last: _Happening = "stop"
        self._event_loop = asyncio.get_running_loop()
        self._bundle = bundle
        self._settings = settings
        self._build_engine = build_engine
        self._front = front
        self._beside = beside
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        if settings.device != "cpu":
            self._registry.register(
                GpuCollector(Driver(settings.device, os.environ.get("CUDA_VISIBLE_DEVICES")))
            )
        self._metrics = WorkerMetrics(self._registry)
        self._metrics.bundle.labels(bundle.manifest.model_version, bundle.manifest.catalog_version).set(1)
        self._scheduler = Scheduler(settings.max_queue)
        self._metrics.num_waiting.set_function(lambda: self._scheduler.num_waiting)
        self._happened: asyncio.Queue[_Happening] = asyncio.Queue()
        self.engine_loop = EngineLoop(
            self._build,
            self._scheduler,
            self._metrics,
            on_ready=lambda: self._tell("ready"),
            on_end=lambda: self._tell("ended"),
        )

    @property
    def has_failed(self) -> bool:
        """Whether it ended because its engine failed while it served, so that only a new process can go on."""
        failed = self._last == "hung" or (self._last == "ended" and self.engine_loop.failure is not None)
        return self._was_ready and failed

    async def live(self) -> None:
        """Listen, load, serve, drain; returns after `stop`, or when the engine failed while it served.

        Raises:
            InputError: the front's address, or the metrics' port, is in use.
            Exception: whatever `build_engine` raises.
        """
        watching = asyncio.create_task(self._watch())
        try:
            await self._serve()
        finally:
            watching.cancel()
        if self._last == "ended" and not self._was_ready and self.engine_loop.failure:
            raise self.engine_loop.failure

    def stop(self) -> None:
        """Have `live` finish the lists that run and return; called on the event loop."""
        self._happened.put_nowait("stop")

    async def _watch(self) -> None:
        """Have it end when a step of the engine takes too long."""
        while self.engine_loop.busy_seconds <= self._settings.hang_seconds:
            await asyncio.sleep(_WATCH_SECONDS)
        _log.error("the engine hangs", seconds=self._settings.hang_seconds)
        self._happened.put_nowait("hung")

    async def _serve(self) -> None:
        settings, manifest = self._settings, self._bundle.manifest
        with metrics_server(
            settings.metrics_host, settings.metrics_port, self._registry, beside=self._beside
        ):
            address = await self._front.start()
            _log.info("worker starting", address=address, model_version=manifest.model_version)
            self.engine_loop.start()
            self._last = await self._happened.get()
            if self._last == "ready":
                self._was_ready = True
                await self._front.serve(
                    DecodeHandler(manifest, self._scheduler, settings.max_batch, self._metrics)
                )
                self._metrics.ready.set(1)
                _log.info("worker ready", address=address)
                self._last = await self._happened.get()
            await self._drain()

    async def _drain(self) -> None:
        _log.info("worker draining", num_running=self._scheduler.num_running)
        self._metrics.ready.set(0)
        await self._front.drain()
        self._scheduler.close()
        patience = DRAIN_SECONDS if self._was_ready and self._last != "hung" else 0.0
        if not await asyncio.to_thread(self.engine_loop.join, patience):
            self._scheduler.fail_running(UnavailableError("the worker stopped before the list was written"))
        await self._front.stop(_REPLY_SECONDS)
        failure = self.engine_loop.failure
        _log.info("worker stopped", failure=None if failure is None else repr(failure))

    def _build(self) -> Engine:
        started = time.perf_counter()
        engine = self._build_engine(self._bundle, self._settings)
        warm_up(engine, self._bundle.manifest.decoding)
        engine.begin_service()
        keep_for_good()
        _log.info("engine warm", seconds=round(time.perf_counter() - started, 3))
        return engine

    def _tell(self, what: _Happening) -> None:
        with suppress(RuntimeError):  # the event loop is closed: nobody waited for this engine
            self._event_loop.call_soon_threadsafe(self._happened.put_nowait, what)


def warm_up(engine: Engine, decoding: DecodingDefaults) -> None:
    """Write lists in every way, so that nothing happens for the first time under a caller's deadline."""
    history, num_items = (0,) * decoding.max_history_items, min(10, decoding.max_num_items)
    for request in (
        DecodeRequest("warm-up greedy", history, num_items),
        DecodeRequest("warm-up sampled", history, num_items, temperature=1.0),
        DecodeRequest("warm-up beam", history, num_items, decoding="beam"),
    ):
        engine.add([request])
        while engine.num_running:
            engine.round()
