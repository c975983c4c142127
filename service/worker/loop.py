"""The engine's thread: the only one that touches the engine."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog

from service.errors import PadrecError, UnavailableError
from service.telemetry.metrics import WorkerMetrics
from service.types import DecodedItem, DecodedList, DecodeRequest
from service.worker.scheduler import Scheduler


class Engine(Protocol):
    """Writes lists, a round at a time.

    Attributes:
        max_batch: lists in flight, at most.
        num_rounds: passes over the lists in flight so far.
        batch: lists that the latest of them read.
    """

    max_batch: int

    num_rounds: int
    batch: int

    @property
    def guessing(self) -> str:
        """What the latest round guessed: `none`, or a tree's label."""
        ...

    @property
    def num_captured(self) -> int:
        """Graphs, since memory moved last; 0 where there are none."""
        ...

    @property
    def prefix_counts(self) -> tuple[int, int]:
        """Prompts so far that might have been known, and those of which a beginning was."""
        ...

    def begin_service(self) -> None:
        """From now on callers wait for whatever is done for the first time."""
        ...

    @property
    def num_running(self) -> int:
        """Lists in flight."""
        ...

    def add(self, requests: Sequence[DecodeRequest]) -> None:
        """Prefill these requests; they run from the next round on."""
        ...

    def drop(self, request_ids: Collection[str]) -> None:
        """Forget these requests; unknown IDs are ignored."""
        ...

    def round(self) -> list[DecodedList]:
        """One pass for all lists in flight, unless some are finished without it; those that are finished."""
        ...

    def news(self) -> list[tuple[str, tuple[DecodedItem, ...]]]:
        """By request, the items that streamed lists in flight gained since this was asked last."""
        ...


class EngineLoop:
    """Makes an engine and runs it on a thread until the scheduler is closed and nothing runs any more.

    Args:
        build: makes the engine, warm, on the thread that will use it.
        scheduler: where requests come from and replies go.
        metrics: where rounds are counted.
        on_ready: called on the thread when the engine is made.
        on_end: called on the thread at its very end; `failure` says why it ended.

    Attributes:
        failure: what ended the loop before its time: an error of `build` or of the device; None otherwise.
    """

    def __init__(
        self,
        build: Callable[[], Engine],
        scheduler: Scheduler,
        metrics: WorkerMetrics,
        *,
        on_ready: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.failure: Exception | None = None
        self._build = build
        self._scheduler = scheduler
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_end = on_end
        self._busy_since: float | None = None
        # A daemon: a device that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def busy_seconds(self) -> float:
        """For which the step has run that runs now; 0 between steps."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False: it still runs after `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            engine = self._build()
            self._metrics.captured_graphs.set(engine.num_captured)
            self._on_ready()
            while self._scheduler.wait():
                self._busy_since = time.monotonic()
                self._guarded_step(engine)
                self._busy_since = None
        except Exception as error:
            self.failure = error
            self._scheduler.close()
            self._scheduler.fail_running(UnavailableError("the worker's device failed"))
        self._on_end()

    def _guarded_step(self, engine: Engine) -> None:
        """One step; an error that is not the device's costs the requests in the engine, not the worker."""
        try:
            self._step(engine)
        except Exception as error:
            if is_device_error(error):
                raise
            structlog.get_logger(__name__).exception("round failed", num_running=engine.num_running)
            self._scheduler.fail_running(PadrecError("the engine failed to write this list"))
            engine.drop(self._scheduler.drop_unwanted())

    def _step(self, engine: Engine) -> None:
        """Drop what is cancelled or late, admit what fits, run one round, reply to the finished."""
        engine.drop(self._scheduler.drop_unwanted())
        self._admit(engine)
        self._metrics.kv_cache_usage.set(engine.num_running / engine.max_batch)
        self._round(engine)
        self._metrics.kv_cache_usage.set(engine.num_running / engine.max_batch)
        self._metrics.captured_graphs.set(engine.num_captured)

    def _admit(self, engine: Engine) -> None:
        admitted = self._scheduler.admit(engine.max_batch - engine.num_running)
        if not admitted:
            return
        for _, queue_seconds in admitted:
            self._metrics.queue_duration.observe(queue_seconds)
        queries, hits = engine.prefix_counts
        with self._metrics.round_duration.labels("prefill").time():
            engine.add([request for request, _ in admitted])
        self._metrics.prefix_queries.inc(engine.prefix_counts[0] - queries)
        self._metrics.prefix_hits.inc(engine.prefix_counts[1] - hits)

    def _round(self, engine: Engine) -> None:
        """One pass, if any list wants it; what is finished without one has its reply before it, as it might fail."""
        made_pass = False
        while engine.num_running and not made_pass:
            before, started = engine.num_rounds, time.perf_counter()
            finished = engine.round()
            made_pass = engine.num_rounds > before
            if made_pass:
                self._metrics.round_duration.labels("decode").observe(time.perf_counter() - started)
                self._metrics.batch_size.observe(engine.batch)
                self._metrics.rounds.labels(engine.guessing).inc()
            for decoded in finished:
                self._scheduler.finish(decoded)
                self._count(decoded)
        for request_id, items in engine.news():
            self._scheduler.tell(request_id, items)

    def _count(self, decoded: DecodedList) -> None:
        metrics, counts = self._metrics, decoded.speculation
        metrics.forced_tokens.inc(decoded.num_forced_tokens)
        metrics.drafts.inc(counts.num_drafts)
        metrics.draft_tokens.inc(counts.num_draft_tokens)
        metrics.accepted_tokens.inc(counts.num_accepted_tokens)
        for step, accepted in enumerate(counts.accepted_per_position, start=1):
            metrics.accepted_tokens_per_position.labels(str(step)).inc(accepted)
        for slot, accepted in enumerate(counts.accepted_per_slot):
            metrics.accepted_tokens_per_slot.labels(str(slot)).inc(accepted)


def is_device_error(error: Exception) -> bool:
    """Whether the device is lost with this error, so that only a new process can go on.

    Memory that ran out is no such error: it is free again when the requests are dropped. Told by name and
    text, since the loop itself needs no torch.
    """
    if not isinstance(error, RuntimeError) or type(error).__name__ == "OutOfMemoryError":
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA" in str(error)
