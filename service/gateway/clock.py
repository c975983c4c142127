"""The time that one request has."""

import time

from service.errors import DeadlineExceededError


class Clock:
    """Starts when it is made; `seconds` is the time for the whole answer."""

    def __init__(self, seconds: float) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds

    def elapsed(self) -> float:
        """Seconds used."""
        return time.perf_counter() - self._start

    def share(self, part: float) -> float:
        """Seconds that a part of what is left is; 0 where nothing is."""
        return part * max(0.0, self._seconds - self.elapsed())

    def remaining(self) -> float:
        """Seconds left, more than 0; raises `DeadlineExceededError` when there are none."""
        remaining = self._seconds - self.elapsed()
        if remaining <= 0:
            raise DeadlineExceededError("the deadline passed before the list was asked for")
        return remaining
