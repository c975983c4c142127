"""A soak: very many mixed requests; is each answered once, and rightly, in memory that does not grow?"""

import heapq
import queue
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from service.catalog.window import window
from service.errors import CancelledByCallerError, DeadlineExceededError, PadrecError, QueueFullError
from service.types import MIN_TEMPERATURE, DecodedList, DecodeRequest

Outcome = DecodedList | PadrecError
Rows = Sequence[int]

_SETTLE_SECONDS = 0.5  # after the last reply, in which a second one would come
_OUTCOMES = {DecodedList: "written", DeadlineExceededError: "late", CancelledByCallerError: "cancelled"}


class Door(Protocol):
    """Where requests go in; see `service.worker.scheduler`."""

    def submit(
        self, request: DecodeRequest, deadline: float | None, reply: Callable[[Outcome], None]
    ) -> None:
        """Take a request, or refuse it with a `PadrecError`; `reply` may be called from another thread."""
        ...

    def cancel(self, request_id: str) -> None:
        """The caller went away."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what its caller does.

    Attributes:
        patience: seconds until its deadline; None: it has none.
        leaves_after: seconds until the caller goes away; None: it stays.
    """

    request: DecodeRequest
    patience: float | None
    leaves_after: float | None


def mixed_requests(
    histories: Sequence[Rows], *, num_rows: int, max_history_items: int, max_num_items: int, seed: int
) -> Iterator[Asked]:
    """Requests without end: lengths, filters, temperatures, beams, priorities, deadlines, callers that go away.

    Args:
        histories: of users, each of at least one item; some come back with more of theirs, some are new.
        num_rows: of the catalogue.
        max_history_items: that the target reads.
        max_num_items: of a list.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        history = histories[int(rng.integers(len(histories)))]
        history = history[: int(rng.integers(1, len(history) + 1))]
        excluded = list(history) if rng.random() < 0.7 else []
        if rng.random() < 0.1:  # a filter: all but a part of the catalogue
            kept = rng.choice(num_rows, size=max(1, int(num_rows * rng.uniform(0.001, 0.5))), replace=False)
            excluded += np.setdiff1d(np.arange(num_rows), kept).tolist()
        is_sampled = rng.random() < 0.2
        is_beam = not is_sampled and rng.random() < 0.1
        request = DecodeRequest(
            request_id=str(number),
            history=window(list(history), max_history_items),
            num_items=int(rng.integers(1, max_num_items + 1))
            if rng.random() < 0.3
            else min(10, max_num_items),
            excluded=tuple(excluded),
            temperature=float(rng.uniform(MIN_TEMPERATURE, 1.5)) if is_sampled else 0.0,
            top_p=float(rng.uniform(0.5, 1.0)) if is_sampled else 1.0,
            seed=number,
            priority=int(rng.integers(-1, 2)),
            decoding="beam" if is_beam else "list",
        )
        yield Asked(
            request,
            patience=float(rng.exponential(0.2)) if rng.random() < 0.1 else None,
            leaves_after=float(rng.exponential(0.1)) if rng.random() < 0.05 else None,
        )
        number += 1


@dataclass
class Soaked:
    """What became of a soak.

    Attributes:
        outcomes: how often each: written, late, cancelled, refused, failed.
        num_twice: replies to requests that had theirs.
        num_wrong: lists of another length than they should have, or with an item that is excluded or stands twice.
        sample: lists written item by item, with their requests, for a comparison.
        memory: what was watched after each tenth of the requests.
        seconds: from the first request to the last reply.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    num_twice: int = 0
    num_wrong: int = 0
    sample: list[tuple[DecodeRequest, DecodedList]] = field(default_factory=list)
    memory: list[Mapping[str, int]] = field(default_factory=list)
    seconds: float = 0.0


