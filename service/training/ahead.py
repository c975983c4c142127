"""What a step needs, made while the step before it is being computed."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def made_ahead(make: Callable[[int], T], steps: int) -> Iterator[Callable[[int], T]]:
    """`make` for steps in turn, in a thread of its own: with what one step asked for, the next one's is begun.

    Args:
        make: what a step needs, by its number alone; is not called twice at once.
        steps: how many there are.
    """
    begun: dict[int, Future[T]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:

        def made(step: int) -> T:
            future = begun.pop(step, None) or thread.submit(make, step)
            result = future.result()
            if step + 1 < steps:
                begun[step + 1] = thread.submit(make, step + 1)
            return result

        yield made
