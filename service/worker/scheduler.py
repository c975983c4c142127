"""Which requests wait, which run, and the reply that each of them gets: exactly one.

Pure Python, no tensors. The RPC side calls `submit` and `cancel`; the engine's thread calls the rest.
"""

import bisect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    UnavailableError,
)
from service.types import DecodedItem, DecodedList, DecodeRequest

Reply = Callable[[DecodedList | PadrecError], None]
OnItems = Callable[[tuple[DecodedItem, ...]], None]

_RATE_WINDOW = 64
_RATE_NEEDS = 16  # lists, before a request is refused for their sake
_WRITING_QUANTILE = (
    0.9  # of what the latest lists took; expecting the mean, many of those taken would be late
)
_WRITING_MARGIN = 1.2  # times that: batches grow, and the answer has a way to go
_RETRY_AFTER_RANGE = (0.1, 60.0)


@dataclass(slots=True)
class _Ticket:
    """A request on its way.

    Attributes:
        deadline: by the scheduler's clock; infinity where the caller named none.
        number: rises with arrival.
        on_items: told of items before the reply.
        queue_seconds: filled by `Scheduler.admit`.
    """

    request: DecodeRequest
    deadline: float
    number: int
    arrived: float
    reply: Reply
    on_items: OnItems | None = None
    queue_seconds: float = 0.0

    @property
    def admitted(self) -> float:
        """When it left the queue."""
        return self.arrived + self.queue_seconds

    @property
    def order(self) -> tuple[int, float, int]:
        """What goes first: the higher priority, then the earlier deadline, then the earlier arrival."""
        return -self.request.priority, self.deadline, self.number


