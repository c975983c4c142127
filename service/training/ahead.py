"""What a step needs, made while the step before it is being computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make` for steps in turn; in a thread of its own, the next one's is begun when one is asked for.

    A context manager; what is left is waited for at its end.

    Args:
        make: what a step needs, by its number alone; is not called twice at once.
        steps: how many there are.
        in_thread: else it is called where it is asked for.
        begin: called in the thread before all else.
    """

    def __init__(
        self,
        make: Callable[[int], T],
        steps: int,
        *,
        in_thread: bool = True,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._make, self._steps = make, steps
        self._begun: dict[int, Future[T]] = {}
        self._thread = ThreadPoolExecutor(1, "ahead", begin) if in_thread else None

    def __enter__(self) -> "Ahead[T]":
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def of(self, step: int) -> T:
        """What this step needs; what is raised in making it is raised here."""
        if self._thread is None:
            return self._make(step)
        made = (self._begun.pop(step, None) or self._thread.submit(self._make, step)).result()
        if step + 1 < self._steps:
            self._begun[step + 1] = self._thread.submit(self._make, step + 1)
        return made

    def settle(self) -> None:
        """Wait until nothing is being made, for what must not run beside it."""
        wait(self._begun.values())
