"""What a replica runs from its start to its end, beside the calls that it answers."""

import asyncio
from collections.abc import Callable, Coroutine


class Life:
    """A task that ends when it is told to, or fails.

    Args:
        work: what runs.
        on_end: called when it has ended, or failed.
    """

    def __init__(
        self, work: Coroutine[object, object, None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(lambda _: on_end())

    async def has_begun(self, begun: asyncio.Event) -> None:
        """Wait until it says so; raises what it failed with before that."""
        waiting = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait((waiting, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self.check()

    def check(self) -> None:
        """Raise unless it runs: what it failed with, if it failed."""
        if self._task.done():
            self._task.result()
            raise RuntimeError("it has ended")

    async def is_over(self) -> None:
        """Wait for its end, however it ends."""
        await asyncio.wait((self._task,))
