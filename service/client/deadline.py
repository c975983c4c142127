"""The time that one call has, with all its tries."""

from collections.abc import Callable, Iterator, Mapping

from service.client.errors import DeadlineError


class Deadline:
    """Starts when it is made.

    Args:
        seconds: for the whole call.
        clock: seconds that only rise.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._end = clock() + seconds
        self._clock = clock

    def allows(self, seconds: float) -> bool:
        """Whether something is left after so many seconds."""
        return seconds < self._end - self._clock()

    def rest(self) -> float:
        """Seconds left, more than 0; raises `DeadlineError` when there are none."""
        rest = self._end - self._clock()
        if rest <= 0:
            raise DeadlineError("the deadline passed")
        return rest

    def rest_ms(self) -> int:
        """Milliseconds left, at least 1; raises what `rest` raises."""
        return max(1, int(1000 * self.rest()))


class Timeouts(Mapping[str, float]):
    """What is left at the moment that httpx reads it.

    Its timeouts are for each thing that it does: connecting, sending, every wait for bytes. Given as numbers each
    of these might take the whole rest.
    """

    _SHORTEST = 0.001  # 0 would be no wait at all

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __getitem__(self, _name: str) -> float:
        return max(self._SHORTEST, self._deadline.rest())

    def __iter__(self) -> Iterator[str]:
        return iter(("connect", "read", "write", "pool"))

    def __len__(self) -> int:
        return 4
