"""Callers beside a test. No test module."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def calling(over: threading.Event, *callers: Callable[[], None]) -> Iterator[None]:
    """These run until the block has ended and `over` is set."""
    threads = [threading.Thread(target=caller) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