class Scheduler:
    """A bounded queue and the requests that left it for the engine.

    A reply is called with a written list or an error, once per submitted request, from whichever thread
    decides it; it must return at once, must not raise, and must not call the scheduler.

    Args:
        max_waiting: requests that may wait; one more is refused.
        clock: seconds that only rise; deadlines are read by it.
    """

    def __init__(self, max_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_waiting = max_waiting
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: list[_Ticket] = []  # sorted by `order`
        self._running: dict[str, _Ticket] = {}
        self._unwanted: set[str] = set()  # has its reply, but is still in the engine
        self._closed = False
        self._finished_at: deque[float] = deque(maxlen=_RATE_WINDOW)
        # Of the latest lists, how many items were asked for and how long it took from the queue to the end.
        self._written: deque[tuple[int, float]] = deque(maxlen=_RATE_WINDOW)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in the engine that still want their list."""
        return len(self._running)

    def submit(
        self,
        request: DecodeRequest,
        deadline: float | None,
        reply: Reply,
        on_items: OnItems | None = None,
    ) -> None:
        """Put a request on the queue, or refuse it at once; `reply` is called only if it is not refused.

        Before it, `on_items` is called with items as they are accepted; the same rules hold for both.

        Raises:
            UnavailableError: the scheduler is closed, or a request with this ID is still in flight.
            DeadlineExceededError: the deadline has passed already.
            QueueFullError: `max_waiting` requests wait, or, at the recent rate and if writing takes as long as it did
                lately, the deadline would pass before this one's list is written.
        """
        with self._changed:
            now = self._clock()
            if self._closed:
                raise UnavailableError("the worker is draining")
            if deadline is not None and deadline <= now:
                raise DeadlineExceededError("the deadline passed before the request arrived")
            self._expire(now)
            if self._is_in_flight(request.request_id):
                raise UnavailableError(f"request '{request.request_id}' is still in flight")
            if len(self._waiting) >= self.max_waiting:
                raise QueueFullError(f"{len(self._waiting)} requests wait already", self._retry_after(now))
            latest = math.inf if deadline is None else deadline
            ticket = _Ticket(request, latest, next(self._numbers), now, reply, on_items)
            place = bisect.bisect(self._waiting, ticket.order, key=lambda waiting: waiting.order)
            # If nothing is in flight it is taken: nobody else would find out that lists are written faster again.
            if self._has_work() and now + self._seconds_until_written(place, request, now) > latest:
                raise QueueFullError(
                    f"{place} requests go first and {len(self._running)} are being written; "
                    "that takes longer than its deadline allows",
                    self._retry_after(now),
                )
            if not self._waiting and not self._running:
                # What was served before a pause says nothing of the rate from here on.
                self._finished_at.clear()
                self._written.clear()
                self._finished_at.append(now)
            self._waiting.insert(place, ticket)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """The caller went away: reply CancelledByCallerError, unless the request has its reply already."""
        with self._changed:
            gone = CancelledByCallerError("the caller went away")
            for i, ticket in enumerate(self._waiting):
                if ticket.request.request_id == request_id:
                    self._waiting.pop(i).reply(gone)
                    return
            if ticket_running := self._running.pop(request_id, None):
                self._unwanted.add(request_id)
                ticket_running.reply(gone)

    def wait(self) -> bool:
        """Wait until there is something to do; False: closed, and nothing is left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work() or self._closed)
            return self._has_work()

    def drop_unwanted(self) -> set[str]:
        """Reply to whatever is late; the IDs that the engine must forget, cancelled ones included."""
        with self._changed:
            now = self._clock()
            self._expire(now)
            for request_id in [name for name, ticket in self._running.items() if ticket.deadline <= now]:
                self._unwanted.add(request_id)
                ticket = self._running.pop(request_id)
                self._note_written(ticket, now)  # it would have taken longer yet
                ticket.reply(_late())
            unwanted, self._unwanted = self._unwanted, set()
            return unwanted

    def admit(self, count: int) -> list[tuple[DecodeRequest, float]]:
        """Take up to `count` requests off the queue, each with its seconds there; they run from now on.

        Those that waited so long that their deadline would pass before they are written are refused after all.
        """
        with self._changed:
            now = self._clock()
            self._expire(now)
            admitted: list[_Ticket] = []
            while self._waiting and len(admitted) < count:
                ticket = self._waiting.pop(0)
                # As in `submit`: one is taken if nothing else is in flight.
                is_alone = not (self._running or admitted)
                if (
                    not is_alone
                    and now + self._seconds_until_written(0, ticket.request, now) > ticket.deadline
                ):
                    refusal = "it waited so long that its deadline would pass before its list is written"
                    ticket.reply(QueueFullError(refusal, self._retry_after(now)))
                    continue
                ticket.queue_seconds = now - ticket.arrived
                admitted.append(ticket)
            self._running.update({ticket.request.request_id: ticket for ticket in admitted})
            return [(ticket.request, ticket.queue_seconds) for ticket in admitted]

    def tell(self, request_id: str, items: tuple[DecodedItem, ...]) -> None:
        """Items of a list that is not finished were accepted; ignored once the request has its reply."""
        with self._changed:
            ticket = self._running.get(request_id)
            if ticket is not None and ticket.on_items is not None:
                ticket.on_items(items)

    def finish(self, decoded: DecodedList) -> None:
        """Reply with a written list, unless its request was cancelled meanwhile."""
        with self._changed:
            self._unwanted.discard(decoded.request_id)
            if ticket := self._running.pop(decoded.request_id, None):
                now = self._clock()
                self._finished_at.append(now)
                self._note_written(ticket, now)
                ticket.reply(replace(decoded, queue_seconds=ticket.queue_seconds))

    def fail_running(self, error: PadrecError) -> None:
        """Reply `error` to all that run; `drop_unwanted` names them next."""
        with self._changed:
            self._unwanted.update(self._running)
            for ticket in self._running.values():
                ticket.reply(error)
            self._running.clear()

    def close(self) -> None:
        """Take no more requests and refuse those that wait; those that run go on."""
        with self._changed:
            self._closed = True
            for ticket in self._waiting:
                ticket.reply(UnavailableError("the worker is draining"))
            self._waiting.clear()
            self._changed.notify()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._running or self._unwanted)

    def _is_in_flight(self, request_id: str) -> bool:
        return (
            request_id in self._running
            or request_id in self._unwanted
            or any(ticket.request.request_id == request_id for ticket in self._waiting)
        )

    def _expire(self, now: float) -> None:
        late = [ticket for ticket in self._waiting if ticket.deadline <= now]
        if late:
            self._waiting = [ticket for ticket in self._waiting if ticket.deadline > now]
        for ticket in late:
            ticket.reply(_late())

    def _retry_after(self, now: float) -> float:
        """Seconds until the queue, as it stands, is served at the recent rate."""
        seconds = self._seconds_per_list(now, at_least=1)
        if seconds is None:
            return 1.0
        shortest, longest = _RETRY_AFTER_RANGE
        return min(max(len(self._waiting) * seconds, shortest), longest)

    def _note_written(self, ticket: _Ticket, now: float) -> None:
        self._written.append((ticket.request.num_items, now - ticket.admitted))

    def _seconds_until_written(self, place: int, request: DecodeRequest, now: float) -> float:
        """Until the list of a request at this place of the queue is there; 0 where too little is known."""
        seconds_per_list = self._seconds_per_list(now)
        if seconds_per_list is None:
            return 0.0
        return place * seconds_per_list + self._writing_seconds(request.num_items)

    def _writing_seconds(self, num_items: int) -> float:
        """What a list of this length takes from the queue to its end, by the latest that are long enough to tell.

        Where all are far shorter, what they took: it takes as long at least.
        """
        seconds = sorted(
            taken * num_items / length for length, taken in self._written if 2 * length >= num_items
        ) or sorted(taken for _, taken in self._written)
        return _WRITING_MARGIN * seconds[int(_WRITING_QUANTILE * len(seconds))] if seconds else 0.0

    def _seconds_per_list(self, now: float, at_least: int = _RATE_NEEDS) -> float | None:
        """Between two lists of the latest that were finished; None where they are fewer than `at_least`."""
        count = len(self._finished_at) - 1
        if count < at_least or now <= self._finished_at[0]:
            return None
        return (now - self._finished_at[0]) / count


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the deadline passed before the list was written")
