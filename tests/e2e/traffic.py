"""Callers that never stop, and what became of each of their calls. No test module."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from tests.callers import calling

PAUSE = 0.01  # seconds between two calls, so that a small machine has time for what they are to disturb


class Traffic:
    """Counts calls by their ends.

    Args:
        url: of the gateway.

    Attributes:
        sent: calls that have ended.
        ends: of them, by status, or `broken` for a connection that broke.
        faults: what must not happen, in words.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.sent = 0
        self.ends: Counter[int | str] = Counter()
        self.faults: list[str] = []
        self._over = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def running(self, *callers: Callable[[], None]) -> Iterator[None]:
        """These call until the block is over."""
        with calling(self._over, *callers):
            yield

    def ask(self) -> None:
        """A caller of lists that takes every answer for what it is."""
        body = {"user_id": "u", "history": ["1", "2"], "deadline_ms": 50_000}
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._over.wait(PAUSE):
                try:
                    answer = client.post("/recommend", json=body)
                except httpx.HTTPError:
                    self.ended("broken")
                    continue
                self.ended(answer.status_code)
                if (
                    answer.status_code == 200
                    and len({one["item_id"] for one in answer.json()["items"]}) != 10
                ):
                    self.faults.append(answer.text)
                if answer.status_code in (429, 503):
                    if "retry-after" not in answer.headers:
                        self.faults.append(answer.text)
                    time.sleep(0.1)

    def ended(self, end: int | str) -> None:
        with self._lock:
            self.sent += 1
            self.ends[end] += 1

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    @property
    def answered(self) -> int:
        return self.ends[200]

    def goes_on(self, service, count: int = 10) -> None:
        """Wait until so many more were answered."""
        before = self.answered
        service.wait_until(lambda: self.answered >= before + count)
