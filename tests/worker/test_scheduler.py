import threading
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    UnavailableError,
)
from service.types import DecodedItem, DecodedList, DecodeRequest
from service.worker.scheduler import Scheduler


def request(name: str) -> DecodeRequest:
    return DecodeRequest(name, history=(0,), num_items=1)


def decoded(name: str) -> DecodedList:
    return DecodedList(name, (), False, 1, 0, 0.0, 0.0)


class Bench:
    """A scheduler with a clock to turn by hand, and all replies by request."""

    def __init__(self, max_waiting: int = 4) -> None:
        self.now = 100.0
        self.replies: defaultdict[str, list[DecodedList | PadrecError]] = defaultdict(list)
        self.scheduler = Scheduler(max_waiting, clock=lambda: self.now)

    def submit(self, name: str, deadline: float | None = None, priority: int = 0, num_items: int = 1) -> None:
        asked = replace(request(name), priority=priority, num_items=num_items)
        self.scheduler.submit(asked, deadline, lambda outcome: self.replies[name].append(outcome))

    def admit(self, count: int) -> list[str]:
        return [admitted.request_id for admitted, _ in self.scheduler.admit(count)]

    def serve(self, count: int, each: float, num_items: int = 1) -> None:
        """Write so many lists, one after the other, each in so many seconds."""
        for number in range(count):
            self.submit(f"served-{number}", num_items=num_items)
            self.admit(1)
            self.now += each
            self.scheduler.finish(decoded(f"served-{number}"))

    def kinds(self, name: str) -> list[type]:
        return [type(outcome) for outcome in self.replies[name]]


def test_earlier_deadlines_first_then_earlier_arrivals() -> None:
    bench = Bench(max_waiting=6)
    for name, deadline in [("a", None), ("b", 130.0), ("c", 120.0), ("d", None), ("e", 130.0), ("f", 110.0)]:
        bench.submit(name, deadline)
    assert bench.admit(2) == ["f", "c"]
    assert bench.admit(10) == ["b", "e", "a", "d"]
    assert bench.admit(1) == []


def test_a_higher_priority_goes_before_an_earlier_deadline() -> None:
    bench = Bench(max_waiting=6)
    for name, deadline, priority in [("a", 110.0, 0), ("b", None, 2), ("c", 120.0, 2), ("d", 105.0, -1)]:
        bench.submit(name, deadline, priority)
    bench.now = 106.0
    assert bench.admit(10) == ["c", "b", "a"]
    assert bench.kinds("d") == [DeadlineExceededError]


def test_what_cannot_be_written_before_its_deadline_is_refused_at_once() -> None:
    bench = Bench(max_waiting=9)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=0.5)
    for number in range(4):
        bench.submit(f"first-{number}", bench.now + 2.2)
    with pytest.raises(QueueFullError, match="4 requests go first and 1 are being written") as caught:
        bench.submit("a", bench.now + 2.4)  # it would be taken after 2 seconds, and written after 2.6
    assert caught.value.retry_after == pytest.approx(2.0)
    bench.submit("b", bench.now + 2.4, priority=1)
    bench.submit("c", bench.now + 3.2)
    assert bench.admit(9) == ["b", "first-0", "first-1", "first-2", "first-3", "c"]


def test_longer_lists_say_nothing_of_how_long_a_shorter_one_takes() -> None:
    bench = Bench(max_waiting=9)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=0.1)
    bench.serve(5, each=1.5, num_items=20)
    bench.submit("first", bench.now + 0.9)
    bench.submit("short", bench.now + 0.9, num_items=5)
    with pytest.raises(QueueFullError, match="2 requests go first"):
        bench.submit("other long", bench.now + 1.6, num_items=20)


def test_what_would_be_written_too_late_is_refused_though_none_goes_first_unless_nothing_is_in_flight() -> (
    None
):
    bench = Bench(max_waiting=9)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=5.0)
    with pytest.raises(QueueFullError, match="0 requests go first and 1 are being written"):
        bench.submit("a", bench.now + 1.0)
    bench.scheduler.finish(decoded("runs"))
    bench.submit("a", bench.now + 1.0)
    assert bench.admit(1) == ["a"]