def soak(
    asked: Iterator[Asked],
    door: Door,
    *,
    num_requests: int,
    concurrency: int,
    num_rows: int,
    num_sampled: int,
    watch: Callable[[], Mapping[str, int]],
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Soaked:
    """Keep `concurrency` requests on their way until `num_requests` have their replies.

    Args:
        asked: at least as many.
        door: where they go in; a deadline is one of `time.monotonic`.
        num_requests: how many.
        concurrency: on their way at a time.
        num_rows: of the catalogue.
        num_sampled: so many lists written item by item are kept, about evenly spread.
        watch: bytes in use, by what holds them.
        on_progress: called now and then with replies so far, and of how many.
    """
    done, started = Soaked(), time.monotonic()
    replies: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
    on_their_way: dict[str, Asked] = {}
    leaving: list[tuple[float, str]] = []
    num_asked = num_answered = 0
    while num_answered < num_requests:
        while num_asked < num_requests and len(on_their_way) < concurrency:
            one = next(asked)
            name, now = one.request.request_id, time.monotonic()
            num_asked += 1
            on_their_way[name] = one
            if one.leaves_after is not None:
                heapq.heappush(leaving, (now + one.leaves_after, name))
            try:
                deadline = None if one.patience is None else now + one.patience
                door.submit(one.request, deadline, partial(_put, replies, name))
            except PadrecError as error:
                replies.put((name, error))
        while leaving and leaving[0][0] <= time.monotonic():
            door.cancel(heapq.heappop(leaving)[1])
        try:
            name, outcome = replies.get(timeout=0.01 if leaving else 1.0)
        except queue.Empty:
            continue
        before = num_answered
        num_answered += _settle(
            done, on_their_way.pop(name, None), outcome, num_rows, num_sampled, num_requests
        )
        if 10 * num_answered // num_requests > 10 * before // num_requests:
            done.memory.append(watch())
        on_progress(num_answered, num_requests, "requests")
    done.seconds = time.monotonic() - started
    time.sleep(_SETTLE_SECONDS)
    done.num_twice += replies.qsize()
    return done


def _put(replies: "queue.SimpleQueue[tuple[str, Outcome]]", name: str, outcome: Outcome) -> None:
    replies.put((name, outcome))


def _settle(
    done: Soaked, asked: Asked | None, outcome: Outcome, num_rows: int, num_sampled: int, num_requests: int
) -> bool:
    """Note a reply; whether it was its request's first."""
    if asked is None:
        done.num_twice += 1
        return False
    kind = "refused" if isinstance(outcome, QueueFullError) else _OUTCOMES.get(type(outcome), "failed")
    done.outcomes[kind] += 1
    if isinstance(outcome, DecodedList):
        done.num_wrong += not _is_right(asked.request, outcome, num_rows)
        # The next one is due once its share of all replies has come before it, whatever they were.
        is_due = len(done.sample) * num_requests <= num_sampled * (done.outcomes.total() - 1)
        if is_due and asked.request.decoding == "list" and len(done.sample) < num_sampled:
            done.sample.append((asked.request, outcome))
    return True


def _is_right(request: DecodeRequest, written: DecodedList, num_rows: int) -> bool:
    rows, excluded = {item.row for item in written.items}, set(request.excluded)
    expected = min(request.num_items, num_rows - len(excluded))
    return len(written.items) == len(rows) == expected and not rows & excluded


def soak_figures(done: Soaked) -> dict[str, Any]:
    """The part of a row of `padrec bench soak` that needs neither the target nor the engine.

    Memory is compared after two tenths, when all there is to be taken is taken, and at the end.
    """
    row: dict[str, Any] = {
        "seconds": done.seconds,
        "requests_per_second": done.outcomes.total() / done.seconds,
        **{kind: done.outcomes[kind] for kind in ("written", "late", "cancelled", "refused", "failed")},
        "answered_twice": done.num_twice,
        "not_allowed": done.num_wrong,
    }
    early, late = done.memory[min(1, len(done.memory) - 1)], done.memory[-1]
    for name in late:
        row[f"{name}_early"], row[f"{name}_late"] = early[name], late[name]
    return row


def resident_bytes() -> int:
    """What this process holds of the machine's memory; where nobody says, the most that it ever did."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
