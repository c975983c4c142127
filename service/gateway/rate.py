"""How often a caller may ask: a token bucket.

Bound to one process, so N gateways allow N times as much. Written here, for the libraries count in windows, which let
twice as much through where two of them meet, or make callers wait; a bucket says at once when a retry makes sense.
"""

import time
from collections.abc import Callable

from service.errors import RateLimitError

# A caller that waited exactly as long as it was told must not fail by a rounding.
_TOLERANCE = 1e-6


class TokenBucket:
    """Holds up to `burst` requests and gets `per_second` new ones each second.

    Args:
        per_second: more than 0.
        burst: requests that may come at once, at least 1.
        clock: seconds that only rise.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._level = float(burst)
        self._filled_at = clock()

    def take(self, count: int = 1) -> None:
        """Take so many requests, or none.

        More than a full bucket holds are let through when it is full, and owed: the next ones wait for them.

        Raises:
            RateLimitError: there are not enough.
        """
        now = self._clock()
        self._level = min(self._burst, self._level + self._per_second * (now - self._filled_at))
        self._filled_at = now
        missing = min(count, self._burst) - self._level
        if missing > _TOLERANCE:
            raise RateLimitError(
                f"this API key may ask {self._per_second:g} times a second, {self._burst} at once",
                missing / self._per_second,
            )
        self._level -= count

    def give_back(self, count: int) -> None:
        """Undo a `take`."""
        self._level += count