def test_a_few_slow_lists_among_many_refuse_nobody() -> None:
    bench = Bench(max_waiting=9)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=0.1)
    bench.serve(2, each=5.0)
    bench.submit("a", bench.now + 1.0)
    assert bench.admit(1) == ["a"]


def test_lists_that_got_late_count_as_what_they_took_until_then() -> None:
    bench = Bench(max_waiting=40)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=0.1)
    for number in range(20):
        bench.submit(f"late-{number}", bench.now + 2.1)
    bench.admit(20)
    bench.submit("a", bench.now + 0.5)
    bench.now += 2.2
    assert len(bench.scheduler.drop_unwanted()) == 20
    with pytest.raises(QueueFullError, match="0 requests go first"):
        bench.submit("b", bench.now + 2.0)
    bench.submit("b", bench.now + 2.7)


def test_what_waited_too_long_is_refused_when_it_leaves_the_queue() -> None:
    bench = Bench(max_waiting=9)
    bench.submit("runs")
    bench.admit(1)
    bench.serve(20, each=0.5)
    bench.submit("a", bench.now + 1.0)
    bench.submit("b", bench.now + 2.0)
    bench.now += 0.6
    assert bench.admit(9) == ["b"]
    [refusal] = bench.replies["a"]
    assert isinstance(refusal, QueueFullError)
    assert "waited so long" in str(refusal)
    bench.submit("c", bench.now + 1.0)
    bench.now += 0.9
    for name in ("runs", "b"):
        bench.scheduler.finish(decoded(name))
    assert bench.admit(9) == ["c"]  # nothing else is in flight


def test_how_long_lists_took_is_forgotten_with_a_pause() -> None:
    bench = Bench(max_waiting=40)
    bench.serve(20, each=5.0)
    for number in range(30):
        bench.submit(f"a-{number}", bench.now + 1.0)
    assert len(bench.admit(40)) == 30


def test_a_list_is_replied_with_its_time_in_the_queue() -> None:
    bench = Bench()
    bench.submit("a")
    bench.now += 2.5
    assert bench.scheduler.admit(1) == [(request("a"), 2.5)]
    bench.now += 1
    bench.scheduler.finish(decoded("a"))
    [outcome] = bench.replies["a"]
    assert isinstance(outcome, DecodedList)
    assert outcome.queue_seconds == 2.5
    assert bench.scheduler.num_running == 0


def test_items_are_told_until_the_reply() -> None:
    bench = Bench()
    told: list[tuple[DecodedItem, ...]] = []
    bench.scheduler.submit(request("a"), None, bench.replies["a"].append, told.append)
    bench.submit("b")
    items = (DecodedItem(3, 0.5),)
    bench.scheduler.tell("a", items)  # it waits
    bench.admit(2)
    bench.scheduler.tell("a", items)
    bench.scheduler.tell("b", items)  # does not want to know
    bench.scheduler.finish(decoded("a"))
    bench.scheduler.tell("a", items)
    assert told == [items]


def test_one_more_than_may_wait_is_refused() -> None:
    bench = Bench(max_waiting=2)
    bench.submit("a")
    bench.submit("b")
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        bench.submit("c")
    bench.admit(1)
    bench.submit("c")
    assert bench.replies == {}


def test_late_requests_make_room() -> None:
    bench = Bench(max_waiting=1)
    bench.submit("a", 101.0)
    bench.now = 101.0
    bench.submit("b")
    assert bench.kinds("a") == [DeadlineExceededError]
    assert bench.admit(2) == ["b"]


