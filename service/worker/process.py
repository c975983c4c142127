"""The worker as a process."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from service.catalog.bundle import Bundle, DecodingDefaults
from service.config import Settings, WorkerSettings
from service.errors import UnavailableError
from service.processes import beat, end_with_supervisor
from service.rpc.server import WorkerServer
from service.rpc.tls import server_tls
from service.telemetry.gpu import Driver, GpuCollector
from service.telemetry.logs import configure_logging
from service.telemetry.metrics import WorkerMetrics
from service.telemetry.tracing import Tracing, open_tracing
from service.types import DecodeRequest
from service.worker.handler import DecodeHandler, in_request
from service.worker.loop import Engine, EngineLoop
from service.worker.metrics_server import metrics_server
from service.worker.scheduler import Scheduler

EngineBuilder = Callable[[Bundle, WorkerSettings], Engine]
_Happening = Literal["ready", "stop", "ended", "hung"]

# The exit code that says: the bundle and the settings are fine, start me again.
EXIT_FAILED = 70

# Lists that run may end after the signal to stop; less than the supervisor's patience.
DRAIN_SECONDS = 8.0
_REPLY_SECONDS = 1.0
_WATCH_SECONDS = 0.5

_log = structlog.get_logger(__name__)


def run_worker(
    bundle: Path, settings: Settings, build_engine: EngineBuilder, *, beside: bool = False
) -> None:
    """Serve a bundle until SIGINT or SIGTERM, then finish the lists that run and return.

    Call it in the main thread, which is the one that gets signals. An engine that fails while it serves ends
    the process with `EXIT_FAILED`; what it holds cannot be trusted any more, nor taken down in order.

    Args:
        bundle: the folder; every file is checked.
        settings: `worker` and `log`.
        build_engine: loads the target; called on the engine's thread.
        beside: it takes the place of another worker, which may have the metrics' port still.

    Raises:
        InputError: the address is in use, or a setting is wrong.
        BundleError: the bundle is torn.
        Exception: whatever `build_engine` raises.
    """
    configure_logging(settings.log)
    end_with_supervisor()
    opened = Bundle.open(bundle)
    tracing = open_tracing(settings.tracing, "padrec-worker")
    try:
        worker = asyncio.run(_Worker.live(opened, settings.worker, build_engine, beside, tracing))
    finally:
        tracing.close()
    failure = worker.engine_loop.failure
    if worker.last == "hung":
        end_process(EXIT_FAILED)
    if worker.last == "ended" and failure:
        if not worker.was_ready:
            raise failure
        end_process(EXIT_FAILED)
    if not worker.engine_loop.join(0):
        end_process(0)


class _Worker:
    """Everything in the process, from start to end; made inside the event loop.

    Attributes:
        was_ready: whether it came to serve.
        last: what made it end: a signal, or the engine's thread, which ended or hangs; filled by `live`.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: WorkerSettings,
        build_engine: EngineBuilder,
        beside: bool,
        tracing: Tracing,
    ) -> None:
        self.was_ready = False
        self.last: _Happening = "stop"
        self._event_loop = asyncio.get_running_loop()
        self._bundle = bundle
        self._settings = settings
        self._build_engine = build_engine
        self._beside = beside
        self._tracing = tracing
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

    @classmethod
    async def live(
        cls,
        bundle: Bundle,
        settings: WorkerSettings,
        build_engine: EngineBuilder,
        beside: bool,
        tracing: Tracing,
    ) -> "_Worker":
        """Listen, load, serve, drain; the worker as it is in the end."""
        worker = cls(bundle, settings, build_engine, beside, tracing)
        await worker._run()
        return worker

    async def _run(self) -> None:
        beating, watching = asyncio.create_task(beat()), asyncio.create_task(self._watch())
        try:
            await self._serve()
        finally:
            beating.cancel()
            watching.cancel()

    async def _watch(self) -> None:
        """Have the process end when a step of the engine takes too long."""
        while self.engine_loop.busy_seconds <= self._settings.hang_seconds:
            await asyncio.sleep(_WATCH_SECONDS)
        _log.error("the engine hangs", seconds=self._settings.hang_seconds)
        self._happened.put_nowait("hung")

    async def _serve(self) -> None:
        settings = self._settings
        server = WorkerServer(settings.listen, server_tls(settings), partial(in_request, self._tracing))
        with ExitStack() as stack:
            stack.enter_context(
                metrics_server(
                    settings.metrics_host, settings.metrics_port, self._registry, beside=self._beside
                )
            )
            address = await server.start()
            manifest = self._bundle.manifest
            _log.info("worker starting", address=address, model_version=manifest.model_version)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._event_loop.add_signal_handler(number, self._happened.put_nowait, "stop")
            self.engine_loop.start()
            self.last = await self._happened.get()
            if self.last == "ready":
                self.was_ready = True
                await server.serve(
                    DecodeHandler(manifest, self._scheduler, self._settings.max_batch, self._metrics)
                )
                self._metrics.ready.set(1)
                _log.info("worker ready", address=address)
                self.last = await self._happened.get()
            await self._drain(server)

    async def _drain(self, server: WorkerServer) -> None:
        _log.info("worker draining", num_running=self._scheduler.num_running)
        self._metrics.ready.set(0)
        await server.drain()
        self._scheduler.close()
        patience = DRAIN_SECONDS if self.was_ready and self.last != "hung" else 0.0
        if not await asyncio.to_thread(self.engine_loop.join, patience):
            self._scheduler.fail_running(UnavailableError("the worker stopped before the list was written"))
        await server.stop(_REPLY_SECONDS)
        failure = self.engine_loop.failure
        _log.info("worker stopped", failure=None if failure is None else repr(failure))

    def _build(self) -> Engine:
        started = time.perf_counter()
        engine = self._build_engine(self._bundle, self._settings)
        warm_up(engine, self._bundle.manifest.decoding)
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


def end_process(code: int) -> None:
    """End at once: without waiting for the engine's thread, without taking the interpreter down."""
    logging.shutdown()
    os._exit(code)
