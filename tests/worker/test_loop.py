import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    InputError,
    PadrecError,
    UnavailableError,
)
from service.telemetry.metrics import WorkerMetrics
from service.types import DecodedItem, DecodedList, DecodeRequest, Decoding
from service.worker.loop import EngineLoop, is_device_error
from service.worker.scheduler import Scheduler

LONG = 30.0


class AcceleratorError(RuntimeError):
    """Of the same name as torch's."""


class OutOfMemoryError(RuntimeError):
    """Of the same name as torch's."""


class Bench:
    """A loop around a fake engine, and the replies in the order in which they came."""

    def __init__(self, engine: Any, max_waiting: int = 8) -> None:
        self.engine = engine
        self.now = 0.0
        self.replies: queue.Queue[tuple[str, DecodedList | PadrecError]] = queue.Queue()
        self.scheduler = Scheduler(max_waiting, clock=lambda: self.now)
        self.registry = CollectorRegistry()
        self.ready, self.ended = threading.Event(), threading.Event()
        self.loop = EngineLoop(
            self.build,
            self.scheduler,
            WorkerMetrics(self.registry),
            on_ready=self.ready.set,
            on_end=self.ended.set,
        )

    def build(self) -> Any:
        if isinstance(self.engine, Exception):
            raise self.engine
        return self.engine

    def submit(
        self, name: str, rounds: int = 1, deadline: float | None = None, decoding: Decoding = "list"
    ) -> None:
        request = DecodeRequest(name, history=(0,), num_items=rounds, decoding=decoding)
        self.scheduler.submit(request, deadline, lambda outcome: self.replies.put((name, outcome)))

    def next_replies(self, count: int) -> dict[str, type]:
        replies = dict(self.replies.get(timeout=LONG) for _ in range(count))
        return {name: type(outcome) for name, outcome in replies.items()}

    def calls(self, call: str) -> list[list[str]]:
        return [names for kind, names in self.engine.log if kind == call]

    def stop(self) -> None:
        self.scheduler.close()
        if self.ready.is_set() and self.engine.permits is not None:
            self.engine.permits.release(1000)
        assert self.loop.join(LONG)


@pytest.fixture
def start() -> Iterator[Callable[[Any], Bench]]:
    benches: list[Bench] = []

    def started(engine: Any) -> Bench:
        benches.append(Bench(engine))
        return benches[-1]

    yield started
    for bench in benches:
        bench.stop()
        assert bench.ended.is_set()
        assert bench.replies.empty()


def test_lists_are_written_and_counted(start, fake_engine) -> None:
    bench = start(fake_engine(max_batch=2))
    for name in "abc":
        bench.submit(name, rounds=2)
    bench.loop.start()
    assert bench.next_replies(3) == dict.fromkeys("abc", DecodedList)
    assert bench.calls("add") == [["a", "b"], ["c"]]
    assert bench.calls("round") == [["a", "b"], ["a", "b"], ["c"], ["c"]]

    bench.stop()
    count = bench.registry.get_sample_value
    assert count("padrec_forced_tokens_total") == 9
    assert count("padrec_queue_duration_seconds_count") == 3
    assert count("padrec_batch_size_sum") == 6
    assert count("padrec_spec_decode_rounds_total", {"tree": "4x1x20"}) == count("padrec_batch_size_count")
    assert count("padrec_prefix_cache_queries_total") == 3
    assert count("padrec_prefix_cache_hits_total") == 2
    assert count("padrec_kv_cache_usage_ratio") == 0
    assert count("padrec_captured_graphs") == 3
    assert count("padrec_round_duration_seconds_count", {"phase": "prefill"}) == 2
    assert count("padrec_round_duration_seconds_count", {"phase": "decode"}) == 4


def test_what_became_of_the_guesses_is_counted(start, fake_engine) -> None:
    bench = start(fake_engine())
    for name in "abc":
        bench.submit(name)
    bench.loop.start()
    bench.next_replies(3)
    bench.stop()
    count, prefix = bench.registry.get_sample_value, "padrec_spec_decode_num"
    assert count(f"{prefix}_drafts_total") == 6
    assert count(f"{prefix}_draft_tokens_total") == 24
    assert count(f"{prefix}_accepted_tokens_total") == 9
    positions = [count(f"{prefix}_accepted_tokens_per_pos_total", {"position": p}) for p in "0123"]
    assert positions == [None, 6, 3, None]
    slots = [count(f"{prefix}_accepted_tokens_per_slot_total", {"slot": slot}) for slot in "0123"]
    assert slots == [0, 3, 6, None]


def test_streamed_lists_tell_their_items_between_rounds(start, fake_engine) -> None:
    bench = start(fake_engine())
    told: list[tuple[DecodedItem, ...]] = []
    request = DecodeRequest("r", history=(0,), num_items=3, stream=True)
    bench.scheduler.submit(request, None, lambda outcome: bench.replies.put(("r", outcome)), told.append)
    bench.loop.start()
    bench.next_replies(1)
    bench.stop()
    assert told == [(DecodedItem(0, 0.5),), (DecodedItem(1, 0.5),)]  # the last one comes with the list