def test_retry_after_follows_the_recent_rate() -> None:
    bench = Bench(max_waiting=4)
    for name in "abcdef":
        bench.submit(name)
        if name in "ab":
            bench.admit(1)
    with pytest.raises(QueueFullError) as caught:
        bench.submit("g")
    assert caught.value.retry_after == 1.0  # nothing was served yet

    bench.now += 8
    bench.scheduler.finish(decoded("a"))
    bench.scheduler.finish(decoded("b"))
    with pytest.raises(QueueFullError) as caught:
        bench.submit("g")
    assert caught.value.retry_after == 4 * 8 / 2


def test_retry_after_stays_within_reason_and_forgets_pauses() -> None:
    bench = Bench(max_waiting=1)
    bench.submit("a")
    bench.admit(1)
    bench.now += 3600
    bench.scheduler.finish(decoded("a"))
    bench.submit("b")
    bench.admit(1)
    bench.submit("c")
    bench.now += 0.001
    bench.scheduler.finish(decoded("b"))
    with pytest.raises(QueueFullError) as caught:
        bench.submit("d")
    assert caught.value.retry_after == 0.1
    bench.now += 3600
    with pytest.raises(QueueFullError) as caught:
        bench.submit("d")
    assert caught.value.retry_after == 60.0


def test_what_arrives_late_is_refused() -> None:
    bench = Bench()
    with pytest.raises(DeadlineExceededError):
        bench.submit("a", 100.0)
    assert bench.scheduler.num_waiting == 0


def test_what_gets_late_while_it_waits_or_runs_is_told_so() -> None:
    bench = Bench()
    bench.submit("runs", 110.0)
    bench.admit(1)
    bench.submit("waits", 110.0)
    bench.submit("in time", 111.0)
    assert bench.scheduler.drop_unwanted() == set()
    bench.now = 110.0
    assert bench.scheduler.drop_unwanted() == {"runs"}
    assert bench.kinds("runs") == bench.kinds("waits") == [DeadlineExceededError]
    assert bench.scheduler.num_waiting == 1


def test_cancelled_while_it_waits() -> None:
    bench = Bench()
    bench.submit("a")
    bench.submit("b")
    bench.scheduler.cancel("a")
    assert bench.kinds("a") == [CancelledByCallerError]
    assert bench.scheduler.drop_unwanted() == set()
    assert bench.admit(2) == ["b"]


def test_cancelled_while_it_runs() -> None:
    bench = Bench()
    bench.submit("a")
    bench.admit(1)
    bench.scheduler.cancel("a")
    assert bench.kinds("a") == [CancelledByCallerError]
    assert bench.scheduler.wait(), "the engine must hear of it"
    assert bench.scheduler.drop_unwanted() == {"a"}
    assert bench.scheduler.drop_unwanted() == set()


def test_finished_after_it_was_cancelled() -> None:
    bench = Bench()
    bench.submit("a")
    bench.admit(1)
    bench.scheduler.cancel("a")
    bench.scheduler.finish(decoded("a"))
    assert bench.kinds("a") == [CancelledByCallerError]
    assert bench.scheduler.drop_unwanted() == set()


def test_cancelling_the_unknown_changes_nothing() -> None:
    bench = Bench()
    bench.scheduler.cancel("a")
    bench.submit("a")
    assert bench.admit(1) == ["a"]


def test_an_id_may_return_only_when_it_left() -> None:
    bench = Bench()
    bench.submit("a")
    for leave in (lambda: bench.admit(1), lambda: bench.scheduler.cancel("a")):
        with pytest.raises(UnavailableError, match="request 'a' is still in flight"):
            bench.submit("a")
        leave()
    with pytest.raises(UnavailableError):
        bench.submit("a")  # the engine still has it
    bench.scheduler.drop_unwanted()
    bench.submit("a")


def test_failing_what_runs_leaves_what_waits() -> None:
    bench = Bench()
    for name in "abc":
        bench.submit(name)
    bench.admit(2)
    bench.scheduler.fail_running(PadrecError("broken"))
    assert bench.kinds("a") == bench.kinds("b") == [PadrecError]
    assert bench.scheduler.drop_unwanted() == {"a", "b"}
    assert bench.admit(2) == ["c"]


