"""A worker as a replica of Ray Serve: a whole one, with an engine and a queue of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path

from deploy.ray.answers import Refusal, Update, Written
from deploy.ray.life import Life
from deploy.ray.ports import listen_from
from service.catalog.bundle import Bundle
from service.cli.serving import build_engine
from service.config import Settings, WorkerSettings
from service.rpc.answering import Answering, as_told
from service.rpc.messages import WorkerDescription
from service.telemetry.logs import configure_logging
from service.telemetry.tracing import open_tracing
from service.types import DecodedList, DecodeRequest
from service.worker.handler import DecodeHandler, in_request
from service.worker.process import EXIT_FAILED, end_process
from service.worker.worker import Worker

_POLL_SECONDS = 0.02


class CallsFront:
    """A `service.worker.worker.Front` that is asked by calls of the replica.

    Attributes:
        answering: who answers them.
        is_serving: set when calls are answered.
        num_calls: that are answered now.
    """

    def __init__(self) -> None:
        self.answering = Answering()
        self.is_serving = asyncio.Event()
        self.num_calls = 0

    async def start(self) -> str:
        """See `Front`."""
        return "Ray Serve"

    async def serve(self, handler: DecodeHandler) -> None:
        """See `Front`."""
        self.answering.begin(handler)
        self.is_serving.set()

    async def drain(self) -> None:
        """See `Front`."""
        self.answering.end()

    async def stop(self, grace: float) -> None:
        """See `Front`; Serve itself ends calls that are not answered."""
        until = time.monotonic() + grace
        while self.num_calls and time.monotonic() < until:
            await asyncio.sleep(_POLL_SECONDS)


class WorkerReplica:
    """Answers what `proto/padrec/worker/v1/worker.proto` asks, with records in place of messages.

    Args:
        bundle: the folder, on every machine.
        settings: `worker`, `log` and `tracing`; not where it listens.

    Raises:
        InputError, Exception: what `service.worker.process.run_worker` raises; Serve tries again.
    """

    # Serve awaits it.
    async def __init__(self, bundle: str, settings: Settings) -> None:  # type: ignore[misc]
        configure_logging(settings.log)
        opened = await asyncio.to_thread(Bundle.open, Path(bundle))
        self._tracing = open_tracing(settings.tracing, "padrec-worker")
        self._front = CallsFront()
        self._worker = Worker(opened, _with_free_port(settings.worker), build_engine, self._front)
        self._life = Life(self._worker.live(), self._end_if_failed)
        await self._life.has_begun(self._front.is_serving)

    async def decode(
        self, request: DecodeRequest, catalog_version: str, timeout: float, headers: Mapping[str, str]
    ) -> Written | Refusal:
        """Have a list written; cancelling the call drops the request.

        Args:
            request: rows of the catalogue.
            catalog_version: of the catalogue.
            timeout: seconds until the deadline.
            headers: the request's ID, and of its trace.
        """
        self._front.num_calls += 1
        try:
            with in_request(self._tracing, headers):
                handler, serves = self._front.answering.handler_of(catalog_version)
                decoded = await handler.decode(request, time.monotonic() + timeout)
            return decoded, serves.model_version
        except Exception as error:
            return Refusal.of(as_told(error))
        finally:
            self._front.num_calls -= 1

    async def decode_stream(
        self, request: DecodeRequest, catalog_version: str, timeout: float, headers: Mapping[str, str]
    ) -> AsyncIterator[Update]:
        """As `decode`, and before its answer the items as they are accepted."""
        self._front.num_calls += 1
        try:
            with in_request(self._tracing, headers):
                handler, serves = self._front.answering.handler_of(catalog_version)
                async with aclosing(handler.decode_stream(request, time.monotonic() + timeout)) as updates:
                    async for update in updates:
                        yield ((update, serves.model_version) if isinstance(update, DecodedList) else update)
        except Exception as error:
            yield Refusal.of(as_told(error))
        finally:
            self._front.num_calls -= 1

    async def describe(self) -> WorkerDescription | Refusal:
        """What is served, and how busy it is."""
        try:
            return self._front.answering.handler().describe()
        except Exception as error:
            return Refusal.of(as_told(error))

    async def check_health(self) -> None:
        """For Serve, which replaces a replica where this raises."""
        self._life.check()

    async def end(self) -> None:
        """At the replica's end: what runs is finished."""
        self._worker.stop()
        await self._life.is_over()
        self._tracing.close()

    def _end_if_failed(self) -> None:
        # What a failed engine holds cannot be trusted; a new process is what Serve puts in its place.
        if self._worker.has_failed:
            end_process(EXIT_FAILED)


def _with_free_port(settings: WorkerSettings) -> WorkerSettings:
    """For the metrics, where they have a port."""
    if settings.metrics_port is None:
        return settings
    with listen_from(settings.metrics_host, settings.metrics_port) as listener:
        port = listener.getsockname()[1]
    return settings.model_copy(update={"metrics_port": port})
