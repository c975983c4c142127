"""The worker as a process."""

import asyncio
import logging
import os
import signal
from functools import partial
from pathlib import Path

from service.catalog.bundle import Bundle
from service.config import Settings
from service.processes import beat, end_with_supervisor
from service.rpc.server import WorkerServer
from service.rpc.tls import server_tls
from service.telemetry.logs import configure_logging
from service.telemetry.tracing import Tracing, open_tracing
from service.worker.handler import in_request
from service.worker.worker import EngineBuilder, Worker

# The exit code that says: the bundle and the settings are fine, start me again.
EXIT_FAILED = 70


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
        worker = asyncio.run(_live(opened, settings, build_engine, beside, tracing))
    finally:
        tracing.close()
    if worker.has_failed:
        end_process(EXIT_FAILED)
    if not worker.engine_loop.join(0):
        end_process(0)


async def _live(
    bundle: Bundle, settings: Settings, build_engine: EngineBuilder, beside: bool, tracing: Tracing
) -> Worker:
    """The worker as it is in the end."""
    server = WorkerServer(settings.worker.listen, server_tls(settings.worker), partial(in_request, tracing))
    worker = Worker(bundle, settings.worker, build_engine, server, beside=beside)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    beating = asyncio.create_task(beat())
    try:
        await worker.live()
    finally:
        beating.cancel()
    return worker


def end_process(code: int) -> None:
    """End at once: without waiting for the engine's thread, without taking the interpreter down."""
    logging.shutdown()
    os._exit(code)