def test_closing_refuses_what_waits_and_lets_run_what_runs() -> None:
    bench = Bench()
    bench.submit("runs")
    bench.admit(1)
    bench.submit("waits")
    bench.scheduler.close()
    assert bench.kinds("waits") == [UnavailableError]
    with pytest.raises(UnavailableError, match="draining"):
        bench.submit("late comer")
    assert bench.scheduler.wait()
    bench.scheduler.finish(decoded("runs"))
    assert bench.kinds("runs") == [DecodedList]
    assert not bench.scheduler.wait()


@pytest.mark.parametrize("wake", ["submit", "close"])
def test_waiting_ends_with_work_or_the_end(wake: str) -> None:
    bench = Bench()
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(bench.scheduler.wait()))
    waiter.start()
    if wake == "submit":
        bench.submit("a")
    else:
        bench.scheduler.close()
    waiter.join(30)
    assert answers == [wake == "submit"]


class ExactlyOneReply(RuleBasedStateMachine):
    """Whatever happens in whatever order, each accepted request gets one reply and no refused one does."""

    MAX_WAITING = 3
    MAX_BATCH = 2

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(self.MAX_WAITING)
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self.in_engine: set[str] = set()
        self.closed = False

    @rule(seconds=st.none() | st.integers(-1, 5))
    def submit(self, seconds: int | None) -> None:
        name = str(len(self.accepted) + len(self.refused))
        try:
            self.bench.submit(name, None if seconds is None else self.bench.now + seconds)
            self.accepted.append(name)
        except UnavailableError:
            self.refused.append(name)
            assert self.closed
        except QueueFullError:
            self.refused.append(name)
            assert self.bench.scheduler.num_waiting == self.MAX_WAITING
        except DeadlineExceededError:
            self.refused.append(name)
            assert seconds is not None
            assert seconds <= 0

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.bench.scheduler.cancel(data.draw(st.sampled_from(self.accepted)))

    @rule(seconds=st.integers(1, 3))
    def let_time_pass(self, seconds: int) -> None:
        self.bench.now += seconds

    @rule()
    def drop(self) -> None:
        unwanted = self.bench.scheduler.drop_unwanted()
        assert unwanted <= self.in_engine
        self.in_engine -= unwanted
        assert all(self.bench.replies[name] for name in unwanted)

    @rule()
    def admit(self) -> None:
        admitted = self.bench.admit(self.MAX_BATCH - len(self.in_engine))
        assert not any(self.bench.replies[name] for name in admitted)
        self.in_engine.update(admitted)

    @precondition(lambda self: self.in_engine)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_engine)))
        self.in_engine.remove(name)
        self.bench.scheduler.finish(decoded(name))
        assert self.bench.replies[name]

    @rule()
    def fail(self) -> None:
        self.bench.scheduler.fail_running(PadrecError("broken"))

    @rule()
    @precondition(lambda self: len(self.accepted) > 5)
    def close(self) -> None:
        self.bench.scheduler.close()
        self.closed = True

    @invariant()
    def nothing_is_counted_twice(self) -> None:
        replied = Counter(name for name, outcomes in self.bench.replies.items() for _ in outcomes)
        assert max(replied.values(), default=1) == 1
        assert not set(replied) & set(self.refused)
        scheduler = self.bench.scheduler
        assert scheduler.num_waiting <= self.MAX_WAITING
        assert scheduler.num_running <= len(self.in_engine) <= self.MAX_BATCH
        assert scheduler.num_waiting + scheduler.num_running == len(self.accepted) - replied.total()

    def teardown(self) -> None:
        self.bench.scheduler.close()
        for name in self.in_engine:
            self.bench.scheduler.finish(decoded(name))
        assert not self.bench.scheduler.wait()
        assert all(len(self.bench.replies[name]) == 1 for name in self.accepted)


ExactlyOneReply.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestExactlyOneReply = ExactlyOneReply.TestCase
