"""Where the RPC side meets the engine's thread: requests are checked, queued, and their reply awaited."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from service.catalog.bundle import Manifest
from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from service.rpc.messages import WorkerDescription
from service.telemetry.metrics import WorkerMetrics
from service.telemetry.requests import received, traced
from service.telemetry.tracing import Tracing, past
from service.types import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    MIN_TOP_P,
    DecodedItem,
    DecodedList,
    DecodeRequest,
)
from service.worker.scheduler import Scheduler

_OUTCOMES: tuple[tuple[type[PadrecError], str], ...] = (
    (RequestError, "invalid"),
    (QueueFullError, "queue_full"),
    (DeadlineExceededError, "deadline"),
    (CancelledByCallerError, "cancelled"),
    (UnavailableError, "unavailable"),
)


_log = structlog.get_logger(__name__)


@contextmanager
def in_request(tracing: Tracing, headers: Mapping[str, str]) -> Iterator[None]:
    """Around a request: what it logs has its ID, and its time is part of its trace."""
    received(headers)
    with traced(tracing, "decode", headers) as span:
        try:
            yield
        except Exception as error:
            span.fail(type(error).__name__)
            raise


@dataclass(frozen=True)
class DecodeHandler:
    """Answers the calls of `service.rpc.server`, on the event loop.

    Attributes:
        manifest: of the bundle that is served.
        max_batch: lists that the engine writes at the same time.
    """

    manifest: Manifest
    scheduler: Scheduler
    max_batch: int
    metrics: WorkerMetrics

    async def decode(self, request: DecodeRequest, deadline: float | None) -> DecodedList:
        """Have a list written; cancelling the task that awaits this drops the request at the next round.

        Args:
            request: rows of the manifest's catalogue.
            deadline: by `time.monotonic`; None: no deadline.

        Raises:
            RequestError: a row is outside the catalogue, there is no history or too much, `num_items`, `temperature`
                or `top_p` is out of range, or beams are to be sampled.
            QueueFullError, DeadlineExceededError, UnavailableError, PadrecError: what the scheduler says.
        """
        with self._counted(request):
            check_request(request, self.manifest)
            arrived = time.time_ns()
            written = await self._reply_to(request, deadline)
            _trace(written, arrived)
            return written

    async def decode_stream(
        self, request: DecodeRequest, deadline: float | None
    ) -> AsyncGenerator[tuple[DecodedItem, ...] | DecodedList, None]:
        """As `decode`, and before the list its items as they are accepted, but for those of its last round."""
        with self._counted(request):
            check_request(request, self.manifest)
            arrived = time.time_ns()
            loop = asyncio.get_running_loop()
            updates: asyncio.Queue[tuple[DecodedItem, ...] | DecodedList | PadrecError] = asyncio.Queue()

            def tell(update: tuple[DecodedItem, ...] | DecodedList | PadrecError) -> None:
                loop.call_soon_threadsafe(updates.put_nowait, update)

            self.scheduler.submit(replace(request, stream=True), deadline, tell, tell)
            is_over = False
            try:
                while not is_over:
                    update = await updates.get()
                    is_over = not isinstance(update, tuple)
                    if isinstance(update, PadrecError):
                        raise update
                    if isinstance(update, DecodedList):
                        _trace(update, arrived)
                    yield update
            finally:
                if not is_over:
                    self.scheduler.cancel(request.request_id)

    def describe(self) -> WorkerDescription:
        """What is served now."""
        return WorkerDescription(
            model_version=self.manifest.model_version,
            catalog_version=self.manifest.catalog_version,
            num_running=self.scheduler.num_running,
            max_batch=self.max_batch,
            num_waiting=self.scheduler.num_waiting,
            max_queue=self.scheduler.max_waiting,
        )

    async def _reply_to(self, request: DecodeRequest, deadline: float | None) -> DecodedList:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[DecodedList] = loop.create_future()

        def reply(outcome: DecodedList | PadrecError) -> None:
            loop.call_soon_threadsafe(_settle, future, outcome)

        self.scheduler.submit(request, deadline, reply)
        try:
            return await future
        except asyncio.CancelledError:
            self.scheduler.cancel(request.request_id)
            raise

    @contextmanager
    def _counted(self, request: DecodeRequest) -> Iterator[None]:
        """Count a request, by how it ends, and log that."""
        outcome = "ok"
        try:
            yield
        except PadrecError as error:
            outcome = next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "error")
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self.metrics.requests.labels(outcome).inc()
            log = _log.warning if outcome == "error" else _log.debug
            log("request", outcome=outcome, recommendation_id=request.request_id)


def check_request(request: DecodeRequest, manifest: Manifest) -> None:
    """Check what the target could not read, or the engine not sample.

    Raises:
        RequestError: naming the field at fault.
    """
    decoding = manifest.decoding
    if not 1 <= len(request.history) <= decoding.max_history_items:
        limit = decoding.max_history_items
        raise RequestError("history", f"history has {len(request.history)} items; 1 to {limit} are read")
    if not 1 <= request.num_items <= decoding.max_num_items:
        raise RequestError(
            "num_items", f"num_items is {request.num_items}, not 1 to {decoding.max_num_items}"
        )
    for field, rows in (("history", request.history), ("excluded", request.excluded)):
        if rows and not 0 <= min(rows) <= max(rows) < manifest.num_items:
            raise RequestError(field, f"{field} names a row outside the catalogue's {manifest.num_items}")
    if request.allowed is not None and len(request.allowed) != (manifest.num_items + 7) // 8:
        raise RequestError(
            "allowed", f"allowed has {len(request.allowed)} bytes for {manifest.num_items} rows"
        )
    if request.temperature != 0 and not MIN_TEMPERATURE <= request.temperature <= MAX_TEMPERATURE:
        raise RequestError(
            "temperature",
            f"temperature is {request.temperature}, neither 0 nor {MIN_TEMPERATURE} to {MAX_TEMPERATURE}",
        )
    if request.decoding == "beam" and request.temperature:
        raise RequestError(
            "temperature", f"temperature is {request.temperature}, and beam decoding takes none"
        )
    if not MIN_TOP_P <= request.top_p <= 1:
        raise RequestError("top_p", f"top_p is {request.top_p}, not {MIN_TOP_P} to 1")


def _trace(written: DecodedList, arrived: int) -> None:
    """Tell the trace what the engine's thread did for a list, by the list's own timings.

    That thread has nothing to do with traces, and nothing more to do for them.

    Args:
        written: the list.
        arrived: when it was asked for, in nanoseconds since the epoch.
    """
    admitted = arrived + _nanoseconds(written.queue_seconds)
    decoding = admitted + _nanoseconds(written.prefill_seconds)
    past("queue", arrived, admitted)
    past("prefill", admitted, decoding)
    if written.num_round_tokens:  # beams are found by the prefill
        counts = written.speculation
        rounds = {
            "padrec.num_rounds": written.num_rounds,
            "padrec.num_items": len(written.items),
            "padrec.num_tokens": written.num_round_tokens,
            "padrec.num_forced_tokens": written.num_round_forced_tokens,
            "padrec.num_draft_tokens": counts.num_draft_tokens,
            "padrec.num_accepted_tokens": counts.num_accepted_tokens,
        }
        past("rounds", decoding, decoding + _nanoseconds(written.decode_seconds), rounds)


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)


def _settle(future: asyncio.Future[DecodedList], outcome: DecodedList | PadrecError) -> None:
    if future.done():  # the caller went away while the reply was on its way
        return
    if isinstance(outcome, PadrecError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
