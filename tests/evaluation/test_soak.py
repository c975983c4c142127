"""A soak counts every reply, and sees what is amiss; here on doors that are."""

import itertools
from collections.abc import Callable

import pytest

from service.errors import CancelledByCallerError, DeadlineExceededError, PadrecError, QueueFullError
from service.evaluation.soak import Asked, mixed_requests, resident_bytes, soak, soak_figures
from service.types import DecodedItem, DecodedList, DecodeRequest

NUM_ROWS = 30


def written(request: DecodeRequest, rows: list[int]) -> DecodedList:
    items = tuple(DecodedItem(row, 0.5) for row in rows)
    return DecodedList(request.request_id, items, len(items) < request.num_items, 1, 0, 0.0, 0.0)


def right(request: DecodeRequest) -> DecodedList:
    free = [row for row in range(NUM_ROWS) if row not in request.excluded]
    return written(request, free[: request.num_items])


class Door:
    """Answers at once, as it is told to; one that is cancelled is not answered before."""

    def __init__(self, answers: Callable[[DecodeRequest], list[object]]) -> None:
        self.answers = answers
        self.waiting: dict[str, Callable[[object], None]] = {}

    def submit(self, request, deadline, reply) -> None:
        if deadline is not None:
            reply(DeadlineExceededError("late"))
            return
        answers = self.answers(request)
        if not answers:
            self.waiting[request.request_id] = reply
        for answer in answers:
            if isinstance(answer, QueueFullError):
                raise answer
            reply(answer)

    def cancel(self, request_id: str) -> None:
        if reply := self.waiting.pop(request_id, None):
            reply(CancelledByCallerError("gone"))


def run(answers: Callable[[DecodeRequest], list[object]], asked: list[Asked] | None = None):
    requests = asked or [
        Asked(DecodeRequest(str(i), (0,), num_items=3, excluded=(0, 0, i % NUM_ROWS)), None, None)
        for i in range(40)
    ]
    memory = itertools.count(100)
    return soak(
        iter(requests),
        Door(answers),
        num_requests=len(requests),
        concurrency=7,
        num_rows=NUM_ROWS,
        num_sampled=4,
        watch=lambda: {"host_bytes": next(memory)},
    )


def test_all_is_well() -> None:
    done = run(lambda request: [right(request)])
    row = soak_figures(done)
    assert (row["written"], row["answered_twice"], row["not_allowed"], row["failed"]) == (40, 0, 0, 0)
    assert (row["host_bytes_early"], row["host_bytes_late"]) == (101, 109)
    assert [request.request_id for request, _ in done.sample] == ["0", "10", "20", "30"]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([5, 6], id="too short"),
        pytest.param([5, 6, 7, 8], id="too long"),
        pytest.param([5, 6, 5], id="twice the same"),
        pytest.param([0, 5, 6], id="excluded"),
    ],
)
def test_a_wrong_list_is_seen(rows: list[int]) -> None:
    done = run(lambda request: [written(request, rows) if request.request_id == "2" else right(request)])
    assert done.num_wrong == 1


def test_a_list_may_be_short_where_nothing_is_left() -> None:
    request = DecodeRequest("0", (0,), num_items=3, excluded=tuple(range(NUM_ROWS - 1)))
    assert run(lambda asked: [right(asked)], [Asked(request, None, None)]).num_wrong == 0


def test_replies_that_are_no_lists_and_those_that_come_twice() -> None:
    def answers(request: DecodeRequest) -> list[object]:
        match int(request.request_id) % 4:
            case 0:
                return [QueueFullError("full")]
            case 1:
                return [PadrecError("broken")]
            case 2:
                return [right(request), right(request)]
            case _:
                return []

    asked = [
        Asked(DecodeRequest(str(i), (0,), num_items=3), patience, 0.001 if i % 4 == 3 else None)
        for i, patience in enumerate([None] * 20 + [0.5] * 4)
    ]
    done = run(answers, asked)
    assert done.outcomes == {"refused": 5, "failed": 5, "written": 5, "cancelled": 5, "late": 4}
    assert done.num_twice == 5


def test_mixed_requests_are_all_of_it_and_the_same_for_a_seed() -> None:
    def some(seed: int) -> list[Asked]:
        mixed = mixed_requests(
            [[1, 2, 3], [4] * 40], num_rows=NUM_ROWS, max_history_items=10, max_num_items=20, seed=seed
        )
        return list(itertools.islice(mixed, 400))

    asked = some(0)
    assert asked == some(0) != some(1)
    requests = [one.request for one in asked]
    assert len({request.request_id for request in requests}) == len(requests)
    assert all(1 <= len(request.history) <= 10 and 1 <= request.num_items <= 20 for request in requests)
    assert any(len(request.excluded) > NUM_ROWS // 2 for request in requests)
    assert {request.temperature > 0 for request in requests} == {True, False}
    assert {request.priority for request in requests} == {-1, 0, 1}
    assert any(one.patience is not None for one in asked)
    assert any(one.leaves_after is not None for one in asked)


def test_memory_is_known() -> None:
    assert resident_bytes() > 1 << 20