def test_requests_join_and_leave_between_rounds(start, fake_engine) -> None:
    permits = threading.Semaphore(0)
    bench = start(fake_engine(max_batch=2, permits=permits))
    bench.submit("long", rounds=3)
    bench.submit("short", rounds=1)
    bench.submit("next", rounds=2)
    bench.loop.start()
    permits.release(3)
    assert bench.next_replies(3) == dict.fromkeys(["long", "short", "next"], DecodedList)
    assert bench.calls("round") == [["long", "short"], ["long", "next"], ["long", "next"]]


def test_an_idle_loop_wakes_up(start, fake_engine) -> None:
    bench = start(fake_engine())
    bench.loop.start()
    for name in "abc":
        bench.submit(name)
        assert bench.next_replies(1) == {name: DecodedList}


def test_cancelled_and_late_requests_leave_the_engine(start, fake_engine) -> None:
    permits = threading.Semaphore(0)
    bench = start(fake_engine(max_batch=3, permits=permits))
    bench.submit("cancelled", rounds=9)
    bench.submit("late", rounds=9, deadline=5.0)
    bench.submit("stays", rounds=3)
    bench.submit("waits", rounds=1, deadline=6.0)
    bench.now = 1.0
    # The earliest deadlines run: 'stays' waits for a place.
    bench.loop.start()
    permits.release(1)
    assert bench.next_replies(1) == {"waits": DecodedList}
    bench.scheduler.cancel("cancelled")
    bench.now = 5.0
    permits.release(9)
    assert bench.next_replies(3) == {
        "cancelled": CancelledByCallerError,
        "late": DeadlineExceededError,
        "stays": DecodedList,
    }
    bench.stop()
    assert sorted(name for names in bench.calls("drop") for name in names) == ["cancelled", "late"]
    assert bench.engine.num_running == 0


@pytest.mark.parametrize("call", ["add", "round"])
def test_an_engine_error_costs_only_what_runs(start, fake_engine, call: str) -> None:
    engine = fake_engine(max_batch=2)
    engine.errors[call].append(ValueError("a bug"))
    bench = start(engine)
    for name in "abc":
        bench.submit(name)
    with capture_logs() as logs:
        bench.loop.start()
        assert bench.next_replies(3) == {"a": PadrecError, "b": PadrecError, "c": DecodedList}
    assert [(line["event"], line["num_running"]) for line in logs] == [("round failed", 2)]
    assert bench.calls("drop") == [["a", "b"]]
    assert bench.loop.failure is None


def test_what_is_finished_without_a_pass_is_no_round_and_is_not_lost_with_one(start, fake_engine) -> None:
    engine = fake_engine(max_batch=3)
    engine.errors["round"].append(ValueError("a bug"))
    bench = start(engine)
    bench.submit("list")
    bench.submit("beam", decoding="beam")
    with capture_logs():
        bench.loop.start()
        assert bench.next_replies(2) == {"beam": DecodedList, "list": PadrecError}
    bench.submit("another beam", decoding="beam")
    assert bench.next_replies(1) == {"another beam": DecodedList}
    bench.stop()
    count = bench.registry.get_sample_value
    assert count("padrec_round_duration_seconds_count", {"phase": "prefill"}) == 2
    assert not count("padrec_batch_size_count")
    assert not count("padrec_round_duration_seconds_count", {"phase": "decode"})


@pytest.mark.parametrize("call", ["add", "round"])
def test_a_device_error_ends_the_loop(start, fake_engine, call: str) -> None:
    engine = fake_engine(max_batch=2)
    engine.errors[call].append(error := RuntimeError("CUDA error: an illegal memory access"))
    bench = start(engine)
    for name in "abc":
        bench.submit(name)
    bench.loop.start()
    assert bench.next_replies(3) == dict.fromkeys("abc", UnavailableError)
    assert bench.ended.wait(LONG)
    assert bench.loop.failure is error


def test_an_engine_that_cannot_even_drop_ends_the_loop(start, fake_engine) -> None:
    engine = fake_engine()
    engine.errors["round"].append(ValueError("a bug"))
    engine.errors["drop"].append(error := ValueError("another"))
    bench = start(engine)
    bench.submit("a")
    with capture_logs():
        bench.loop.start()
        assert bench.ended.wait(LONG)
    assert bench.next_replies(1) == {"a": PadrecError}
    assert bench.loop.failure is error


def test_an_engine_that_cannot_be_built(start) -> None:
    bench = start(error := InputError("no such device: cuda:9"))
    bench.loop.start()
    assert bench.ended.wait(LONG)
    assert bench.loop.failure is error
    assert not bench.ready.is_set()


def test_draining_finishes_what_runs(start, fake_engine) -> None:
    permits = threading.Semaphore(0)
    bench = start(fake_engine(max_batch=1, permits=permits))
    bench.submit("first", rounds=1)
    bench.submit("runs", rounds=2)
    bench.submit("waits")
    bench.loop.start()
    permits.release(2)
    assert bench.next_replies(1) == {"first": DecodedList}
    while bench.engine.log.count(("round", ["runs"])) < 1:
        threading.Event().wait(0.001)
    bench.scheduler.close()
    assert bench.next_replies(1) == {"waits": UnavailableError}
    assert not bench.loop.join(0)
    permits.release()
    assert bench.next_replies(1) == {"runs": DecodedList}
    assert bench.loop.join(LONG)
    assert bench.loop.failure is None


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (AcceleratorError("the device is gone"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA"), False),
    ],
)
def test_which_errors_are_the_devices(error: Exception, lost: bool) -> None:
    assert is_device_error(error) is lost
