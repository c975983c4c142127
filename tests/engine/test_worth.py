from itertools import count

import pytest

from service.engine import worth
from service.types import DecodeRequest


class TimedEngine:
    """Writes in no time, by a clock that says otherwise."""

    def __init__(self, clock: dict[str, float], *seconds: float) -> None:
        self.written: list[str] = []
        self._clock, self._seconds = clock, seconds
        self._calls = count()

    def write(self, requests: list[DecodeRequest]) -> None:
        self.written += [request.request_id for request in requests]
        self._clock["now"] += self._seconds[min(next(self._calls), len(self._seconds) - 1)]


def test_the_ratio_of_medians_after_a_first_time_that_counts_for_nothing(monkeypatch) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(worth.time, "perf_counter", lambda: clock["now"])
    drafting, alone = TimedEngine(clock, 50.0, 50.0, 1.0), TimedEngine(clock, 3.0)
    requests = [DecodeRequest(name, (0,), 1) for name in "ab"]
    assert worth.speed_up(drafting, alone, requests, repeats=2) == pytest.approx(3.0)
    assert drafting.written == alone.written == list("ababab")
