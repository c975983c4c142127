"""What a scheduler does with more than can be served, on a clock of its own: the engine is a model of one."""

import random
from collections import Counter

import pytest

from service.errors import DeadlineExceededError, PadrecError, QueueFullError
from service.types import DecodedList, DecodeRequest
from service.worker.scheduler import Scheduler

SECONDS = 40
DEADLINE = 1.0
# What this engine writes of lists of 5 to 20 items when 32 are written at a time, about 50 in a second.
CAPACITY = 50
_ROUND_SECONDS, _SECONDS_PER_LIST = 0.004, 0.001
_ROUNDS_PER_ITEM = 1.5


def outcomes(rate: float, max_batch: int = 32, sizes: tuple[int, ...] = (5, 10, 10, 10, 20)) -> Counter[str]:
    """Of requests that arrive at this rate, whatever becomes of those before: `written`, `late` or `refused`."""
    rng, counted, now = random.Random(0), Counter[str](), 0.0
    clock = {"now": 0.0}
    scheduler = Scheduler(max_waiting=256, clock=lambda: clock["now"])
    arrivals = []
    while now < SECONDS:
        now += rng.expovariate(rate)
        arrivals.append((now, rng.choice(sizes)))
    arrivals.reverse()
    rounds_left: dict[str, float] = {}

    def reply(outcome: DecodedList | PadrecError) -> None:
        kinds = {DeadlineExceededError: "late", QueueFullError: "refused"}
        counted[kinds.get(type(outcome), "written")] += 1

    while arrivals or scheduler.num_waiting or rounds_left:
        if not rounds_left and not scheduler.num_waiting:
            clock["now"] = max(clock["now"], arrivals[-1][0])
        round_end = clock["now"]
        while arrivals and arrivals[-1][0] <= round_end:
            clock["now"], num_items = arrivals.pop()
            try:
                request = DecodeRequest(str(len(arrivals)), (0,), num_items)
                # Of the callers' time some was spent on the way, more or less.
                scheduler.submit(request, clock["now"] + DEADLINE - rng.uniform(0.0, 0.2), reply)
            except QueueFullError:
                counted["refused"] += 1
        clock["now"] = round_end
        for name in scheduler.drop_unwanted():
            del rounds_left[name]
        for request, _ in scheduler.admit(max_batch - len(rounds_left)):
            rounds_left[request.request_id] = request.num_items * _ROUNDS_PER_ITEM * rng.uniform(0.7, 1.3)
        clock["now"] += _ROUND_SECONDS + _SECONDS_PER_LIST * len(rounds_left)
        for name in list(rounds_left):
            rounds_left[name] -= 1
            if rounds_left[name] <= 0:
                del rounds_left[name]
                scheduler.finish(DecodedList(name, (), False, 1, 0, 0.0, 0.0))
    return counted


def test_with_room_all_are_written() -> None:
    counted = outcomes(rate=0.6 * CAPACITY)
    assert set(counted) == {"written"}


@pytest.mark.parametrize("max_batch", [8, 32])
@pytest.mark.parametrize("times", [1.5, 2, 3])
def test_beyond_capacity_as_much_is_written_and_the_rest_refused(times: float, max_batch: int) -> None:
    near = outcomes(0.9 * CAPACITY, max_batch)
    counted = outcomes(times * CAPACITY, max_batch)
    assert counted["written"] > 0.9 * near["written"]
    assert counted["late"] < 0.05 * counted.total()
    assert counted["refused"] > counted["late"]


def test_lists_of_very_different_length_are_not_refused_while_there_is_room() -> None:
    counted = outcomes(rate=0.3 * CAPACITY, sizes=(1, 1, 1, 5, 20))
    assert set(counted) == {"written"}
